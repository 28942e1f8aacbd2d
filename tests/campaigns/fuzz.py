"""Coverage-guided fuzzing of ``targets.py`` with Atheris (extra ``fuzz``: Linux, Python 3.11 to 3.13).

    python tests/campaigns/fuzz.py store-index --seconds 300
    python tests/campaigns/fuzz.py manifests --seconds 300

Begins with the corpus in ``tests/fixtures/fuzz`` and adds what reached new code. An input that fails ends the run and
is written there as ``crash-…``: mend the code and leave it, the tests replay every file.
"""

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["jepakit", "numpy.lib"]):
    sys.path.insert(0, str(Path(__file__).parent))
    from targets import TARGETS

CORPUS = Path(__file__).parent.parent / "fixtures" / "fuzz"
LONGEST = 8192  # bytes of one input


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="10 seconds")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where it is kept [tests/fixtures/fuzz]")
    options = parser.parse_args()
    target, kept = TARGETS[options.target](), options.corpus / options.target
    kept.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (kept / f"seed-{number}").write_bytes(seed)
    seconds = 10 if options.quick else options.seconds
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        "-timeout=10",
        "-len_control=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={kept}/", str(kept)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

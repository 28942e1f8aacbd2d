"""Damage the files of every reader in every way of ``damage.py`` and say what the reader made of it.

Each reader has a process of its own, so that a crash, a hang or a huge allocation is one case's failure:

    python tests/campaigns/damaged_files.py                    # 5,000 cases for each reader
    python tests/campaigns/damaged_files.py --quick            # 200
    python tests/campaigns/damaged_files.py hdf5 --cases 300   # one of them

Outcomes: ``refused`` with an error of ours that names the file, ``right`` data all the same, ``unnoticed`` other data
where the format has no checksum. Anything else is a failure, printed with its case; the exit code is their number.
"""

import argparse
import hashlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from damage import KINDS, damaged
from subjects import SUBJECTS

CASES, QUICK = 5000, 200
SECONDS_PER_CASE = 20
MOST_MEMORY = 12 << 30  # of address space; libraries reserve some of it
FINE = ("refused", "right", "unnoticed")


def digest(content):
    """One text for everything that was read."""
    hashed = hashlib.sha256()
    for name, value in sorted(content.items()):
        if isinstance(value, np.ndarray):
            hashed.update(f"{name} {value.dtype} {value.shape}".encode())
            value = np.ascontiguousarray(value).tobytes()
        hashed.update(name.encode() + (value.encode() if isinstance(value, str) else value))
    return hashed.hexdigest()


def judge(subject, folder, file, expected):
    """The outcome of reading the folder after ``file`` was damaged, and what was said."""
    from jepakit.datamodules.readers import BadEpisode

    try:
        found = digest(subject.read(folder))
    except (ValueError, FileNotFoundError) as error:
        ours = type(error) in (ValueError, FileNotFoundError, BadEpisode)
        named = str(folder) in str(error)
        return ("refused" if ours and named else "not named"), f"{type(error).__name__}: {error}"
    except Exception as error:  # whatever a library raised: that is the finding
        return "unhandled", f"{type(error).__name__}: {error}"
    if found == expected:
        return "right", ""
    return ("unnoticed" if subject.unprotected(file) else "wrong data"), ""


def work(name, folder, cases):
    """Judge all cases of one reader; a line before each of them and one after it."""
    subject = SUBJECTS[name]
    subject.make(folder)
    originals = {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    files = [file for file, content in originals.items() if content]
    expected = digest(subject.read(folder))
    assert digest(subject.read(folder)) == expected
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    judged = 0
    for case in itertools.count():
        if judged == cases:
            break
        rng = np.random.default_rng([case, len(name)])
        file, kind = files[case // len(KINDS) % len(files)], KINDS[case % len(KINDS)]
        content, done = damaged(originals[file], kind, rng)
        if content == originals[file]:
            continue
        judged += 1
        print(json.dumps({"case": case, "file": file, "damage": done}), flush=True)
        (folder / file).write_bytes(content)
        signal.alarm(SECONDS_PER_CASE)  # the signal ends the process, also inside a library
        outcome, said = judge(subject, folder, file, expected)
        signal.alarm(0)
        (folder / file).write_bytes(originals[file])
        print(json.dumps({"outcome": outcome, "said": said[:400]}), flush=True)


def examine(name, cases):
    """Run one reader's process: counts of outcomes, and a line for each failure."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, name, "--cases", str(cases), "--worker", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LANCE_LOG": "error"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    begun, ended = lines[::2], lines[1::2]
    counts = Counter(line["outcome"] for line in ended)
    failures = [
        f"{name}: {json.dumps(case)}: {end['outcome']}: {end['said']}"
        for case, end in zip(begun, ended, strict=False)
        if end["outcome"] not in FINE
    ]
    if done.returncode:
        why = "hung" if done.returncode == -signal.SIGALRM else f"ended with {done.returncode}"
        last = json.dumps(begun[-1]) if len(begun) > len(ended) else "outside of a case"
        failures.append(f"{name}: {last}: the process {why}\n{done.stderr[-2000:]}")
    return counts, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", metavar="READER", help=f"of {', '.join(SUBJECTS)} [all]")
    parser.add_argument("--cases", type=int, default=CASES, help="for each reader [%(default)s]")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} cases")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.subjects[0], options.worker, options.cases)
        return 0
    failed = 0
    for name in options.subjects or SUBJECTS:
        counts, failures = examine(name, QUICK if options.quick else options.cases)
        figures = ", ".join(f"{outcome} {counts[outcome]}" for outcome in FINE)
        print(f"{name:<22} {sum(counts.values()):>5} cases: {figures}, failures {len(failures)}", flush=True)
        print("".join(f"  {failure}\n" for failure in failures), end="", flush=True)
        failed += len(failures)
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())

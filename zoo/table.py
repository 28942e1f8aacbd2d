"""The table of shipped weights in a Markdown file, made of what lies beside each of them.

python -m jepakit.zoo.table README.md           # writes it between the two marks
python -m jepakit.zoo.table README.md --check   # exit code 1 if it would change
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jepakit.hub import BUILTIN, builtin_names
from jepakit.results import describe_goals, read_evaluation, read_training
from jepakit.zoo.card import planner_title
from jepakit.zoo.publish import EVALUATION_FILE
from jepakit.zoo.weights import TRAINING_FILE, read_checkpoint

BEGIN, END = "<!-- shipped weights: make zoo-table -->", "<!-- end of shipped weights -->"
_HEAD = ("weights", "parameters", "trained on", "steps", "planner", "ms", "success", "95 % interval", "random", "tasks")


def zoo_table() -> str:
    """Return a Markdown table of all shipped weights that were evaluated: world models, not their controllers."""
    evaluated = [name for name in builtin_names() if (BUILTIN / name / EVALUATION_FILE).is_file()]
    rows = [_HEAD, tuple("---" for _ in _HEAD), *map(_row, evaluated)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def with_table(text: str) -> str:
    """Return ``text`` with the table between the marks; ``ValueError`` if it does not have each of them once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"found no place for the table, expected the lines {BEGIN!r} and {END!r}, once each, in order")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{zoo_table()}\n{END}{rest.split(END)[1]}"


def _row(name: str) -> tuple[str, ...]:
    folder = BUILTIN / name
    checkpoint = read_checkpoint(folder)
    training, found = read_training(folder / TRAINING_FILE), read_evaluation(folder / EVALUATION_FILE)
    mine, tasks = found["policies"][checkpoint.name], found["tasks"]
    low, high = mine["interval95"]
    timed = mine["latency_ms"]
    return (
        f"`builtin:{name}`",
        f"{sum(tensor.numel() for tensor in checkpoint.tensors.values()) / 1e6:.2g} M",
        f"{training['data']['name']}, {training['data']['episodes']} episodes",
        str(training["steps"]),
        planner_title(mine.get("settings", {})),
        f"{timed['p50']:.3g}" if timed else "–",
        f"{mine['rate']:.1%}",
        f"{low:.1%} – {high:.1%}",
        f"{found['policies']['random']['rate']:.1%}",
        f"{tasks['count']}, {describe_goals(tasks)}",
    )


def main() -> int:
    """Write or check the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if the table is stale")
    options = parser.parse_args()
    text = options.file.read_text(encoding="utf-8")
    fresh = with_table(text)
    if options.check:
        if fresh != text:
            print(f"{options.file}: the table of shipped weights is stale; run `make zoo-table`")
        return int(fresh != text)
    options.file.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""How long the command line and the bare import take, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import median, seconds, start

CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import jepakit": [sys.executable, "-c", "import jepakit"],
    "import jepakit.planning": [sys.executable, "-c", "import jepakit.planning"],
    "lightning --help": [str(Path(sys.executable).with_name("lightning")), "--help"],
    "lightning fit --help": [str(Path(sys.executable).with_name("lightning")), "fit", "--help"],
}


def main() -> None:
    bench = start("startup", __doc__)
    medians = {}
    for name, command in CASES.items():
        repeats = 3 if bench.quick else 9
        times = seconds(
            lambda command=command: subprocess.run(command, capture_output=True, check=True), repeats=repeats
        )
        medians[name] = median(times)
        bench.row(case=name, median_s=medians[name], min_s=min(times), max_s=max(times))
    bench.ratio("lightning --help / bare python", medians["lightning --help"] / medians["python -c pass"])
    bench.finish()


if __name__ == "__main__":
    main()

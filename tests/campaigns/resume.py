"""Kill a training again and again, restart it with the same command, and compare its end with an undisturbed one.

Every attempt is a child that kills itself with SIGKILL: at a file operation of data generation, at one of a checkpoint
or somewhere inside its writing, at the end of an epoch, or at any instant of a training step. Which, and when, is
drawn. At the end weights, optimiser and data must equal those of a training that was never killed, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from jepakit import cli
from jepakit.zoo.module import TrainingModule

CONFIGS = Path(__file__).parent.parent.parent / "configs"
FILE_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove"}
SMALL = {  # a model for the quick campaign; the other is nano
    **{"cnn_channels": [4, 8, 8], "latent_dim": 8, "projector_hidden": 16, "action_hidden": 16, "predictor_width": 16},
    **{"predictor_depth": 1, "predictor_heads": 2, "predictor_head_dim": 8, "predictor_mlp": 16, "directions": 16},
}


@dataclass(frozen=True, kw_only=True)
class Blow:
    """Die at the ``count``-th event of a ``kind``, ``delay`` seconds later."""

    kind: str
    count: int
    delay: float = 0.0


def draw(kills: int, rng: random.Random, *, longest_delay: float) -> list[Blow]:
    """Some blows to the generation of data, then all kinds to the training, in random order."""
    early = [Blow(kind="data", count=rng.randint(1, 12)) for _ in range(max(1, kills // 6))]
    kinds = [("step", "epoch", "checkpoint", "write")[i % 4] for i in range(kills - len(early))]
    rng.shuffle(kinds)
    return early + [draw_one(kind, rng, longest_delay) for kind in kinds]


def draw_one(kind: str, rng: random.Random, longest_delay: float) -> Blow:
    if kind == "step":
        return Blow(kind=kind, count=rng.randint(2, 6), delay=rng.uniform(0.0, longest_delay))
    if kind == "write":
        return Blow(kind=kind, count=rng.randint(1, 3), delay=rng.uniform(0.0, 0.006))
    return Blow(kind=kind, count=rng.randint(1, 3 if kind == "epoch" else 8))


class Killer:
    """Counts events in this process and ends it at the one that a blow names."""

    def __init__(self, blow: Blow) -> None:
        self.blow = blow
        self.seen = 0

    def install(self) -> None:
        sys.addaudithook(self.audit)
        for hook in ("on_train_epoch_end", "on_validation_start", "on_validation_end"):
            setattr(TrainingModule, hook, lambda module: self.happened("epoch"))
        TrainingModule.on_train_batch_start = lambda module, batch, index: self.happened("step")  # type: ignore[assignment]

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in FILE_EVENTS:
            return
        path = str(arguments[0])
        if "/data/" in path:
            self.happened("data")
        if "/checkpoints/" in path:
            self.happened("checkpoint")
            if event == "open" and ".partial-" in path:
                self.happened("write")

    def happened(self, kind: str) -> None:
        if kind != self.blow.kind:
            return
        self.seen += 1
        if self.seen == self.blow.count:
            if not self.blow.delay:
                die()
            threading.Thread(target=lambda: (time.sleep(self.blow.delay), die()), daemon=True).start()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def attempt(command: list[str], log: Path, blow: Blow | None) -> int:
    """Run the command in a child; returns its exit code, -9 if it was killed."""
    child = os.fork()
    if child == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if blow is not None:
            Killer(blow).install()
        code = cli.main(command)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(root: Path, steps: int, *, quick: bool) -> list[str]:
    """A training of which every eighth step is in a checkpoint and every twelfth ends an epoch."""
    data = {"root": str(root / "data"), "episodes": 60, "steps": 26 if quick else 40, "workers": 1}
    flags = {
        "data.generate": json.dumps({**data, "frames": "raw"}),
        "data.image_size": 16 if quick else 64,
        "data.batch_size": 16,
        "trainer.max_steps": steps,
        "trainer.limit_train_batches": 12,
        "trainer.limit_val_batches": 2,
        "trainer.log_every_n_steps": 5,
        "trainer.enable_model_summary": "false",
        "trainer.callbacks": "[]",
        "trainer.logger.init_args": json.dumps({"save_dir": str(root / "runs"), "name": "run"}),
        "checkpoint.every_n_train_steps": 4,
        **({f"model.config.{key}": json.dumps(value) for key, value in SMALL.items()} if quick else {}),
    }
    files = [part for name in ("lewm", "size/nano", "data/tworoom") for part in ("-c", str(CONFIGS / f"{name}.yaml"))]
    return ["fit", *files, *(f"--{key}={value}" for key, value in flags.items()), "--ckpt_path=last"]


def campaign(root: Path, blows: list[Blow], steps: int, *, quick: bool) -> Counter[str]:
    """Kill and restart until the training is done; returns how often it was killed where."""
    counts: Counter[str] = Counter()
    line = command(root, steps, quick=quick)
    for number, blow in enumerate([*blows, None]):
        code = attempt(line, root / "log.txt", blow)
        if code == 0:
            counts["restarts until done"] = number
            return counts
        if code != -signal.SIGKILL or blow is None:
            raise SystemExit(f"exit code {code}, see {root / 'log.txt'}:\n{(root / 'log.txt').read_text()[-3000:]}")
        counts[f"killed: {blow.kind}"] += 1
        partial = [file for file in root.glob("runs/**/.partial-*") if not zipfile.is_zipfile(file)]
        counts["found cut short, never chosen"] += len(partial)
        broken = [file for file in root.glob("runs/**/*.ckpt") if not zipfile.is_zipfile(file)]
        assert not broken, broken
    raise AssertionError("unreachable")


def differences(one: Path, other: Path) -> list[str]:
    """Names of what differs between the ends of two runs."""
    runs = [root / "runs" / "run" / "version_0" for root in (one, other)]
    weights = [load_file(run / "weights" / "model.safetensors") for run in runs]
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=False) for run in runs]
    moments = [state["optimizer_states"][0]["state"] for state in states]
    found = [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])]
    found += [
        f"optimiser {index} {name}"
        for index, values in moments[0].items()
        for name, value in values.items()
        if not torch.equal(value, moments[1][index][name])
    ]
    data = [
        {
            str(file.relative_to(root / "data")): file.read_bytes()
            for file in (root / "data").rglob("*")
            if file.is_file()
        }
        for root in (one, other)
    ]
    return found + ([] if data[0] == data[1] else ["data"]) + ([] if len(moments[0]) else ["no optimiser state"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model and few kills")
    parser.add_argument("--kills", type=int, help="how many (default: 28, quick: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a forked child would wait forever for its parent's threads
    kills = options.kills or (4 if options.quick else 28)
    steps = 48 if options.quick else 120
    longest_delay = 0.02 if options.quick else 0.2  # a few steps: far less than what is left of the training
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder) / "killed", Path(folder) / "whole"
        for root in (killed, whole):
            root.mkdir()
        if cli.main(command(whole, steps, quick=options.quick)):  # here, so that no child need load what it needs
            raise SystemExit("the undisturbed training failed")
        counts = campaign(
            killed, draw(kills, random.Random(options.seed), longest_delay=longest_delay), steps, quick=options.quick
        )
        different = differences(killed, whole)
    result = {**counts, "kills": sum(n for name, n in counts.items() if name.startswith("killed")), "steps": steps}
    for name, count in result.items():
        print(f"{name}: {count}")
    print(f"different at the end: {different or 'nothing'}")
    if options.json is not None:
        options.json.write_text(json.dumps({**result, "different": different}, indent=1) + "\n")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()

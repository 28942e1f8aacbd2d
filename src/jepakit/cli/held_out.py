"""Were the episodes that weights are judged on kept from their training? Compares a training's record with the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepakit.datamodules.base import EpisodeDataModule
from jepakit.datamodules.collect import SAME_EPISODES
from jepakit.hub import resolve
from jepakit.results import read_training
from jepakit.zoo.weights import TRAINING_FILE


def describe_data(data: EpisodeDataModule) -> dict[str, Any]:
    """What a training's record says of its data; ``generated`` are the settings of data that were made, not given.

    ``data`` must be set up.
    """
    return {
        "name": type(data).__name__,
        "episodes": len(data.parts["train"]),
        "fingerprint": data.source.fingerprint,
        "split": data.split_settings,
        "generated": asdict(data.collection) if data.data is None and data.env is not None else None,
    }


def check_held_out(weights: Sequence[str], data: EpisodeDataModule) -> str:
    """``yes`` if the test episodes of ``data`` were kept from the training of all weights, else why it is not known.

    Weights are folders, Hub ids or the file of a readout. Raises ``ValueError`` if episodes that some of them were
    trained on are among the test episodes. ``data`` must be set up.
    """
    here = describe_data(data)
    doubts = [f"{name}: {doubt}" for name in weights if (doubt := _doubt(name, here))]
    return f"not known ({'; '.join(doubts)})" if doubts else "yes"


def _doubt(weights: str, here: dict[str, Any]) -> str | None:
    if Path(weights).is_file():
        return "which episodes it was fitted on is not recorded"
    file = resolve(weights, [TRAINING_FILE]) / TRAINING_FILE
    if not file.is_file():
        return f"no {TRAINING_FILE} beside the weights"
    trained = read_training(file)["data"]
    if trained["fingerprint"] == here["fingerprint"]:
        if "split" not in trained:
            return "the training's record does not say how its data were split"
        if trained["split"] != here["split"]:
            raise ValueError(
                f"{file}: test episodes were seen in training, because these are its data with another split: found "
                f"{here['split']}, expected {trained['split']}; set data.seed, val_share and test_share"
            )
        return None
    ours, theirs = here["generated"], trained.get("generated")
    if ours and theirs and all(ours[name] == theirs[name] for name in SAME_EPISODES):
        raise ValueError(
            f"{file}: test episodes were seen in training, because its {theirs['episodes']} episodes and the "
            f"{ours['episodes']} of these data begin with the same ones; set data.generate to episodes "
            f"{theirs['episodes']}, steps {theirs['steps']} and frames {theirs['frames']}, or to another seed"
        )
    return f"trained on other data, {trained['name']} {trained['fingerprint'][:12]}"

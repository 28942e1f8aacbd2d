"""C-JEPA's sizes, masks and object encoders as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jepakit.zoo.base import WorldModelConfig
from jepakit.zoo.config import at_least

MOST_SLOTS = 12  # matching walks through all subsets of the slots


@dataclass(frozen=True, kw_only=True)
class CJEPAConfig(WorldModelConfig):
    """C-JEPA as its authors train it on Push-T; ``nano()`` is for a CPU.

    ``encoder`` says where slots come from. ``slot_attention`` finds them in the frames: it is trained for the first
    ``encoder_steps`` steps and frozen then; ``slot_merging`` is the weight of what makes it give up slots that share an
    object, ``slot_motion`` that of what moves among all pixels, and with ``slots_seen`` a slot is what is seen where it
    looks, so that a goal's slots can be reached; without, it is what Slot Attention carries, which finds objects better
    and drifts (docs/results/slots.md). ``oracle`` takes true states: ``oracle_objects`` lists, for every slot, the
    columns of ``state`` that describe its object, ``oracle_angles`` which columns are angles in radians. ``features``
    takes slots extracted elsewhere, (``slots``, ``slot_dim``) per frame.

    In training ``mask_count`` (fewest, most) slots are hidden, drawn anew at every step for every sample or for the
    batch; (0, 0) is OC-JEPA. ``short_share`` of the steps see a history of a random length below ``history``, so that
    planning can start from a single frame. ``future`` frames are predicted at once.

    ``conditioning`` makes the action and proprioception of a frame tokens of their own (``nodes``) or part of each of
    its slots (``concatenated``). ``rematch`` lets every imagined frame take the order of slots of the one before.
    """

    encoder: Literal["slot_attention", "oracle", "features"] = "slot_attention"
    slots: int = 4
    slot_dim: int = 128
    encoder_steps: int = at_least(0, default=10_000)
    slot_channels: int = 32
    slot_hidden: int = 128
    slot_iterations: int = 3
    slot_merging: float = 0.1
    slot_motion: float = 0.0
    slots_seen: bool = False
    oracle_objects: tuple[tuple[int, ...], ...] = ()
    oracle_angles: tuple[int, ...] = ()

    future: int = 1
    proprio_dim: int = at_least(0, default=0)
    conditioning: Literal["nodes", "concatenated"] = "nodes"
    mask_count: tuple[int, int] = (0, 1)
    mask_per: Literal["sample", "batch"] = "sample"
    short_share: float = 0.25
    rematch: bool = True
    seed: int = at_least(0, default=0)

    predictor_depth: int = 6
    predictor_heads: int = 16
    predictor_head_dim: int = 8
    predictor_mlp: int = 2048
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots > MOST_SLOTS:
            raise ValueError(f"slots: found {self.slots}, expected at most {MOST_SLOTS}, the most that can be matched")
        low, high = self.mask_count
        if not 0 <= low <= high < self.slots:
            raise ValueError(
                f"mask_count: found {list(self.mask_count)}, expected 0 <= fewest <= most < slots, {self.slots}: at "
                "least one slot must stay visible; mask fewer or add slots"
            )
        for name, top in (
            ("dropout", self.dropout),
            ("short_share", self.short_share),
            ("slot_merging", self.slot_merging),
        ):
            if not 0.0 <= top < 1.0:
                raise ValueError(f"{name}: found {top}, expected 0 <= {name} < 1")
        if self.slot_motion < 0.0:
            raise ValueError(f"slot_motion: found {self.slot_motion}, expected at least 0")
        if self.encoder == "oracle":
            self._check_oracle()

    def _check_oracle(self) -> None:
        objects = self.oracle_objects
        if len(objects) != self.slots or not all(objects):
            raise ValueError(
                f"oracle_objects: found {len(objects)} objects of {[len(columns) for columns in objects]} columns, "
                f"expected {self.slots}, as many as slots, each with the columns of 'state' that describe it"
            )
        if min(min(columns) for columns in objects) < 0:
            raise ValueError("oracle_objects: found a negative column, expected columns of 'state' from 0 on")
        kinds: dict[int, list[bool]] = {}
        for index, columns in enumerate(objects):
            angles = [column in self.oracle_angles for column in columns]
            if kinds.setdefault(len(columns), angles) != angles:
                raise ValueError(
                    f"oracle_angles: object {index} has its angles in other places than the objects before it with "
                    f"{len(columns)} columns, which share its projection; order the columns alike"
                )

    @property
    def predictions(self) -> int:
        """Frames of a window after the history: ``future``."""
        return self.future

    @property
    def pretrain_steps(self) -> int:
        """Steps that train Slot Attention alone."""
        return self.encoder_steps if self.encoder == "slot_attention" else 0

    @classmethod
    def nano(cls) -> CJEPAConfig:
        """Return the size for 64-pixel frames that trains on a CPU: a predictor of 0.2 M parameters."""
        return cls(
            image_size=64,
            slot_dim=64,
            encoder_steps=2000,
            slot_motion=1.0,
            slots_seen=True,
            predictor_depth=3,
            predictor_heads=4,
            predictor_head_dim=16,
            predictor_mlp=256,
        )

"""Where slots come from: found in the frames, true states, or extracted elsewhere.

Shape letters: B batch, T frames, O object slots, D slot width, K columns of a state, h, w picture size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from jepakit.zoo.cjepa.config import CJEPAConfig
from jepakit.zoo.cjepa.oracle import OracleEncoder
from jepakit.zoo.encoder_weights import require_same
from jepakit.zoo.files import load_strict
from jepakit.zoo.layers.slot_attention import SlotAutoencoder
from jepakit.zoo.trainable import Losses
from jepakit.zoo.weights import read_checkpoint

_READS = {"slot_attention": "pixels", "oracle": "state", "features": "features"}


class ObjectEncoder(nn.Module):
    """The object encoder that ``config.encoder`` names, which encodes an observation's key ``reads``.

    Once it is ``trained``, which its weights remember, it is frozen.
    """

    trained: Tensor

    def __init__(self, config: CJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.state_columns = 1 + max((max(columns) for columns in config.oracle_objects), default=0)
        self.reads = _READS[config.encoder]
        self.register_buffer("trained", torch.tensor(config.encoder != "slot_attention"))
        self.slots: nn.Module = nn.Identity()
        if config.encoder == "slot_attention":
            self.slots = SlotAutoencoder(
                image_size=config.image_size,
                slots=config.slots,
                slot_dim=config.slot_dim,
                channels=config.slot_channels,
                hidden=config.slot_hidden,
                iterations=config.slot_iterations,
                seen=config.slots_seen,
            )
        elif config.encoder == "oracle":
            self.slots = OracleEncoder(
                config.oracle_objects, angles=config.oracle_angles, slot_dim=config.slot_dim, seed=config.seed
            )

    def forward(self, given: Tensor) -> Tensor:
        """Slots (B, T, O, D) of normalised frames (B, T, 3, h, w), of states (B, T, K), or of slots, which pass."""
        slots: Tensor = self.slots.encode(given) if isinstance(self.slots, SlotAutoencoder) else self.slots(given)
        return slots

    @torch.no_grad()
    def frozen(self, given: Tensor) -> Tensor:
        """As ``forward``, without gradients."""
        slots: Tensor = self(given)
        return slots

    def check(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Return an observation's ``state`` or ``features``, or raise ``ValueError`` saying what is wrong with them."""
        if self.reads not in observation:
            raise ValueError(
                f"observation: found keys {sorted(observation)}, expected {self.reads!r}, which the object encoder "
                f"{self.config.encoder!r} reads; models that see frames alone need the encoder 'slot_attention'"
            )
        given = observation[self.reads]
        self.check_row(tuple(given.shape[2:]), where=f"observation of shape {tuple(given.shape)}")
        if self.reads == "features" and not given.is_floating_point():
            raise ValueError(f"features: found {given.dtype}, expected floating-point slots; extract them again")
        return given

    def check_row(self, row: tuple[int, ...], *, where: str) -> None:
        """Raise ``ValueError`` unless ``row`` is the shape of one frame's ``state`` or ``features``."""
        config = self.config
        if config.encoder == "oracle" and not (len(row) == 1 and row[0] >= self.state_columns):
            raise ValueError(
                f"{where}: found 'state' of {row} per frame, oracle_objects names columns up to "
                f"{self.state_columns - 1}; set it as the data's states are laid out"
            )
        if config.encoder == "features" and row != (config.slots, config.slot_dim):
            raise ValueError(
                f"{where}: found 'features' of {row} per frame, expected {(config.slots, config.slot_dim)}; set slots "
                "and slot_dim in the model's config"
            )

    def losses(self, frames: Tensor, step: int) -> Losses:
        """What trains Slot Attention on normalised frames (B, T, 3, h, w): their reconstruction.

        Slots that share an object are made to merge for a while, once they have found something and before masks are
        to be exact: ``config.slot_merging`` rises from 1/6 to 1/3 of the steps and falls to 0 from 1/2 to 3/4. In
        evaluation there is no such term.
        """
        assert isinstance(self.slots, SlotAutoencoder)
        done = step / max(1, self.config.pretrain_steps)
        rise, fall = 6 * done - 1, 3 - 4 * done
        share = min(1.0, max(0.0, min(rise, fall))) if self.training else 0.0
        found = self.slots.losses(frames, merging=share * self.config.slot_merging, motion=self.config.slot_motion)
        outputs = {
            "latents": found.outputs["slots"],
            **{name: found.outputs[name] for name in ("reconstruction", "masks")},
        }
        return Losses(total=found.total, terms=found.terms, outputs=outputs)

    def step_done(self, step: int) -> None:
        """Freeze the encoder after its last step."""
        if 0 < self.config.pretrain_steps <= step and not self.trained:
            self.trained.fill_(True)

    def load(self, source: str | Path) -> None:
        """Take the weights from a trained C-JEPA, a folder or Hub id; it is then trained.

        Raises ``ValueError`` for a model of another family or with another encoder, naming the config's fields to set.
        """
        checkpoint = read_checkpoint(source)
        prefix = "objects."
        tensors = {
            name.removeprefix(prefix): value for name, value in checkpoint.tensors.items() if name.startswith(prefix)
        }
        if not tensors.get("trained", False) or getattr(checkpoint.config, "encoder", None) != self.config.encoder:
            raise ValueError(
                f"{checkpoint.source}: found a {checkpoint.name} without a trained object encoder "
                f"{self.config.encoder!r}; expected the folder of a trained C-JEPA"
            )
        # Shapes say the rest.
        same = {name: getattr(checkpoint.config, name) for name in ("slot_iterations", "slots_seen")}
        require_same(checkpoint.source, same, self.config)
        load_strict(self, tensors, source=checkpoint.source)

    def require_trained(self) -> None:
        """Raise ``ValueError`` where the encoder is neither trained nor going to be."""
        if not self.trained and not self.config.pretrain_steps:
            raise ValueError(
                "encoder_steps: found 0 without encoder_weights, expected steps that train the object encoder, or the "
                "folder of a trained C-JEPA in encoder_weights"
            )

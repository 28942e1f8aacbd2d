"""C-JEPA (arXiv 2602.11389): objects as latents, predicted from each other by a masked transformer.

Shape letters: B batch, T frames, H history frames, R future frames, O object slots, N latent tokens (the slots, and one
of proprioception where there is any), D latent width, A action-block width, P proprio width, S candidates, K horizon in
blocks. Symbols: z latent, a embedded action, ẑ predicted latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jepakit.zoo.base import WorldModel
from jepakit.zoo.cjepa.config import CJEPAConfig
from jepakit.zoo.cjepa.masking import draw_hidden, draw_history
from jepakit.zoo.cjepa.matching import SlotMatcher
from jepakit.zoo.cjepa.objects import ObjectEncoder
from jepakit.zoo.cjepa.predictor import SlotPredictor
from jepakit.zoo.config import parse_config
from jepakit.zoo.trainable import Losses, step_generator


class CJEPAModel(WorldModel):
    """An object encoder, trained first or elsewhere, and a slot predictor that learns while the encoder is frozen."""

    name: ClassVar[str] = "cjepa"
    follows_objects: ClassVar[bool] = True
    config: CJEPAConfig

    def __init__(self, config: CJEPAConfig | Mapping[str, Any]) -> None:
        config = parse_config(CJEPAConfig, config, where="config")
        super().__init__(config)
        width = config.slot_dim
        self.objects = ObjectEncoder(config)
        self.proprio_encoder = nn.Linear(config.proprio_dim, width) if config.proprio_dim else None
        self.action_encoder = nn.Linear(config.block_width, width)
        self.predictor = SlotPredictor(
            width,
            history=config.history,
            future=config.future,
            proprio=config.proprio_dim > 0,
            conditioning=config.conditioning,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
            head_dim=config.predictor_head_dim,
            mlp=config.predictor_mlp,
            dropout=config.dropout,
        )
        self.matcher = SlotMatcher(config.slots)

    # -- encoding -------------------------------------------------------------------------------------------------
    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Latents z (B, T, N, D): the slots of an observation and, last, its proprioception if the model has it.

        Reads ``pixels``, ``state`` or ``features``, as ``config.encoder`` says, and raw ``proprio`` (B, T, P).
        """
        return self._join_proprio(self.objects(self._prepare(observation)), observation)

    def _prepare(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Return what the object encoder takes: normalised frames, states or features."""
        given = self.check_observation(observation)
        return self.normalise_frames(given) if self.objects.reads == "pixels" else given.to(self.action_mean.dtype)

    def _join_proprio(self, slots: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        if self.proprio_encoder is None:
            return slots
        proprio = self.check_proprio(observation, tuple(slots.shape[:2]))
        node = self.proprio_encoder(self.normalise_proprio(proprio))
        return torch.cat([slots, node.unsqueeze(2)], dim=2)

    def check_observation(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Return what the object encoder reads (B, T, ...), or raise ``ValueError`` saying what is wrong with it."""
        if self.objects.reads == "pixels":
            return self.check_frames(observation)
        return self.objects.check(observation)

    # -- prediction -------------------------------------------------------------------------------------------------
    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """ẑ (B, H, N, D), the next latents at every position; see ``WorldModel.predict``.

        The predictor looks both ways, so that each position takes a run of its own over the frames up to it.
        """
        self.check_history(latents)
        self.check_actions("actions", actions, tuple(latents.shape[:2]))
        a = self.embed_actions(actions)
        ends = range(1, latents.shape[1] + 1)
        return torch.stack([self.predict_next(latents[:, :end], a[:, :end]) for end in ends], dim=1)

    def predict_next(self, z: Tensor, a: Tensor) -> Tensor:
        """ẑ (B, N, D) of the first future frame, from latents z (B, H, N, D) and embedded actions a (B, H, D)."""
        return self._predict(z, a, future_only=True)[:, 0]

    def _predict(self, z: Tensor, a: Tensor, hidden: Tensor | None = None, *, future_only: bool = False) -> Tensor:
        predicted: Tensor = self.predictor(torch.cat([z, a.unsqueeze(2)], dim=2), hidden, future_only=future_only)
        return predicted

    def embed_actions(self, actions: Tensor) -> Tensor:
        """Embeddings (..., D) of raw action blocks (..., A)."""
        embedded: Tensor = self.action_encoder(self.normalise_actions(actions))
        return embedded

    def rollout(self, latents: Tensor, past_actions: Tensor, candidates: Tensor) -> Tensor:
        """ẑ (B, S, K, N, D) along candidate action blocks; see ``WorldModel.rollout``.

        Only the action that leaves the history's last frame conditions a prediction, so each block takes one run:
        predict, keep the first future frame, slide. With ``config.rematch`` its slots take the order of the frame's
        before it.
        """
        self.check_history(latents)
        batch, frames = latents.shape[:2]
        samples, horizon = candidates.shape[1:3]
        self.check_actions("past_actions", past_actions, (batch, frames - 1))
        self.check_actions("candidates", candidates, (batch, samples, horizon))
        past = self.embed_actions(past_actions).unsqueeze(1).expand(-1, samples, -1, -1)
        a = torch.cat([past, self.embed_actions(candidates)], dim=2).flatten(0, 1)
        z = latents.unsqueeze(1).expand(-1, samples, -1, -1, -1).flatten(0, 1)
        for now in range(frames, frames + horizon):
            context = slice(max(0, now - self.config.history), now)
            following = self.predict_next(z[:, context], a[:, context])
            if self.config.rematch:
                following = self._rematch(following, z[:, -1])
            z = torch.cat([z, following.unsqueeze(1)], dim=1)
        return z[:, frames:].reshape(batch, samples, horizon, *latents.shape[2:])

    def _rematch(self, latents: Tensor, reference: Tensor) -> Tensor:
        """Latents (..., N, D) with their slots in the order closest to the slots of ``reference`` (..., N, D)."""
        (slots, rest), (like, _) = self._split(latents), self._split(reference)
        return torch.cat([self.matcher.match(slots, like), rest], dim=-2)

    def _split(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Slots (..., O, D) and proprioception (..., 0 or 1, D)."""
        return latents[..., : self.config.slots, :], latents[..., self.config.slots :, :]

    def goal_cost(self, predicted: Tensor, goal: Tensor) -> Tensor:
        """Mean squared error (B, S) of optimally matched slots, plus that of proprioception if the model has it.

        Of predicted (B, S, N, D) and goal (B, N, D) latents.
        """
        self.check_goal(predicted, goal)
        error = (self._rematch(predicted, goal.unsqueeze(1)) - goal.unsqueeze(1)).square().mean(dim=-1)
        slots, proprio = error[..., : self.config.slots], error[..., self.config.slots :]
        return slots.mean(dim=-1) + proprio.sum(dim=-1)

    # -- training -----------------------------------------------------------------------------------------------------
    def losses(self, batch: Mapping[str, Tensor], step: int = 0) -> Losses:
        """Compute the encoder's loss or, once it is trained, the predictor's; see ``objective``.

        Which slots are hidden, and how much of the history in training, follows from ``config.seed`` and ``step``; the
        encoder's loss has a schedule, for which ``step`` is the optimiser's.
        """
        self.check_batch(batch)
        config = self.config
        if self.encoder_alone:
            return self.objects.losses(self._prepare(batch), step)
        z = self._join_proprio(self.objects.frozen(self._prepare(batch)), batch)
        a = self.embed_actions(batch["action"][:, : -config.future])
        generator = step_generator(config.seed, step)
        hidden = draw_hidden(
            len(z), config.slots, count=config.mask_count, per=config.mask_per, generator=generator
        ).to(z.device)
        shown = a.shape[1]
        if self.training:
            shown = draw_history(shown, short_share=config.short_share, generator=generator)
        return self.objective(z[:, : shown + config.future], a[:, :shown], hidden)

    def objective(self, z: Tensor, a: Tensor, hidden: Tensor) -> Losses:
        """Mean (ẑ − z)² over hidden slots of the history + the same over all future slots [+ future proprioception].

        Of latents z (B, H + R, N, D), embedded actions a (B, H, D) and ``hidden`` (B, O) or (1, O), true where hidden.
        Targets are detached. Frame 0, where nothing is hidden, does not count. Among the outputs, ``predictions``
        (B, R, N, D) are those of the last R frames of ``latents``.
        """
        history, slots = a.shape[1], self.config.slots
        predicted = self._predict(z[:, :history], a, hidden)
        error = (predicted - z.detach()).square().mean(dim=-1)
        counted = hidden[:, None].expand(len(z), history - 1, -1)
        terms = {
            "hidden": (error[:, 1:history, :slots] * counted).sum() / self.mean_count(counted.sum()).clamp(min=1),
            "future": error[:, history:, :slots].mean(),
        }
        if self.proprio_encoder is not None:
            terms["proprio"] = error[:, history:, slots:].mean()
        total = torch.stack(list(terms.values())).sum()
        return Losses(total=total, terms=terms, outputs={"latents": z, "predictions": predicted[:, history:]})

    @property
    def encoder_alone(self) -> bool:
        """Until the object encoder is trained."""
        return not self.objects.trained

    def step_done(self, step: int) -> None:
        """Freeze the object encoder after its last step."""
        self.objects.step_done(step)

"""Imagining many futures from one history with a causal predictor, each token computed once where that is exact.

Shape letters: B batch, H history frames, N tokens per frame, D token width, S candidates, K horizon in blocks, M
sequences (B, or B · S), n new frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jepakit.zoo.layers.transformer import Cache

#: Latents (M, n, N, D) of new frames, what conditions them (each (M, n, ...)), the cache of the frames before them, and
#: whether the prediction is wanted -> the frame that follows the last one (M, 1, N, D), or (M, 0, N, D); the new cache.
Extend = Callable[[Tensor, Sequence[Tensor], Cache, bool], tuple[Tensor, Cache]]


def imagine(
    latents: Tensor, past: Sequence[Tensor], candidates: Sequence[Tensor], *, history: int, extend: Extend
) -> Tensor:
    """Imagined latents (B, S, K, N, D) from real ones (B, H, N, D), one frame per action, each seen by the next.

    ``past``, each (B, H-1, ...), and ``candidates``, each (B, S, K, ...), are what actions become before they enter the
    predictor. The context grows to ``history`` frames, then slides. Equal to predicting from each context anew, but

    - frames that all candidates share (those whose action is a past one) are computed once per history;
    - while the context grows, earlier frames keep their keys and values; once it slides, positions have moved and its
      frames are computed again.
    """
    frames = latents.shape[1]
    samples, horizon = candidates[0].shape[1:3]
    actions = [part.flatten(0, 1) for part in candidates]
    z = _per_candidate(latents[:, -1:], samples)  # frame H - 1 and all later ones; the one that follows is action 0's
    begin = -1
    cache: Cache = []
    for now in range(frames, frames + horizon):
        fresh = slice(now - frames, now - frames + 1)  # of z and actions
        if begin != max(0, now - history):
            begin = max(0, now - history)
            fresh = slice(max(0, begin - frames + 1), fresh.stop)
            cache = []
            if begin < frames - 1:
                shared = slice(begin, frames - 1)
                _, cache = extend(latents[:, shared], [part[:, shared] for part in past], [], False)
                cache = [(_per_candidate(k, samples), _per_candidate(v, samples)) for k, v in cache]
        following, cache = extend(z[:, fresh], [part[:, fresh] for part in actions], cache, True)
        z = torch.cat([z, following], dim=1)
    return z[:, 1:].reshape(-1, samples, horizon, *latents.shape[2:])


def _per_candidate(x: Tensor, samples: int) -> Tensor:
    """(B, ...) to (B · S, ...); a view where B is 1."""
    return x.unsqueeze(1).expand(-1, samples, *x.shape[1:]).flatten(0, 1)

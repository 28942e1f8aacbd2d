"""Pre-norm transformer layers: attention, feed-forward, plain blocks and blocks conditioned by AdaLN-zero.

Shape letters: B batch, L tokens, W width, E heads × head width, P tokens computed before. ``only`` is a slice of
tokens: a layer then computes just these (they must be allowed to look at every token), because a model's last layer
is often read at one token. ``extend`` computes tokens that also look at earlier ones, whose keys and values it takes,
and returns the keys and values of all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST = slice(0, 1)
LAST = slice(-1, None)
NONE = slice(0, 0)
_Q, _K, _V = range(3)
_FEW = 3  # keys up to which causal attention was measured to be faster without matrix products, on a CPU

KeyValue = tuple[Tensor, Tensor]  # of one attention layer, each (B, P, heads, head width)
Cache = list[KeyValue]  # of every layer, first to last; empty where there are no earlier tokens


class Attention(nn.Module):
    """Layer norm (unless ``norm`` is false), then multi-head self-attention."""

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        head_dim: int,
        qkv_bias: bool,
        norm: bool = True,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.inner = heads * head_dim
        self.dropout = dropout
        self.norm = nn.LayerNorm(width, eps=norm_eps) if norm else nn.Identity()
        self.qkv = nn.Linear(width, 3 * self.inner, bias=qkv_bias)
        self.out = nn.Linear(self.inner, width)
        self.out_dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False, only: slice | None = None
    ) -> Tensor:
        """Mix tokens (B, L, W); ``mask`` (L, L) is true where a query may look, ``causal`` the triangular one."""
        return self.extend(x, None, mask=mask, causal=causal, only=only)[0]

    def extend(
        self,
        x: Tensor,
        before: KeyValue | None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        only: slice | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Mix tokens (B, L, W) among themselves and with those ``before``; ``mask`` is (L, P + L)."""
        x = self.norm(x)
        keys = x.shape[1] + (before[0].shape[1] if before else 0)
        if causal and keys <= _FEW and not self.training:
            mixed, seen = self._mix_few(x, before, only)
        else:
            mixed, seen = self._mix(x, before, mask=mask, causal=causal, only=only)
        out: Tensor = self.out_dropout(self.out(mixed.flatten(2)))
        return out, seen

    def weights(self, x: Tensor) -> Tensor:
        """Return how much each of the tokens (B, L, W), in rows, looks at each: (B, heads, L, L). For looking only."""
        q, k, _ = self._heads(self.qkv(self.norm(x))).transpose(1, 2).chunk(3, dim=1)
        weights: Tensor = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return weights

    def _mix(
        self, x: Tensor, before: KeyValue | None, *, mask: Tensor | None, causal: bool, only: slice | None
    ) -> tuple[Tensor, KeyValue]:
        """Values (B, L, heads, head width) of normed tokens, averaged as queries and keys want it."""
        if only is None:
            q, k, v = self._heads(self.qkv(x)).chunk(3, dim=2)
        else:
            mask, causal = None, False
            q, k, v = self._project(x[:, only], _Q), self._project(x, _K), self._project(x, _V)
        k, v = _append(before, k, v)
        if causal and before:
            mask = torch.ones(x.shape[1], k.shape[1], dtype=torch.bool, device=x.device).tril(before[0].shape[1])
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and not before,
        )
        return mixed.transpose(1, 2), (k, v)

    def _mix_few(self, x: Tensor, before: KeyValue | None, only: slice | None) -> tuple[Tensor, KeyValue]:
        """Do as ``_mix`` where queries see so few keys that matrix products would be all overhead.

        A query that sees but its own key returns its own value.
        """
        k, v = _append(before, self._project(x, _K), self._project(x, _V))
        earlier = k.shape[1] - x.shape[1]
        wanted = range(x.shape[1])[slice(None) if only is None else only]
        mixed = [v[:, :1]] if earlier == 0 and 0 in wanted else [v[:, :0]]
        looking = [index for index in wanted if earlier + index > 0]
        if looking:
            q = self._project(x[:, looking[0] : looking[-1] + 1], _Q)
            for query, index in zip(torch.split(q, 1, dim=1), looking, strict=True):
                seen = slice(0, earlier + index + 1)
                scores = (query * k[:, seen]).sum(dim=-1, keepdim=True) * q.shape[-1] ** -0.5
                mixed.append((scores.softmax(dim=1) * v[:, seen]).sum(dim=1, keepdim=True))
        return torch.cat(mixed, dim=1), (k, v)

    def _project(self, x: Tensor, part: int) -> Tensor:
        """Queries, keys or values (B, L, heads, head width) of normed tokens (B, L, W)."""
        rows = slice(part * self.inner, (part + 1) * self.inner)
        return self._heads(F.linear(x, self.qkv.weight[rows], None if self.qkv.bias is None else self.qkv.bias[rows]))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, n · E) to (B, L, n · heads, head width)."""
        width = self.inner // self.heads
        return x.reshape(*x.shape[:2], x.shape[2] // width, width)


def _append(before: KeyValue | None, k: Tensor, v: Tensor) -> KeyValue:
    if before is None:
        return k, v
    return torch.cat([before[0], k], dim=1), torch.cat([before[1], v], dim=1)


class FeedForward(nn.Module):
    """Layer norm, then Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int, *, norm_eps: float = 1e-5, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token (B, L, W) on its own."""
        hidden = self.dropout(F.gelu(self.expand(self.norm(x))))
        out: Tensor = self.dropout(self.contract(hidden))
        return out


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(x), then x + feed-forward(x)."""

    def __init__(self, attention: Attention, feed_forward: FeedForward) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False, only: slice | None = None
    ) -> Tensor:
        """Tokens (B, L, W) to tokens; see the file's head for ``only``."""
        return self.extend(x, None, mask=mask, causal=causal, only=only)[0]

    def extend(
        self,
        x: Tensor,
        before: KeyValue | None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        only: slice | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """Compute tokens that also look at those ``before``; ``mask`` is (L, P + L)."""
        mixed, seen = self.attention.extend(x, before, mask=mask, causal=causal, only=only)
        x = (x if only is None else x[:, only]) + mixed
        return x + self.feed_forward(x), seen


def block_stack(
    width: int,
    depth: int,
    *,
    heads: int,
    mlp: int,
    head_dim: int | None = None,
    qkv_bias: bool = True,
    norm: bool = True,
    norm_eps: float = 1e-5,
    dropout: float = 0.0,
) -> nn.ModuleList:
    """``depth`` blocks one after another; heads share the width unless ``head_dim`` says how wide they are."""
    head_dim = width // heads if head_dim is None else head_dim
    return nn.ModuleList(
        Block(
            Attention(
                width, heads=heads, head_dim=head_dim, qkv_bias=qkv_bias, norm=norm, norm_eps=norm_eps, dropout=dropout
            ),
            FeedForward(width, mlp, norm_eps=norm_eps, dropout=dropout),
        )
        for _ in range(depth)
    )


class AdaLNBlock(nn.Module):
    """A causal transformer block whose norms are shifted, scaled and gated by a condition (AdaLN-zero, 2212.09748).

    The modulated norms have no affine part (eps 1e-6); attention and feed-forward keep their own norms inside, as
    LeWM's authors have it. The modulation starts at zero, so that the block starts as the identity.
    """

    def __init__(self, width: int, attention: Attention, feed_forward: FeedForward) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward
        self.attention_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def modulate(self, condition: Tensor) -> Tensor:
        """Shifts, scales and gates (B, L, 6 · W) of conditions (B, L, W)."""
        out: Tensor = self.modulation(F.silu(condition))
        return out

    def extend(
        self, x: Tensor, modulation: Tensor, before: KeyValue | None, *, only: slice | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Tokens (B, L, W), which see themselves and earlier ones, ``before`` too, under their modulations."""
        shift, scale, *later = modulation.chunk(6, dim=-1)
        modulated = self.attention_norm(x) * (1 + scale) + shift
        mixed, seen = self.attention.extend(modulated, before, causal=True, only=only)
        if only is not None:
            x, *later = (part[:, only] for part in (x, *later))
        attention_gate, shift, scale, gate = later
        x = x + attention_gate * mixed
        return x + gate * self.feed_forward(self.feed_forward_norm(x) * (1 + scale) + shift), seen

"""Pre-norm transformer layers: attention, feed-forward, plain blocks and blocks conditioned by AdaLN-zero.

Shape letters: B batch, L tokens, W width, E heads × head width. ``only`` is a slice of tokens: a layer then
computes just these (they must be allowed to look at every token), because a model's last layer is often read at
one token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST = slice(0, 1)
LAST = slice(-1, None)


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
        x = self.norm(x)
        if only is None:
            q, k, v = self._heads(self.qkv(x)).chunk(3, dim=1)
        else:
            mask, causal = None, False
            q_weight, kv_weight = torch.split(self.qkv.weight, [self.inner, 2 * self.inner])
            q_bias, kv_bias = None, None
            if self.qkv.bias is not None:
                q_bias, kv_bias = torch.split(self.qkv.bias, [self.inner, 2 * self.inner])
            q = self._heads(F.linear(x[:, only], q_weight, q_bias))
            k, v = self._heads(F.linear(x, kv_weight, kv_bias)).chunk(2, dim=1)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        out: Tensor = self.out_dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, n · E) to (B, n · heads, L, head width)."""
        return x.reshape(*x.shape[:2], -1, self.inner // self.heads).transpose(1, 2)


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
        residual = x if only is None else x[:, only]
        x = residual + self.attention(x, mask=mask, causal=causal, only=only)
        out: Tensor = x + self.feed_forward(x)
        return out


class AdaLNBlock(nn.Module):
    """A transformer block whose norms are shifted, scaled and gated by a condition (AdaLN-zero, arXiv 2212.09748).

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

    def forward(self, x: Tensor, condition: Tensor, *, causal: bool = False, only: slice | None = None) -> Tensor:
        """Tokens (B, L, W) under conditions (B, L, W), one per token, to tokens."""
        shift, scale, *later = self.modulation(F.silu(condition)).chunk(6, dim=-1)
        mixed = self.attention(self.attention_norm(x) * (1 + scale) + shift, causal=causal, only=only)
        if only is not None:
            x, *later = (part[:, only] for part in (x, *later))
        attention_gate, shift, scale, gate = later
        x = x + attention_gate * mixed
        out: Tensor = x + gate * self.feed_forward(self.feed_forward_norm(x) * (1 + scale) + shift)
        return out

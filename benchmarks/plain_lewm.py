"""LeWM written the plain way, to be timed against ours: the same architecture, losses and numbers.

The encoder is the transformers library's own ViT; parameters carry the names of the authors' checkpoints, so that
``jepakit.zoo.lewm.official`` translates them. Shape letters: B batch, T frames, D width, A action-block width, S
candidates, K horizon in blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from jepakit.zoo import LeWMConfig, LeWMModel
from jepakit.zoo.files import load_strict
from jepakit.zoo.lewm.official import _translate
from jepakit.zoo.trainable import neutral_statistics


def textbook_sigreg(z: Tensor, directions: Tensor, knots: int = 17) -> Tensor:
    """Epps–Pulley on slices, with the (T, B, P, knots) tensors that the formula suggests."""
    t = torch.linspace(0.0, 3.0, knots, device=z.device, dtype=z.dtype)
    target = torch.exp(-0.5 * t.square())
    weight = torch.full_like(t, 2 * 3.0 / (knots - 1))
    weight[[0, -1]] /= 2
    angles = (z.transpose(0, 1) @ directions).unsqueeze(-1) * t
    error = (angles.cos().mean(1) - target).square() + angles.sin().mean(1).square()
    return ((error * weight * target).sum(-1) * z.shape[0]).mean()


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(0, 1)).view(x.shape)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.to_qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        layers = [nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _Block(nn.Module):
    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        width = config.predictor_width
        self.attn = _Attention(width, config.predictor_heads, config.predictor_head_dim, config.dropout)
        self.mlp = _FeedForward(width, config.predictor_mlp, config.dropout)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.adaLN_modulation[1].weight)
        nn.init.zeros_(self.adaLN_modulation[1].bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition).chunk(6, -1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class _Transformer(nn.Module):
    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(config.predictor_width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, condition)
        return self.norm(x)


class _Predictor(nn.Module):
    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, config.history, config.latent_dim))
        self.transformer = _Transformer(config)

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.transformer(z + self.pos_embedding[:, : z.shape[1]], a)


class _ActionEncoder(nn.Module):
    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        self.patch_embed = nn.Conv1d(config.block_width, config.action_mixed, kernel_size=1)
        layers = [nn.Linear(config.action_mixed, config.action_hidden), nn.SiLU()]
        self.embed = nn.Sequential(*layers, nn.Linear(config.action_hidden, config.latent_dim))

    def forward(self, a: Tensor) -> Tensor:
        return self.embed(self.patch_embed(a.transpose(1, 2)).transpose(1, 2))


class PlainLeWM(nn.Module):
    """The architecture of ``LeWMConfig`` with a ViT encoder; ``forward`` is the training loss."""

    def __init__(self, config: LeWMConfig) -> None:
        super().__init__()
        vit = ViTConfig(
            hidden_size=config.vit_width,
            num_hidden_layers=config.vit_depth,
            num_attention_heads=config.vit_heads,
            intermediate_size=config.vit_mlp,
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.lambda_ = config.lambda_
        self.encoder = ViTModel(vit, add_pooling_layer=False)
        self.projector = _MLP(config.latent_dim, config.projector_hidden)
        self.action_encoder = _ActionEncoder(config)
        self.predictor = _Predictor(config)
        self.pred_proj = _MLP(config.latent_dim, config.projector_hidden)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor, actions: Tensor, directions: Tensor) -> Tensor:
        """Loss of uint8 windows (B, T, h, w, 3), standardised blocks (B, T, A) and SIGReg's directions (D, P)."""
        frames = (pixels.permute(0, 1, 4, 2, 3).float() / 255 - self.mean) / self.std
        tokens = self.encoder(frames.flatten(0, 1), interpolate_pos_encoding=False).last_hidden_state
        z = self.projector(tokens[:, 0].unflatten(0, frames.shape[:2]))
        predicted = self.pred_proj(self.predictor(z[:, :-1], self.action_encoder(actions[:, :-1])))
        return F.mse_loss(predicted, z[:, 1:]) + self.lambda_ * textbook_sigreg(z.float(), directions)

    def distances(self, z: Tensor, candidates: Tensor, goal: Tensor) -> Tensor:
        """Squared distances (S, K) to the goal (D,) along standardised candidates (S, K, A) from one latent z (D,).

        The loop as one writes it first: every step embeds the actions and predicts from its whole context again.
        """
        seen = z.expand(len(candidates), 1, -1)
        for now in range(1, candidates.shape[1] + 1):
            context = slice(max(0, now - self.predictor.pos_embedding.shape[1]), now)
            predicted = self.pred_proj(self.predictor(seen[:, context], self.action_encoder(candidates[:, context])))
            seen = torch.cat([seen, predicted[:, -1:]], dim=1)
        return (seen[:, 1:] - goal).square().sum(-1)


def make_pair(config: LeWMConfig, *, gates: float = 0.0) -> tuple[PlainLeWM, LeWMModel]:
    """Two models with the same weights; ``gates`` is the spread of what modulates by actions, 0 as training starts."""
    torch.manual_seed(0)
    plain, ours = PlainLeWM(config).train(), LeWMModel(config).train()
    if gates:
        for layer in plain.predictor.transformer.layers:
            nn.init.normal_(layer.adaLN_modulation[1].weight, std=gates)
    tensors = _translate({name: value.clone() for name, value in plain.state_dict().items()}, __file__)
    load_strict(ours, {**tensors, **neutral_statistics(config)}, source=__file__)
    return plain, ours

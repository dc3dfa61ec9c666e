"""GPT-2's cached forward pass, for answering: one cache, which grows as the completions do."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.gpt2.forward import norm
from udrl.architecture.protocol import CacheShape

GROWTH = 32
"""Places that the cache grows by when it is full: most completions end long before their limit."""


def cache_shape(config: Any) -> CacheShape:
    """Return the shape of a cache: GPT-2 has as many heads of keys as of queries."""
    return CacheShape(config.n_layer, config.n_head, config.n_embd // config.n_head)


class Gpt2Cache:
    """Keys and values (layers, 2, B, heads, capacity, size), of which ``filled`` places of each row are read."""

    def __init__(self, model: Any, real: Tensor, *, dtype: torch.dtype, text_size: int) -> None:
        """Make room for prompts whose real places ``real`` (B, L) says, and a little more."""
        shape, (rows, longest) = cache_shape(model.config), real.shape
        self.model, self.filled = model, 0
        places = (shape.layers, 2, rows, shape.heads, longest + GROWTH, shape.size)
        self.content = torch.empty(places, dtype=dtype, device=real.device)
        self.visible = F.pad(real, (0, GROWTH), value=True)
        self.weights = cast_weights(model, dtype, text_size)

    def run(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Read new places; return the logits behind the last."""
        end = self.filled + embeddings.shape[1]
        if end > self.content.shape[4]:
            self.content = _room(self.content, self.filled, end - self.filled + GROWTH - 1)
            self.visible = F.pad(self.visible, (0, self.content.shape[4] - self.visible.shape[1]), value=True)
        logits = cached_logits(self.model, self.weights, embeddings, positions, self.content, self.visible, self.filled)
        self.filled = end
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        spare = self.content.shape[4] - self.filled
        self.content = _room(self.content[:, :, rows, :, : self.filled], self.filled, spare)
        self.visible = self.visible[rows]


def _room(content: Tensor, filled: int, spare: int) -> Tensor:
    """Return the ``filled`` places of ``content`` with ``spare`` more behind them, whose content is undefined."""
    layers, two, rows, heads, _, size = content.shape
    larger = content.new_empty((layers, two, rows, heads, filled + spare, size))
    larger[..., :filled, :] = content[..., :filled, :]
    return larger


def cast_weights(model: Any, dtype: torch.dtype, text_size: int) -> list[Tensor]:
    """Return the matrices and vectors that `cached_logits` computes with: blocks in order, then the head.

    Matrix products use ``dtype``; the cast is done once, not in every step.
    """
    flat: list[Tensor] = []
    for block in model.transformer.h:
        for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            flat += [layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)]
    return [*flat, model.lm_head.weight.detach()[:text_size].to(dtype).T]


def cached_logits(
    model: Any,
    weights: list[Tensor],
    embeddings: Tensor,
    positions: Tensor,
    cache: Tensor,
    visible: Tensor,
    filled: int,
) -> Tensor:
    """Run (B, L) new places against a cache that holds ``filled`` places; return logits (B, text_size) of the last.

    cache: (layers, 2, B, heads, capacity, size), extended in place; visible: (B, capacity) false for left padding;
    positions: (B, L) counted from each row's first real id.
    """
    transformer, heads = model.transformer, model.config.n_head
    dtype = cache.dtype
    hidden = embeddings + F.embedding(positions, transformer.wpe.weight)
    rows, length, width = hidden.shape
    end = filled + length
    mask = visible[:, None, None, :end]
    if length > 1:  # causal among the new places
        order = torch.arange(end, device=hidden.device)
        mask = mask & (order[None, :] <= order[filled:end, None])[None, None]
        mask = mask | (order[None, :] == order[filled:end, None])[None, None]  # padding sees itself: no empty softmax
    for index, block in enumerate(transformer.h):
        w = weights[8 * index : 8 * index + 8]
        qkv = _affine(norm(block.ln_1, hidden), w[0], w[1], dtype).view(rows, length, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        cache[index, 0, :, :, filled:end], cache[index, 1, :, :, filled:end] = k, v
        mixed = F.scaled_dot_product_attention(
            q, cache[index, 0, :, :, :end], cache[index, 1, :, :, :end], attn_mask=mask
        )
        hidden = hidden + _affine(mixed.transpose(1, 2).reshape(rows, length, width), w[2], w[3], dtype)
        inner = F.gelu(_affine(norm(block.ln_2, hidden), w[4], w[5], dtype), approximate="tanh")
        hidden = hidden + _affine(inner, w[6], w[7], dtype)
    return (norm(transformer.ln_f, hidden[:, -1]).to(dtype) @ weights[-1]).float()


def _affine(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.to(dtype).flatten(0, -2) @ weight + bias).view(*x.shape[:-1], weight.shape[1])

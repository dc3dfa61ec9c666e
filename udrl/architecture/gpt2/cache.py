"""GPT-2's cached forward pass, for answering."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.gpt2.forward import norm
from udrl.architecture.padding import PaddedCache
from udrl.architecture.protocol import CacheShape


def cache_shape(config: Any) -> CacheShape:
    """Return the shape of a cache: GPT-2 has as many heads of keys as of queries."""
    return CacheShape(config.n_layer, config.n_head, config.n_embd // config.n_head)


class Gpt2Cache(PaddedCache):
    """GPT-2's `Cache`."""

    def __init__(self, model: Any, weights: list[Tensor], dtype: torch.dtype, real: Tensor) -> None:
        """Begin with prompts whose real places ``real`` (B, L) says. weights: see `cast_weights`."""
        super().__init__(cache_shape(model.config), real, dtype)
        self.model, self.weights = model, weights

    def run(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Read new places; return the logits behind the last."""
        mask = self.extend(embeddings.shape[1])
        return cached_logits(self.model, self.weights, embeddings, positions, self.content, mask)


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
    mask: Tensor,
) -> Tensor:
    """Run the last L of the places that ``mask`` (B, 1, L, places) sees; return logits (B, text_size) of the last.

    embeddings: (B, L, width); cache: (layers, 2, B, heads, capacity, size), in which the new places are written;
    positions: (B, L) counted from each row's first real id.
    """
    transformer, heads = model.transformer, model.config.n_head
    dtype = cache.dtype
    hidden = embeddings + F.embedding(positions, transformer.wpe.weight)
    rows, length, width = hidden.shape
    end = mask.shape[-1]
    start = end - length
    for index, block in enumerate(transformer.h):
        w = weights[8 * index : 8 * index + 8]
        qkv = _affine(norm(block.ln_1, hidden), w[0], w[1], dtype).view(rows, length, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        cache[index, 0, :, :, start:end], cache[index, 1, :, :, start:end] = k, v
        mixed = F.scaled_dot_product_attention(
            q, cache[index, 0, :, :, :end], cache[index, 1, :, :, :end], attn_mask=mask
        )
        hidden = hidden + _affine(mixed.transpose(1, 2).reshape(rows, length, width), w[2], w[3], dtype)
        inner = F.gelu(_affine(norm(block.ln_2, hidden), w[4], w[5], dtype), approximate="tanh")
        hidden = hidden + _affine(inner, w[6], w[7], dtype)
    return (norm(transformer.ln_f, hidden[:, -1]).to(dtype) @ weights[-1]).float()


def _affine(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.to(dtype).flatten(0, -2) @ weight + bias).view(*x.shape[:-1], weight.shape[1])

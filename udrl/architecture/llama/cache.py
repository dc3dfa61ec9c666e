"""The cached forward pass of Llama's relatives, for answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.llama.forward import norm, turns
from udrl.architecture.llama.parts import turned
from udrl.architecture.padding import PaddedCache
from udrl.architecture.protocol import CacheShape


def cache_shape(config: Any) -> CacheShape:
    """Return the shape of a cache: several heads of queries may share one of keys."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return CacheShape(config.num_hidden_layers, config.num_key_value_heads, size)


def longest(config: Any) -> int:
    """Return the number of positions of ``config``, or its sliding window: within it every id sees all before it."""
    positions = int(config.max_position_embeddings)
    return min(positions, getattr(config, "sliding_window", None) or positions)


@dataclass(frozen=True)
class Matrix:
    """A linear layer, or several that read the same, one after the other: weight (in, out), bias (out,) or none."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return x @ weight + bias, for x (..., in) of any number format."""
        flat = x.to(self.weight.dtype).flatten(0, -2)
        made = flat @ self.weight if self.bias is None else torch.addmm(self.bias, flat, self.weight)
        return made.view(*x.shape[:-1], -1)


Weights = tuple[list[tuple[Any, Matrix, Matrix, Matrix, Matrix]], Tensor]


def cast(dtype: torch.dtype, *layers: Any) -> Matrix:
    """Return ``layers`` as one `Matrix` in ``dtype``: the cast is done once, not in every step."""
    weights = [layer.weight.detach() for layer in layers]
    weight = (weights[0] if len(weights) == 1 else torch.cat(weights)).to(dtype).T
    if all(layer.bias is None for layer in layers):
        return Matrix(weight, None)
    biases = [weight.new_zeros(len(one.weight)) if one.bias is None else one.bias.detach() for one in layers]
    return Matrix(weight, torch.cat(biases).to(dtype))


def cast_weights(model: Any, dtype: torch.dtype, text_size: int) -> Weights:
    """Return what a cache computes with: each block and its matrices in ``dtype``, and the head (width, text ids)."""
    blocks = [
        (
            block,
            cast(dtype, block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj),
            cast(dtype, block.self_attn.o_proj),
            cast(dtype, block.mlp.gate_proj, block.mlp.up_proj),
            cast(dtype, block.mlp.down_proj),
        )
        for block in model.model.layers
    ]
    return blocks, model.lm_head.weight.detach()[:text_size].to(dtype).T


class LlamaCache(PaddedCache):
    """The `Cache` of Llama and its relatives."""

    def __init__(self, model: Any, weights: Weights, dtype: torch.dtype, real: Tensor) -> None:
        """Begin with prompts whose real places ``real`` (B, L) says. weights: see `cast_weights`."""
        super().__init__(cache_shape(model.config), real, dtype)
        self.model, self.dtype = model, dtype
        self.blocks, self.head = weights

    def run(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Read new places; return the logits behind the last."""
        mask, angles = self.extend(embeddings.shape[1]), turns(self.model, embeddings, positions, self.dtype)
        hidden = embeddings
        for index, (block, qkv, out, gate_up, down) in enumerate(self.blocks):
            mixed = self._attend(index, block.self_attn, qkv(norm(block.input_layernorm, hidden)), mask, angles)
            hidden = hidden + out(mixed)
            gate, up = gate_up(norm(block.post_attention_layernorm, hidden)).chunk(2, -1)
            hidden = hidden + down(F.silu(gate) * up)
        logits = norm(self.model.model.norm, hidden[:, -1]).to(self.dtype) @ self.head
        return logits.float()

    def _attend(self, index: int, attn: Any, qkv: Tensor, mask: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Keep keys and values of the new places, (B, L, heads * size) each; return what their queries mix."""
        kept, size = self.content.shape[3], self.content.shape[5]
        heads = qkv.view(*qkv.shape[:2], -1, size)
        q, k, v = torch.split(heads, [heads.shape[2] - 2 * kept, kept, kept], 2)
        if hasattr(attn, "q_norm"):
            q, k = norm(attn.q_norm, q).to(self.dtype), norm(attn.k_norm, k).to(self.dtype)
        q, k = turned(q, *angles), turned(k, *angles)
        keys, values = self.content[index, :, :, :, : self.filled]
        new = slice(self.filled - qkv.shape[1], self.filled)
        keys[:, :, new], values[:, :, new] = k.transpose(1, 2), v.transpose(1, 2)
        mixed: Tensor = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=q.shape[2] > kept
        )
        return mixed.transpose(1, 2).flatten(2)

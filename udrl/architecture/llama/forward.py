"""The forward pass of Llama's relatives over packed batches, for training: no padding, no wasted head.

It computes with the parameters of transformers' own model, so that what is trained here is what is saved there. Linear
layers run on real tokens only, attention in groups of like length, the last block's second half and the head at
predicting positions only, matrix products in ``dtype`` over float32 parameters and residuals. Positions are rotations
of queries and keys, whose angles the model's own rotary module gives, scaled as its config says.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.attention import packed_attention
from udrl.architecture.llama.parts import gated, normalised, rotated
from udrl.architecture.packed import run_blocks
from udrl.architecture.packing import Batch, select


def packed_hidden(model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype) -> Tensor:
    """Return what the head reads (M, width), in ``dtype``, at the predicting positions of ``batch``.

    embeddings: (N, width) of the batch's ids.
    """
    inner = model.model
    angles = turns(model, embeddings, batch.positions, dtype)
    hidden = run_blocks(
        inner.layers, run_block, embeddings, batch, angles, dtype,
        places=batch.predict, checkpointing=model.training and inner.gradient_checkpointing,
    )  # fmt: skip
    return norm(inner.norm, hidden).to(dtype)


def turns(model: Any, like: Tensor, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (..., 1, size) of the angles by which heads at ``positions`` (...) are turned."""
    flat = positions.flatten()[None]
    cos, sin = (part[0].view(*positions.shape, 1, -1).to(dtype) for part in model.model.rotary_emb(like, flat))
    return cos, sin


def run_block(
    block: Any,
    hidden: Tensor,
    batch: Batch,
    angles: tuple[Tensor, Tensor],
    dtype: torch.dtype,
    places: Tensor | None,
) -> Tensor:
    """Run one block; with ``places``, its second half at those only."""
    mixed = _attend(block.self_attn, norm(block.input_layernorm, hidden), batch, angles, dtype)
    if places is not None:
        mixed, hidden = select(mixed, places), select(hidden, places)
    hidden = hidden + _linear(mixed, dtype, block.self_attn.o_proj)
    x, mlp = norm(block.post_attention_layernorm, hidden), block.mlp
    inner = gated(_linear(x, dtype, mlp.gate_proj, mlp.up_proj))
    return hidden + _linear(inner, dtype, mlp.down_proj)


def _attend(attn: Any, x: Tensor, batch: Batch, angles: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    size = attn.head_dim
    qkv = _linear(x, dtype, attn.q_proj, attn.k_proj, attn.v_proj).view(len(x), -1, size)
    kept = len(attn.k_proj.weight) // size
    heads = qkv.shape[1] - 2 * kept
    if hasattr(attn, "q_norm"):
        q, k, v = torch.split(qkv, [heads, kept, kept], 1)
        qkv = torch.cat([norm(attn.q_norm, q).to(dtype), norm(attn.k_norm, k).to(dtype), v], 1)
    return packed_attention(rotated(qkv, heads + kept, *angles), heads, batch)


def _linear(x: Tensor, dtype: torch.dtype, *layers: Any) -> Tensor:
    """Apply linear layers that read the same, whose outputs follow each other: one large product for several."""
    weights = [layer.weight.to(dtype) for layer in layers]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    if all(layer.bias is None for layer in layers):
        return F.linear(x.to(dtype), weight)
    biases = [weight.new_zeros(len(one.weight)) if one.bias is None else one.bias.to(dtype) for one in layers]
    return F.linear(x.to(dtype), weight, torch.cat(biases))


def norm(layer: Any, x: Tensor) -> Tensor:
    """Apply a root-mean-square norm in float32, without its module's call."""
    return normalised(x.float(), layer.weight, layer.variance_epsilon)

"""The forward pass of Llama's relatives over packed batches, for training: no padding, no wasted head.

It computes with the parameters of transformers' own model, so that what is trained here is what is saved there. Linear
layers run on real tokens only, attention in groups of like length, the last block's second half and the head at
predicting positions only, matrix products in ``dtype`` over float32 parameters and residuals. Positions are rotations
of queries and keys, whose angles the model's own rotary module gives, scaled as its config says.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from udrl.architecture.attention import packed_attention
from udrl.architecture.llama.parts import gated, normalised, rotated
from udrl.architecture.packing import Batch, select

SHARDED = "packed"
"""The method that a sharded block has: calling it gathers the block's weights, and then is `run_block`."""


def packed_logits(model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
    """Return logits (M, text_size) in float32 at the predicting positions of ``batch``.

    embeddings: (N, width) of the batch's ids; text_size: ids that can be predicted.
    """
    inner = model.model
    angles = turns(model, embeddings, batch.positions, dtype)
    hidden, last = embeddings, len(inner.layers) - 1
    for index, block in enumerate(inner.layers):
        run = getattr(block, SHARDED, None) or partial(run_block, block)
        arguments = (hidden, batch, angles, dtype, batch.predict if index == last else None)
        if model.training and inner.gradient_checkpointing:
            hidden = checkpoint(run, *arguments, use_reentrant=False)
        else:
            hidden = run(*arguments)
    head: Tensor = model.lm_head.weight
    if len(head) > text_size:  # a slice's backward pass writes the whole matrix once more
        head = head[:text_size]
    return (norm(inner.norm, hidden).to(dtype) @ head.to(dtype).T).float()


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
    hidden = hidden + _linear(block.self_attn.o_proj, mixed, dtype)
    x, mlp = norm(block.post_attention_layernorm, hidden).to(dtype), block.mlp
    inner = gated(_linear(mlp.gate_proj, x, dtype), _linear(mlp.up_proj, x, dtype))
    return hidden + _linear(mlp.down_proj, inner, dtype)


def _attend(attn: Any, x: Tensor, batch: Batch, angles: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    x, size = x.to(dtype), attn.head_dim
    q, k, v = (_linear(layer, x, dtype).view(len(x), -1, size) for layer in (attn.q_proj, attn.k_proj, attn.v_proj))
    if hasattr(attn, "q_norm"):
        q, k = norm(attn.q_norm, q).to(dtype), norm(attn.k_norm, k).to(dtype)
    return packed_attention(torch.cat([rotated(q, *angles), rotated(k, *angles), v], 1), q.shape[1], batch)


def _linear(layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    return F.linear(x.to(dtype), layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype))


def norm(layer: Any, x: Tensor) -> Tensor:
    """Apply a root-mean-square norm in float32, without its module's call."""
    return normalised(x.float(), layer.weight, layer.variance_epsilon)

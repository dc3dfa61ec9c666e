"""GPT-2's forward pass over packed batches, for training: no padding, no wasted head.

It computes with the parameters of an ordinary ``GPT2LMHeadModel``, so that what is trained here is what is saved there.
Linear layers run on real tokens only, attention in groups of like length, the last block's second half and the
language-model head at predicting positions only, matrix products in ``dtype`` (bfloat16 where the hardware has it)
over float32 parameters and residuals.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.attention import packed_attention
from udrl.architecture.packed import run_blocks
from udrl.architecture.packing import Batch, select


def packed_hidden(model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype) -> Tensor:
    """Return what the head reads (M, width), in ``dtype``, at the predicting positions of ``batch``.

    embeddings: (N, width) of the batch's ids without positions.
    """
    transformer = model.transformer
    config = model.config
    embeddings = embeddings + F.embedding(batch.positions, transformer.wpe.weight)
    embeddings = _dropout(embeddings, config.embd_pdrop, model.training)
    hidden = run_blocks(
        transformer.h, run_block, embeddings, batch, config, dtype, model.training,
        places=batch.predict, checkpointing=model.training and transformer.gradient_checkpointing,
    )  # fmt: skip
    return norm(transformer.ln_f, hidden).to(dtype)


def run_block(
    block: Any, hidden: Tensor, batch: Batch, config: Any, dtype: torch.dtype, training: bool, places: Tensor | None
) -> Tensor:
    """Run one block; with ``places``, its second half at those only."""
    mixed = _attend(block.attn, norm(block.ln_1, hidden), batch, config.n_head, dtype, training)
    if places is not None:
        mixed, hidden = select(mixed, places), select(hidden, places)
    hidden = hidden + _dropout(_linear(block.attn.c_proj, mixed, dtype), config.resid_pdrop, training)
    inner = F.gelu(_linear(block.mlp.c_fc, norm(block.ln_2, hidden), dtype), approximate="tanh")
    return hidden + _dropout(_linear(block.mlp.c_proj, inner, dtype), config.resid_pdrop, training)


def _attend(attn: Any, x: Tensor, batch: Batch, heads: int, dtype: torch.dtype, training: bool) -> Tensor:
    qkv = _linear(attn.c_attn, x, dtype).view(len(x), 3 * heads, -1)
    return packed_attention(qkv, heads, batch, dropout=attn.attn_dropout.p if training else 0.0)


def _linear(layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Apply a transformers ``Conv1D``, whose weight is (in, out)."""
    return torch.addmm(layer.bias.to(dtype), x.to(dtype), layer.weight.to(dtype))


def norm(layer: Any, x: Tensor) -> Tensor:
    """Apply a layer norm, without its module's call."""
    normalised: Tensor = F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return normalised


def _dropout(x: Tensor, p: float, training: bool) -> Tensor:
    return F.dropout(x, p, training) if p > 0 else x

"""GPT-2's forward pass over packed batches: no padding, no wasted head.

It computes with the parameters of an ordinary ``GPT2LMHeadModel``, so that what is trained here is what is saved there.
Linear layers run on real tokens only, attention in groups of like length, the last block's second half and the
language-model head at predicting positions only, matrix products in ``dtype`` (bfloat16 where the hardware has it)
over float32 parameters and residuals.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from udrl.architecture.packing import Batch, padded, select


def can_pack(config: Any) -> bool:
    """Say whether what is here computes a model of this ``config``: a GPT-2 as it was published."""
    return (
        config.model_type == "gpt2"
        and config.activation_function == "gelu_new"
        and config.scale_attn_weights
        and not config.scale_attn_by_inverse_layer_idx
        and not config.add_cross_attention
    )


def without_attention_dropout(model: Any) -> None:
    """Set a GPT-2's attention dropout to 0: attention over sequences of any length has none, on every device alike."""
    model.config.attn_pdrop = 0.0
    for block in model.transformer.h:
        block.attn.attn_dropout.p = 0.0


def packed_logits(model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
    """Return logits (M, text_size) in float32 at the predicting positions of ``batch``.

    embeddings: (N, width) of the batch's ids without positions; text_size: ids that can be predicted (control tokens
    lie above and are never predicted, so never sampled).
    """
    transformer = model.transformer
    config = model.config
    hidden = embeddings + F.embedding(batch.positions, transformer.wpe.weight)
    hidden = _dropout(hidden, config.embd_pdrop, model.training)
    last = len(transformer.h) - 1
    for index, block in enumerate(transformer.h):
        run = getattr(block, "packed", None) or partial(run_block, block)  # a sharded block gathers its weights first
        arguments = (hidden, batch, config, dtype, model.training, batch.predict if index == last else None)
        if model.training and transformer.gradient_checkpointing:
            hidden = checkpoint(run, *arguments, use_reentrant=False)
        else:
            hidden = run(*arguments)
    head: Tensor = model.lm_head.weight
    if len(head) > text_size:  # a slice's backward pass writes the whole matrix once more
        head = head[:text_size]
    return (_norm(transformer.ln_f, hidden).to(dtype) @ head.to(dtype).T).float()


def run_block(
    block: Any, hidden: Tensor, batch: Batch, config: Any, dtype: torch.dtype, training: bool, places: Tensor | None
) -> Tensor:
    """Run one block; with ``places``, its second half at those only."""
    mixed = _attend(block.attn, _norm(block.ln_1, hidden), batch, config.n_head, dtype, training)
    if places is not None:
        mixed, hidden = select(mixed, places), select(hidden, places)
    hidden = hidden + _dropout(_linear(block.attn.c_proj, mixed, dtype), config.resid_pdrop, training)
    inner = F.gelu(_linear(block.mlp.c_fc, _norm(block.ln_2, hidden), dtype), approximate="tanh")
    return hidden + _dropout(_linear(block.mlp.c_proj, inner, dtype), config.resid_pdrop, training)


def _attend(attn: Any, x: Tensor, batch: Batch, heads: int, dtype: torch.dtype, training: bool) -> Tensor:
    qkv = _linear(attn.c_attn, x, dtype)
    width = x.shape[-1]
    dropout = attn.attn_dropout.p if training else 0.0
    flash = _variable_length(qkv, width // heads, dropout)
    if flash is not None:
        q, k, v = qkv.view(-1, 3, heads, width // heads).unbind(1)
        mixed: Tensor = flash(q, k, v, batch.starts, batch.starts, batch.longest, batch.longest, window_size=(-1, 0))
        return mixed.reshape(-1, width)
    parts = []
    for group, own in zip(batch.groups, torch.split(qkv, [g.size for g in batch.groups]), strict=True):
        block = padded(own, group).view(group.rows, group.length, 3, heads, width // heads)
        q, k, v = block.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        parts.append(select(out.transpose(1, 2).reshape(group.rows * group.length, width), group.keep))
    return torch.cat(parts)


def _variable_length(qkv: Tensor, size: int, dropout: float) -> Any:
    """Return torch's attention over sequences of any length, where it can compute this; else None."""
    if qkv.device.type != "cuda" or qkv.dtype not in (torch.bfloat16, torch.float16) or size % 8 or dropout:
        return None
    if torch.cuda.get_device_capability(qkv.device) < (8, 0):
        return None
    from torch.nn.attention.varlen import varlen_attn

    causal = "window_size" in signature(varlen_attn).parameters  # its first releases said it in another way
    return varlen_attn if causal else None


def _linear(layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Apply a transformers ``Conv1D``, whose weight is (in, out)."""
    return torch.addmm(layer.bias.to(dtype), x.to(dtype), layer.weight.to(dtype))


def _norm(layer: Any, x: Tensor) -> Tensor:
    normalised: Tensor = F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return normalised


def _dropout(x: Tensor, p: float, training: bool) -> Tensor:
    return F.dropout(x, p, training) if p > 0 else x


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
        qkv = _affine(_norm(block.ln_1, hidden), w[0], w[1], dtype).view(rows, length, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        cache[index, 0, :, :, filled:end], cache[index, 1, :, :, filled:end] = k, v
        mixed = F.scaled_dot_product_attention(
            q, cache[index, 0, :, :, :end], cache[index, 1, :, :, :end], attn_mask=mask
        )
        hidden = hidden + _affine(mixed.transpose(1, 2).reshape(rows, length, width), w[2], w[3], dtype)
        inner = F.gelu(_affine(_norm(block.ln_2, hidden), w[4], w[5], dtype), approximate="tanh")
        hidden = hidden + _affine(inner, w[6], w[7], dtype)
    return (_norm(transformer.ln_f, hidden[:, -1]).to(dtype) @ weights[-1]).float()


def _affine(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.to(dtype).flatten(0, -2) @ weight + bias).view(*x.shape[:-1], weight.shape[1])

"""Causal attention over a packed batch, the same for every family that has a forward pass of its own."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.packing import Batch, padded, select


def packed_attention(qkv: Tensor, heads: int, batch: Batch, *, dropout: float = 0.0) -> Tensor:
    """Return what each head of each id mixes from its sequence up to itself, (N, heads * size).

    qkv: (N, heads + 2 * kept, size), queries, then keys, then values; heads / kept neighbouring heads share a key.
    Sequences of like length are one call, or all of them where torch has attention over any length.
    """
    kept, size = (qkv.shape[1] - heads) // 2, qkv.shape[2]
    flash = variable_length(qkv, size, dropout)
    if flash is not None:
        q, k, v = torch.split(qkv, [heads, kept, kept], 1)
        if heads > kept:
            k, v = k.repeat_interleave(heads // kept, 1), v.repeat_interleave(heads // kept, 1)
        mixed: Tensor = flash(q, k, v, batch.starts, batch.starts, batch.longest, batch.longest, window_size=(-1, 0))
        return mixed.flatten(1)
    exact = qkv.float() if qkv.device.type == "cpu" else qkv  # there, torch is three times slower in bfloat16
    parts = []
    for group, of_group in zip(batch.groups, torch.split(exact, [g.size for g in batch.groups]), strict=True):
        block = padded(of_group, group).view(group.rows, group.length, -1, size).transpose(1, 2)
        q, k, v = torch.split(block, [heads, kept, kept], 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, enable_gqa=heads > kept)
        parts.append(select(out.transpose(1, 2).reshape(group.rows * group.length, heads * size), group.keep))
    return torch.cat(parts).to(qkv.dtype)


def variable_length(qkv: Tensor, size: int, dropout: float) -> Any:
    """Return torch's attention over sequences of any length, where it can compute heads of ``size``; else None."""
    if qkv.device.type != "cuda" or qkv.dtype not in (torch.bfloat16, torch.float16) or dropout:
        return None
    if size % 8 or size > 256:
        return None
    if torch.cuda.get_device_capability(qkv.device) < (8, 0):
        return None
    from torch.nn.attention.varlen import varlen_attn

    causal = "window_size" in signature(varlen_attn).parameters  # its first releases said it in another way
    return varlen_attn if causal else None

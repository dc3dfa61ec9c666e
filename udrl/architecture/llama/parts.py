"""Norm, rotation and gate of Llama's relatives, with backward passes of their own.

Written as torch's elementary operations, each would keep several tensors of its size for the backward pass and read
them all again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def normalised(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return ``x`` (..., width) divided by its root mean square, times ``weight`` (width,)."""
    return _Norm.apply(x, weight, eps)  # type: ignore[no-any-return,no-untyped-call]


def rotated(x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``x`` (N, heads and more, size) with the first ``heads`` turned by angles (N, 1, size)."""
    return _Rotation.apply(x, heads, cos, sin)  # type: ignore[no-any-return,no-untyped-call]


def gated(both: Tensor) -> Tensor:
    """Return silu(gate) * up of ``both`` (..., gate and up)."""
    return _Gate.apply(both)  # type: ignore[no-any-return,no-untyped-call]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1] + eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x * scale
        gain = (grad * unit).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        scaled = grad * weight
        share = (scaled * unit).mean(-1, keepdim=True)
        return torch.addcmul(scaled, unit, share, value=-1).mul_(scale), gain, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return _turned_first(x, heads, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned_first(grad, ctx.heads, cos, -sin), None, None, None


def _turned_first(x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    made = torch.empty_like(x)
    made[:, :heads] = turned(x[:, :heads], cos, sin)
    made[:, heads:] = x[:, heads:]
    return made


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return heads ``x`` (..., heads, size) whose first half is turned against the second by angles (..., 1, size).

    Without gradients. Both halves of ``cos`` are the same, and of ``sin``.
    """
    half = x.shape[-1] // 2
    made = x * cos
    made[..., :half].addcmul_(x[..., half:], sin[..., half:], value=-1)
    made[..., half:].addcmul_(x[..., :half], sin[..., :half])
    return made


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, -1)
        return torch.cat([torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)], -1)

"""Losses behind a head of many ids, a few rows at a time: their logits never stand in memory together in float32."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 128
"""Rows whose logits are computed at once."""


def text_head(model: Any, text_size: int) -> Tensor:
    """Return the rows (text_size, width) of the head of ``model`` that can be predicted."""
    head: Tensor = model.get_output_embeddings().weight
    return head[:text_size] if len(head) > text_size else head  # a slice's backward pass writes the whole matrix again


def token_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-likelihood (M,) in float32 of ``labels`` (M,) behind ``hidden`` (M, width).

    head: (ids, width), of the same number format. Softmax is computed in float32; the gradients of the logits are kept
    for the backward pass in the format of ``hidden``. Probabilities kept so would round to 1 in bfloat16 where a label
    is nearly certain, and what is left to learn would be lost.
    """
    learns = torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad)
    return _Losses.apply(hidden, head, labels, learns)  # type: ignore[no-any-return,no-untyped-call]


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, learns: bool) -> Tensor:
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        changes = hidden.new_empty(len(hidden), len(head)) if learns else None
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            logs, targets = torch.log_softmax(F.linear(hidden[rows], head).float(), -1), labels[rows, None]
            losses[rows] = -logs.gather(1, targets)[:, 0]
            if changes is not None:
                changes[rows] = logs.exp_().scatter_add_(1, targets, logs.new_full(targets.shape, -1.0))
        if changes is not None:
            ctx.save_for_backward(hidden, head, changes)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, head, changes = ctx.saved_tensors
        change = changes * grad.to(hidden.dtype)[:, None]
        below = change @ head if ctx.needs_input_grad[0] else None
        return below, change.t() @ hidden if ctx.needs_input_grad[1] else None, None, None

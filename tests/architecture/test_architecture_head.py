"""Losses behind a large head, a few rows at a time, and their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.head import ROWS, token_losses

COUNT, WIDTH, IDS = 2 * ROWS + 3, 64, 300


def material() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a head, and labels that half of the rows are nearly certain of."""
    numbers = torch.Generator().manual_seed(0)
    hidden = torch.randn(COUNT, WIDTH, generator=numbers).bfloat16().float()
    head = (0.9 * torch.randn(IDS, WIDTH, generator=numbers)).bfloat16().float()
    labels = torch.randint(IDS, (COUNT,), generator=numbers)
    labels[::2] = (hidden @ head.T).argmax(1)[::2]
    return hidden.requires_grad_(), head.requires_grad_(), labels


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
def test_head_gradients_are_those_of_the_cross_entropy_where_a_label_is_nearly_certain_too(
    dtype: torch.dtype, share: float
) -> None:
    hidden, head, labels = material()
    expected = F.cross_entropy(hidden @ head.T, labels, reduction="none")
    losses = token_losses(hidden.to(dtype), head.to(dtype), labels)
    torch.testing.assert_close(losses, expected, rtol=0.02, atol=0.05)
    found = torch.autograd.grad(losses.sum(), (hidden, head), retain_graph=True)
    wanted = torch.autograd.grad(expected.sum(), (hidden, head), retain_graph=True)
    certain = (expected > 1e-3) & (expected < 0.05)
    assert int(certain.sum()) > 10
    for mine, other in [*zip(found, wanted, strict=True), (found[0][certain], wanted[0][certain])]:
        assert float((mine - other).norm()) < share * float(other.norm())

"""LoRA: frozen matrices that are changed by products of low rank (Hu et al. 2021, arXiv:2106.09685).

They are torch parametrisations: whoever reads a layer's weights (the packed forward, generating, saving) reads the
changed matrix, so nothing else knows of them. The rows of the command space stay fully trained. The weights' gradients
are computed as without LoRA; what it saves is the optimiser's state and, above all, what can be forgotten.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from udrl.student.network import StudentModel

ALPHA = 16.0
"""The product counts ALPHA / rank times, so that the best learning rate hardly depends on the rank."""


class LowRank(nn.Module):
    """Adds the product of two trained matrices, (..., rows, rank) and (..., rank, columns); at first it is 0."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        """Make the change of a ``weight`` (rows, columns), or (experts, rows, columns) with a change an expert."""
        super().__init__()
        self.scale = ALPHA / rank
        *experts, rows, columns = weight.shape
        self.first = nn.Parameter(torch.randn(*experts, rows, rank) * rows**-0.5)
        self.second = nn.Parameter(torch.zeros(*experts, rank, columns))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the changed weight."""
        add = torch.addmm if weight.ndim == 2 else torch.baddbmm
        return add(weight, self.first, self.second, alpha=self.scale)


def add_lora(student: StudentModel, rank: int) -> None:
    """Freeze ``student`` but for its command rows, and give every matrix of its blocks a change of ``rank``.

    The experts of a mixture stand in one parameter (experts, rows, columns), and each gets a change of its own.
    """
    for parameter in student.model.parameters():
        parameter.requires_grad_(False)
    for layer in list(student.blocks.modules()):
        for name, weight in list(layer.named_parameters(recurse=False)):
            if weight.ndim in (2, 3):
                parametrize.register_parametrization(layer, name, LowRank(weight, rank).to(weight.device))


def merge_lora(student: StudentModel) -> None:
    """Put the changed matrices in place of the frozen ones, so that an ordinary model remains."""
    for layer in list(student.blocks.modules()):
        if parametrize.is_parametrized(layer):
            for name in list(layer.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    for parameter in student.model.parameters():
        parameter.requires_grad_(True)

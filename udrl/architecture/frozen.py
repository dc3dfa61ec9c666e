"""Blocks at the bottom of a network that do not learn: they compute, and nothing of them is stored or computed back.

What enters the first learning block then has no gradient. The rows of the command space learn nonetheless: a block
adds to what it reads, so what was embedded still stands in what leaves the frozen blocks, and its gradient there is
taken for its gradient at the bottom. What later places have read of it within the frozen blocks is left out.
"""

from __future__ import annotations

from torch import Tensor, nn


def frozen(blocks: nn.ModuleList) -> int:
    """Return how many of ``blocks``, from the first on, have no parameter that learns."""
    for index, block in enumerate(blocks):
        if any(parameter.requires_grad for parameter in block.parameters()):
            return index
    return len(blocks)


def carried(hidden: Tensor, embeddings: Tensor) -> Tensor:
    """Return ``hidden``, which leaves the frozen blocks, with the gradient of the ``embeddings`` that entered them."""
    return hidden + (embeddings - embeddings.detach())

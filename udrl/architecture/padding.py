"""Caches whose rows are padded on the left, so that the newest ids of all stand at one place."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from udrl.architecture.protocol import CacheShape

GROWTH = 32
"""Places that a cache grows by when it is full: most completions end long before their limit."""


class PaddedCache:
    """Keys and values of B rows: all of a `Cache` but its ``run``, which a family adds.

    content: (layers, 2, B, heads, capacity, size), of which ``filled`` places are read; starts: (B,) the place of each
    row's first id. What stands before it is finite and hidden by the mask.
    """

    joins = True

    def __init__(self, shape: CacheShape, real: Tensor, dtype: torch.dtype) -> None:
        """Make room for prompts whose real places ``real`` (B, L) says, and a little more."""
        rows, longest = real.shape
        self.starts, self.filled = longest - real.sum(1), 0
        places = (shape.layers, 2, rows, shape.heads, longest + GROWTH, shape.size)
        self.content = torch.empty(places, dtype=dtype, device=real.device)

    def extend(self, length: int) -> Tensor:
        """Count ``length`` more places as filled, which the caller writes; return what each of them may see.

        That is (B, 1, length, filled), or (B, 1, 1, filled) for a single one.
        """
        before, self.filled = self.filled, self.filled + length
        if self.filled > self.content.shape[-2]:
            self.content = stacked([self.content[..., :before, :]], spare=length - 1 + GROWTH)
        order = torch.arange(self.filled, device=self.starts.device)
        mask = (order >= self.starts[:, None])[:, None, None]
        if length > 1:  # causal among the new places
            mask = mask & (order <= order[before:, None])
            mask = mask | (order == order[before:, None])  # padding sees itself: no empty softmax
        return mask

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, and without the places that none of them fills."""
        starts = self.starts[rows]
        unused = int(starts.min())
        self.content = stacked([self.content[..., unused : self.filled, :].index_select(2, rows)], spare=GROWTH)
        self.starts, self.filled = starts - unused, self.filled - unused

    def join(self, other: Self) -> None:
        """Take in the rows of ``other`` behind the own ones."""
        filled = max(self.filled, other.filled)
        self.content = stacked([one.content[..., : one.filled, :] for one in (self, other)], spare=GROWTH)
        self.starts = torch.cat([one.starts + filled - one.filled for one in (self, other)])
        self.filled = filled


def stacked(parts: list[Tensor], *, spare: int = 0) -> Tensor:
    """Return the rows of all ``parts`` (..., B, heads, places, size), the shorter ones padded on the left with zeros.

    spare: further places at the end, whose content is undefined.
    """
    *outer, _, heads, _, size = parts[0].shape
    filled = max(part.shape[-2] for part in parts)
    made = parts[0].new_empty((*outer, sum(part.shape[-4] for part in parts), heads, filled + spare, size))
    first = 0
    for part in parts:
        rows, unused = made.narrow(-4, first, part.shape[-4]), filled - part.shape[-2]
        rows[..., :unused, :] = 0
        rows[..., unused:filled, :] = part
        first += part.shape[-4]
    return made

"""Torch's sessions of the decode loop: a network's cache and how many ids each row has, for numpy on the outside.

Prompts are left-padded in memory, the padding is masked, and positions count from each prompt's first id, so that a
prompt's result does not depend on what else is in its batch (exactly so, greedy, in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from udrl.architecture.protocol import Cache

Array = np.ndarray[Any, Any]


class TorchSession:
    """One batch under way. lengths: (B,) ids that each row has, prompt and completion.

    On the CPU the logits that it gives are torch's own memory.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        caches: Callable[[Tensor], Cache],
        cache: Cache,
        lengths: Tensor,
    ) -> None:
        self.embed, self.caches, self.cache, self.lengths = embed, caches, cache, lengths

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[TorchSession, Array]:
        """Read other prompts with the same weights."""
        return read_prompts(prompts, embed=self.embed, caches=self.caches, device=self.lengths.device)

    @torch.inference_mode()
    def step(self, ids: Array) -> Array:
        """Read one more id a row; return the logits behind it."""
        new = self.embed(torch.from_numpy(ids).to(self.lengths.device)[:, None])
        logits: Array = self.cache.run(new, self.lengths[:, None]).cpu().numpy()
        self.lengths = self.lengths + 1
        return logits

    @torch.inference_mode()
    def keep(self, rows: Array) -> None:
        """Go on with these rows only."""
        places = torch.from_numpy(rows).to(self.lengths.device)
        self.lengths = self.lengths[places]
        self.cache.keep(places)

    @property
    def joins(self) -> bool:
        """Say what the cache says."""
        return self.cache.joins

    @torch.inference_mode()
    def join(self, other: Self) -> None:
        """Take in the rows of ``other`` behind the own ones."""
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.cache.join(other.cache)


@torch.inference_mode()
def read_prompts(
    prompts: Sequence[Sequence[int]],
    *,
    embed: Callable[[Tensor], Tensor],
    caches: Callable[[Tensor], Cache],
    device: torch.device | str,
) -> tuple[TorchSession, Array]:
    """Read the prompts; return their session and the logits (B, text ids) behind each.

    embed: makes of ids (B, L) what the cache reads; caches: makes an empty cache, told which places (B, L) are real.
    """
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    real = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        real[row, longest - len(prompt) :] = True
    ids, real = ids.to(device), real.to(device)
    positions = (real.cumsum(1) - 1).clamp(min=0)
    cache = caches(real)
    logits: Array = cache.run(embed(ids), positions).cpu().numpy()
    return TorchSession(embed, caches, cache, real.sum(1)), logits

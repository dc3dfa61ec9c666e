"""The torch engine: prompts are left-padded in memory, the padding is masked, and positions count from each prompt's
first id, so that a prompt's result does not depend on what else is in its batch (exactly so, greedy, in float32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from udrl.architecture.protocol import Cache
from udrl.commands import CommandSpace
from udrl.decoding.engine import Array, Session
from udrl.student.network import StudentModel


class TorchEngine:
    """A student's network on the device where its weights are; matrix products in ``dtype``."""

    name = "torch"

    def __init__(self, model: StudentModel, dtype: torch.dtype = torch.float32) -> None:
        self.model = model.eval()
        self.dtype = dtype

    @property
    def precision(self) -> str:
        """Number format of the matrix products."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def space(self) -> CommandSpace:
        """The command space of the network."""
        return self.model.space

    @property
    def parameters(self) -> int:
        """Number of parameters of the checkpoint."""
        return self.model.parameter_count

    @property
    def context(self) -> int:
        """Longest sequence, prompt and completion together, in ids."""
        return self.model.context

    @property
    def device(self) -> str:
        """Where the weights are."""
        return str(self.model.rows.weight.device)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        """Read the prompts; return their session and the logits (B, text ids) behind each."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        real = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            real[row, longest - len(prompt) :] = True
        ids, real = ids.to(self.device), real.to(self.device)
        positions = (real.cumsum(1) - 1).clamp(min=0)
        network = self.model
        cache = network.architecture.cache(network.model, real, dtype=self.dtype, text_size=self.space.base)
        logits: Array = cache.run(network.embed(ids), positions).cpu().numpy()
        return _Session(network, cache, real.sum(1)), logits


class _Session:
    """One batch under way. lengths: (B,) ids that each row has, prompt and completion.

    On the CPU the logits that it gives are torch's own memory.
    """

    def __init__(self, network: StudentModel, cache: Cache, lengths: Tensor) -> None:
        self.network, self.cache, self.lengths = network, cache, lengths

    @torch.inference_mode()
    def step(self, ids: Array) -> Array:
        """Read one more id a row; return the logits behind it."""
        embeddings = self.network.embed(torch.from_numpy(ids).to(self.lengths.device))[:, None]
        logits: Array = self.cache.run(embeddings, self.lengths[:, None]).cpu().numpy()
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

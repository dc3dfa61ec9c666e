"""The torch engine: prompts are left-padded in memory, the padding is masked, and positions count from each prompt's
first id, so that a prompt's result does not depend on what else is in its batch (exactly so, greedy, in float32).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from udrl.architecture.protocol import Cache
from udrl.commands import CommandSpace
from udrl.decoding.engine import Session
from udrl.encoder.loading import choose_precision
from udrl.errors import StudentError
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
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.rows.weight.device

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Tensor]:
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
        logits = cache.run(network.embed(ids), positions)
        return _Session(network, cache, real.sum(1)), logits


class _Session:
    """One batch under way. lengths: (B,) ids that each row has, prompt and completion."""

    def __init__(self, network: StudentModel, cache: Cache, lengths: Tensor) -> None:
        self.network, self.cache, self.lengths = network, cache, lengths

    def step(self, ids: Tensor) -> Tensor:
        """Read one more id a row; return the logits behind it."""
        logits = self.cache.run(self.network.embed(ids)[:, None], self.lengths[:, None])
        self.lengths = self.lengths + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.lengths = self.lengths[rows]
        self.cache.keep(rows)


def pick_device(device: str) -> torch.device:
    """Return the torch device that "auto", "cpu", "cuda", "cuda:1" or "mps" stands for; StudentError if absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise StudentError(
            f"device '{device}' cannot be used ({str(error).splitlines()[0]}): try --device cpu"
        ) from error


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the format of matrix products: "auto" is bf16 where the hardware multiplies it itself, else fp32."""
    return torch.bfloat16 if choose_precision(precision, device.type) == "bf16" else torch.float32

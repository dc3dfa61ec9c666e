"""The torch engine: prompts are left-padded in memory, the padding is masked, and positions count from each prompt's
first id, so that a prompt's result does not depend on what else is in its batch (exactly so, greedy, in float32).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from udrl.architecture.any import WholeSession
from udrl.architecture.gpt2 import cached_logits, cast_weights
from udrl.commands import CommandSpace
from udrl.decoding.engine import Session
from udrl.encoder.loading import choose_precision
from udrl.errors import StudentError
from udrl.student.network import StudentModel

GROWTH = 32
"""Places that the cache grows by when it is full."""


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
        kind = _PackedSession if self.model.packed else WholeSession
        session: _PackedSession | WholeSession = kind(self.model, real, self.dtype)
        return session, session.run(self.model.embed(ids), positions)


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


class _PackedSession:
    """GPT-2 with one cache, which grows as the completions do: most end long before their limit."""

    def __init__(self, student: StudentModel, real: Tensor, dtype: torch.dtype) -> None:
        config = student.model.config
        rows, longest = real.shape
        size = config.n_embd // config.n_head
        self.student, self.filled = student, 0
        shape = (config.n_layer, 2, rows, config.n_head, longest + GROWTH, size)
        self.cache = torch.empty(shape, dtype=dtype, device=real.device)
        self.visible = F.pad(real, (0, GROWTH), value=True)
        self.lengths = real.sum(1)
        self.weights = cast_weights(student.model, dtype, student.space.base)

    def run(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        logits = cached_logits(
            self.student.model, self.weights, embeddings, positions, self.cache, self.visible, self.filled
        )
        self.filled += embeddings.shape[1]
        return logits

    def step(self, ids: Tensor) -> Tensor:
        if self.filled == self.cache.shape[4]:
            self.cache = _room(self.cache, self.filled, GROWTH)
            self.visible = F.pad(self.visible, (0, GROWTH), value=True)
        logits = self.run(self.student.embed(ids)[:, None], self.lengths[:, None])
        self.lengths = self.lengths + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        spare = self.cache.shape[4] - self.filled
        self.cache = _room(self.cache[:, :, rows, :, : self.filled], self.filled, spare)
        self.visible, self.lengths = self.visible[rows], self.lengths[rows]


def _room(cache: Tensor, filled: int, spare: int) -> Tensor:
    """Return the ``filled`` places of ``cache`` with ``spare`` more behind them, whose content is undefined."""
    layers, two, rows, heads, _, size = cache.shape
    larger = cache.new_empty((layers, two, rows, heads, filled + spare, size))
    larger[..., :filled, :] = cache[..., :filled, :]
    return larger

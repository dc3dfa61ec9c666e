"""The torch engine: a student's network in sessions of `udrl.architecture.session`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from udrl.architecture.protocol import Cache
from udrl.architecture.session import read_prompts
from udrl.commands import CommandSpace
from udrl.decoding.engine import Array, Session
from udrl.student.network import StudentModel


class TorchEngine:
    """A student's network on the device where its weights are; matrix products in ``dtype``."""

    name = "torch"

    def __init__(self, model: StudentModel, dtype: torch.dtype = torch.float32) -> None:
        self.model = model.eval()
        self.dtype = dtype
        self._prepared: tuple[object, Callable[[Tensor], Cache]] | None = None

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

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        """Read the prompts; return their session and the logits (B, text ids) behind each."""
        return read_prompts(prompts, embed=self.model.embed, caches=self._caches(), device=self.device)

    def _caches(self) -> Callable[[Tensor], Cache]:
        """Return what makes caches. It holds weights in another form, and is made anew where one has changed since."""
        network = self.model
        weights = [(one.data_ptr(), one._version) for one in network.parameters()]
        if self._prepared is None or self._prepared[0] != weights:
            made = network.architecture.caches(network.model, dtype=self.dtype, text_size=self.space.base)
            self._prepared = weights, made
        return self._prepared[1]

"""What computes a student's next tokens, behind one interface: the loop that writes sees sessions and nothing else.

Guidance, required and banned words, streaming, best-of-N and calibration work on every engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from udrl.commands import CommandSpace

Array = np.ndarray[Any, Any]

ENGINES = ("auto", "torch", "onnx-int8", "onnx-fp32")
"""What can be asked for; auto is the best verified export on a CPU, else torch."""


class Session(Protocol):
    """One batch under way."""

    def step(self, ids: Array) -> Array:
        """Take the newest ids (B,) and return float32 logits (B, text ids), which the caller may write to."""
        ...

    def keep(self, rows: Array) -> None:
        """Go on with these rows (n,) of the batch only, in this order; the memory of the others is given back."""
        ...

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        """Do what the engine's ``start`` does, with what this session has of the weights already."""
        ...

    @property
    def joins(self) -> bool:
        """Whether it can `join`; else the loop lets new rows wait until those under way have ended."""
        ...

    def join(self, other: Self) -> None:
        """Take in the rows of ``other`` behind the own ones; ``other``, of the same engine, is of no use after that."""
        ...


class Starter(Protocol):
    """Starts sessions: all that the loop needs. context: ids that a prompt and its completion may have."""

    @property
    def context(self) -> int: ...

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        """Read the prompts, of any lengths; return their session and the logits (B, text ids) behind each."""
        ...


class Engine(Starter, Protocol):
    """What computes for a student. parameters: of the checkpoint."""

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str:
        """Number format of the matrix products."""
        ...

    @property
    def space(self) -> CommandSpace: ...
    @property
    def parameters(self) -> int: ...
    @property
    def device(self) -> str:
        """Where it computes: cpu, cuda:0. What it takes and gives lies in the memory of the CPU."""
        ...

"""What a reward is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Reward(Protocol):
    """A named function (input, completion) -> number with a declared range.

    Produced by this package, by ``module:function`` or by an installed package's entry point; consumed by
    ``udrl.rewards.scoring``, generation (``--score``, best-of) and the command space, which takes the range
    and unit of the attribute of that name from here. Numbers outside [low, high] and NaN are errors.
    """

    @property
    def name(self) -> str:
        """The name of the return, the attribute and the command: an identifier such as ``relevance``."""

    @property
    def low(self) -> float:
        """The lowest value there can be."""

    @property
    def high(self) -> float:
        """The highest value there can be."""

    @property
    def unit(self) -> str:
        """What the number counts, for axes and tables; empty for a pure number."""

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Return one number for each pair; both sequences have the same length."""

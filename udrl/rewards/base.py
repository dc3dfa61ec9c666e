"""What a reward is, and the checks that every one of them passes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from udrl.errors import RewardError


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


@dataclass(frozen=True)
class RewardFacts:
    """What run.json keeps of a reward: enough to name, plot and load it again.

    source: what ``load_reward`` takes, or ``column`` where the values come from the user's own data.
    """

    name: str
    low: float
    high: float
    unit: str
    source: str


def compute(reward: Reward, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Return the values of ``reward``, checked.

    Raises RewardError that names the reward and, where one is at fault, the pair: for an exception in the
    reward's own code, a wrong number of values, NaN, and values outside the declared range.
    """
    try:
        values = [float(value) for value in reward(inputs, completions)]
    except RewardError:
        raise
    except Exception as error:
        raise RewardError(
            f"reward '{reward.name}' failed on {len(inputs)} pairs: {type(error).__name__}: {error}"
        ) from error
    if len(values) != len(inputs):
        raise RewardError(
            f"reward '{reward.name}' returned {len(values)} values for {len(inputs)} pairs: return as many"
        )
    for value, text, completion in zip(values, inputs, completions, strict=True):
        if not reward.low <= value <= reward.high:
            raise RewardError(
                f"reward '{reward.name}' returned {value} for input {_short(text)} and completion "
                f"{_short(completion)}, outside its declared range [{reward.low:g}, {reward.high:g}]: "
                "correct the function or its range"
            )
    return values


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

"""What a reward is, and the checks that every one of them passes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from udrl.errors import RewardError


class Reward(Protocol):
    """A named function (input, completion) -> number with a declared range.

    Produced by this package, by ``module:function`` or by an installed package's entry point; consumed by
    ``udrl.rewards.scoring``, generation (``--score``, best-of) and the command space, which takes the range
    and unit of the attribute of that name from here. Numbers outside [low, high] and NaN are errors.

    A reward that cannot be computed for every input has two members more: ``knows(input) -> bool``, and ``needs``,
    which says why not and what to do. What it does not know is "not scored", see ``covered``. One that cannot be
    computed for every pair has ``scorable(inputs, completions) -> list[bool]`` too, see ``known_pairs``.
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


def covered(reward: object, inputs: Sequence[str]) -> list[bool]:
    """Say for each of ``inputs`` whether ``reward`` can be computed for it: by its ``knows`` where it has one."""
    knows = getattr(reward, "knows", None)
    return [True] * len(inputs) if knows is None else [bool(knows(text)) for text in inputs]


def known_inputs(reward: object, inputs: Sequence[str]) -> list[str]:
    """Return those of ``inputs`` that ``reward`` can be computed for; all of them where it is None."""
    return [text for text, known in zip(inputs, covered(reward, inputs), strict=True) if known]


def known_pairs(reward: object, inputs: Sequence[str], completions: Sequence[str]) -> list[int]:
    """Return the places of the pairs that ``reward`` can be computed for: by its ``knows`` and its ``scorable``."""
    rows = [row for row, known in enumerate(covered(reward, inputs)) if known]
    scorable = getattr(reward, "scorable", None)
    if scorable is None or not rows:
        return rows
    pairs = scorable([inputs[row] for row in rows], [completions[row] for row in rows])
    return [row for row, known in zip(rows, pairs, strict=True) if known]


def compute_known(
    reward: Reward, inputs: Sequence[str], completions: Sequence[str], *, names: Sequence[str] | None = None
) -> list[float | None]:
    """Return what ``compute`` does, and None, "not scored", for inputs and pairs that the reward does not know."""
    rows = known_pairs(reward, inputs, completions)
    known = compute(
        reward,
        [inputs[row] for row in rows],
        [completions[row] for row in rows],
        names=None if names is None else [names[row] for row in rows],
    )
    values: list[float | None] = [None] * len(inputs)
    for row, value in zip(rows, known, strict=True):
        values[row] = value
    return values


def compute(
    reward: Reward, inputs: Sequence[str], completions: Sequence[str], *, names: Sequence[str] | None = None
) -> list[float]:
    """Return the values of ``reward``, checked.

    names: what each pair is called in a message, such as ``episode 3fa2..``. Raises RewardError that names the reward
    and the pair at fault: for an exception in the reward's own code (halving the pairs finds the one), values that
    are no numbers, NaN, and values outside the declared range; and for a wrong number of values.
    """
    try:
        raw = list(reward(inputs, completions))
    except RewardError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's own code, of which anything can come
        culprit, cause = _culprit(reward, inputs, completions, error)
        where = f"all {len(inputs)} pairs together" if culprit is None else _pair(inputs, completions, names, culprit)
        raise RewardError(
            f"reward '{reward.name}' failed on {where} with {type(cause).__name__}: {cause}; correct the function and "
            "start again, what was finished before is kept"
        ) from cause
    if len(raw) != len(inputs):
        raise RewardError(
            f"reward '{reward.name}' returned {len(raw)} values for {len(inputs)} pairs, the first of them "
            f"{_pair(inputs, completions, names, 0) if inputs else 'none'}: return one number for each pair"
        )
    values = []
    for index, item in enumerate(raw):
        try:
            value = float(item)
        except (TypeError, ValueError):
            raise RewardError(
                f"reward '{reward.name}' returned {_short(item)}, which is no number, for "
                f"{_pair(inputs, completions, names, index)}: return one number for each pair"
            ) from None
        if not reward.low <= value <= reward.high:
            raise RewardError(
                f"reward '{reward.name}' returned {value} for {_pair(inputs, completions, names, index)}, outside its "
                f"declared range [{reward.low:g}, {reward.high:g}]: correct the function or its range"
            )
        values.append(value)
    return values


@dataclass(frozen=True)
class Checked:
    """A reward every value of which passes through ``compute``; otherwise the ``reward`` itself."""

    reward: Reward

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        return compute(self.reward, inputs, completions)

    def __getattr__(self, name: str) -> Any:
        if name == "reward":  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.reward, name)


def _culprit(
    reward: Reward, inputs: Sequence[str], completions: Sequence[str], error: Exception
) -> tuple[int | None, Exception]:
    """Return a pair that the reward fails on by itself and its error; None where only all together fail."""
    low, high = 0, len(inputs)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            list(reward(inputs[low:middle], completions[low:middle]))
            low = middle
        except Exception as raised:  # noqa: BLE001
            high, error = middle, raised
    try:
        list(reward(inputs[low:high], completions[low:high]))
    except Exception as raised:  # noqa: BLE001
        return (low, raised) if inputs else (None, raised)
    return None, error


def _pair(inputs: Sequence[str], completions: Sequence[str], names: Sequence[str] | None, index: int) -> str:
    name = "" if names is None else f"{names[index]}, "
    return f"{name}input {_short(inputs[index])} and completion {_short(completions[index])}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 62 else f"{text[:58]}...{text[-1]}"

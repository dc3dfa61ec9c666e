"""Constraints: how much of what a request asks for, and a program can check, a completion keeps."""

from __future__ import annotations

from collections.abc import Sequence

from udrl.data.constraints import constraints_of, kept
from udrl.errors import RewardError


class Constraints:
    """The share of the request's constraints that the completion keeps, read from the request's text.

    The kinds and their words are those of ``udrl.data.constraints``; what is asked for in other words is not seen.
    """

    name = "constraints"
    low = 0.0
    high = 1.0
    unit = ""
    needs = "it states no constraint in the words of docs/tasks.md"

    def knows(self, text: str) -> bool:
        """Say whether the input ``text`` states a constraint that can be checked."""
        return bool(constraints_of(text))

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Return the share for each pair; raises RewardError for an input without a constraint."""
        return [self._share(text, completion) for text, completion in zip(inputs, completions, strict=True)]

    def _share(self, text: str, completion: str) -> float:
        share = kept(text, completion)
        if share is None:
            raise RewardError(f"reward '{self.name}' cannot be computed for the input {text[:60]!r}: {self.needs}")
        return share

"""Novelty: how much of a completion is not copied from its input."""

from __future__ import annotations

from collections.abc import Sequence

from udrl import metrics


class Novelty:
    """1 - the share of the completion's word 4-grams that stand in the input: ``udrl.metrics.novelty``."""

    name = "novelty"
    low = 0.0
    high = 1.0
    unit = ""

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Return the novelty of each completion."""
        return [metrics.novelty(text, completion) for text, completion in zip(inputs, completions, strict=True)]

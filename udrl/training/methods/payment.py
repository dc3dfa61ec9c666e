"""What a completion is paid by GRPO: one reward of the run, or the weighted sum of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from udrl.data.facts import RunFacts
from udrl.data.known_answers import Answers
from udrl.errors import UsageError
from udrl.rewards import as_scored
from udrl.rewards.protocol import Reward, compute_known, covered

Paid = float | None
"""A payment or a reward; None: not scored, as a reward cannot be computed for this completion."""


@dataclass(frozen=True)
class Payment:
    """Rewards with their weights. One completion scored by all of them is one reward call."""

    parts: tuple[tuple[Reward, float], ...]

    @property
    def span(self) -> float:
        """How far the payment of two completions can differ."""
        return sum(abs(weight) * (reward.high - reward.low) for reward, weight in self.parts)

    def knows(self, text: str) -> bool:
        """Say whether every reward can be computed for the input ``text``."""
        return all(covered(reward, [text])[0] for reward, _ in self.parts)

    @property
    def lowest(self) -> float:
        """The least that a completion can be paid."""
        return sum(min(weight * reward.low, weight * reward.high) for reward, weight in self.parts)

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> tuple[list[Paid], dict[str, list[Paid]]]:
        """Return each pair's payment, and each reward's own values by its name."""
        values = {reward.name: compute_known(reward, inputs, completions) for reward, _ in self.parts}
        paid: list[Paid] = [0.0] * len(inputs)
        for reward, weight in self.parts:
            paid = [
                None if so_far is None or value is None else so_far + weight * value
                for so_far, value in zip(paid, values[reward.name], strict=True)
            ]
        return paid, values


def mean_paid(paid: Sequence[Paid], otherwise: float) -> float:
    """Return the mean of what was scored; ``otherwise`` where nothing was."""
    known = [value for value in paid if value is not None]
    return fmean(known) if known else otherwise


def payment_of(
    wanted: str | Mapping[str, float],
    encoder: str | None,
    facts: RunFacts,
    answers: Answers,
    *,
    needed_by: str,
) -> Payment:
    """Return the run's rewards of these names; UsageError where one cannot be computed for new completions.

    wanted: one name, or weights by name. encoder, facts: what the run was scored with; answers: the run's; needed_by:
    for the message.
    """
    scored = [reward.name for reward in facts.score.rewards]
    weights = {wanted: 1.0} if isinstance(wanted, str) else wanted
    rewards = as_scored(weights, facts, encoder=encoder, answers=answers)
    for name in weights:
        if name not in rewards:
            raise UsageError(
                f"the reward '{name}' cannot be computed for new completions, as {needed_by} needs it; the run was "
                f"scored with: {', '.join(scored) or 'nothing'}"
            )
    several = [reward.name for reward in rewards.values()]
    if len(set(several)) < len(several):
        raise UsageError(f"{needed_by} knows rewards by their names, found {', '.join(several)}: take each but once")
    return Payment(tuple((rewards[name], weight) for name, weight in weights.items()))

"""What a completion is paid by GRPO: one reward of the run, or the weighted sum of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from udrl.data.facts import RunFacts
from udrl.data.known_answers import Answers
from udrl.errors import UsageError
from udrl.rewards import as_scored
from udrl.rewards.protocol import Reward, compute, covered


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

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> tuple[list[float], dict[str, list[float]]]:
        """Return each pair's payment, and each reward's own values by its name."""
        values = {reward.name: compute(reward, inputs, completions) for reward, _ in self.parts}
        paid = [0.0] * len(inputs)
        for reward, weight in self.parts:
            paid = [so_far + weight * value for so_far, value in zip(paid, values[reward.name], strict=True)]
        return paid, values


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
    found = as_scored(weights, facts, encoder=encoder, answers=answers)
    for name in weights:
        if name not in found:
            raise UsageError(
                f"the reward '{name}' cannot be computed for new completions, as {needed_by} needs it; the run was "
                f"scored with: {', '.join(scored) or 'nothing'}"
            )
    several = [reward.name for reward in found.values()]
    if len(set(several)) < len(several):
        raise UsageError(f"{needed_by} knows rewards by their names, found {', '.join(several)}: take each but once")
    return Payment(tuple((found[name], weight) for name, weight in weights.items()))

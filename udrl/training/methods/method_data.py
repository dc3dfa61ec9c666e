"""What a method learns from: which of the run's training episodes, with which weights, or in which pairs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from udrl.data.episode import DERIVED, Episode
from udrl.errors import StudentError, UsageError, suggestion
from udrl.training.methods import Dpo, Grpo, Method, Sft, Top, Udrl, Weighted

HEAVIEST = 20.0
"""Largest weight before the weights of a task are brought to a mean of 1 (as in arXiv 1910.00177)."""


@dataclass(frozen=True)
class Pair:
    """Two completions of one input, the first with the higher return."""

    chosen: Episode
    rejected: Episode


@dataclass(frozen=True)
class Pool:
    """What there is to learn from.

    weights: one an episode, of mean 1 within each task; None where all count alike. pairs: of DPO. size: what one
    epoch goes through. scored: returns that the method has looked at, each of which a reward had to be called for.
    """

    episodes: list[Episode]
    size: int
    scored: int
    weights: list[float] | None = None
    pairs: tuple[Pair, ...] = ()


def pool_of(method: Method, episodes: Sequence[Episode]) -> Pool:
    """Return what ``method`` learns from among a run's kept training ``episodes``.

    Raises StudentError where nothing is left, such as an input with two completions for DPO.
    """
    if isinstance(method, Udrl):
        return Pool(list(episodes), len(episodes), len(episodes))
    written = without_derived(episodes)
    if not written:
        raise StudentError(f"--method {method.name} leaves derived episodes out, and there are no others: "
                           "run udrl synth first")  # fmt: skip
    if isinstance(method, Sft):
        return Pool(written, len(written), 0)
    if isinstance(method, Grpo):
        inputs = len({(e.task, e.input) for e in written})
        return Pool(written, inputs * method.group_size * method.updates, 0)
    scored = [e for e in written if _return(e, method.reward) is not None]
    if not scored:
        known = sorted({name for e in written for name in e.returns})
        raise StudentError(
            f"no training episode has a return of '{method.reward}'{suggestion(method.reward, known)}; there are: "
            f"{', '.join(known) or 'none'}: score the run with it first (udrl score)"
        )
    if isinstance(method, Top):
        best = top(scored, method.share, method.reward)
        return Pool(best, len(best), len(scored))
    if isinstance(method, Weighted):
        return Pool(scored, len(scored), len(scored), weights=weights_of(scored, method))
    pairs = pairs_of(scored, method)
    if not pairs:
        raise StudentError(
            f"no input has two completions whose '{method.reward}' is {method.gap:g} of its task's range apart: lower "
            "--gap, or ask the teacher for more completions an input (udrl synth --samples)"
        )
    return Pool(scored, len(pairs), len(scored), pairs=tuple(pairs))


def affordable_steps(method: Method, batch_size: int, max_samples: int | None, planned: int) -> int:
    """Return how many of the ``planned`` steps GRPO can make with so many completions; a batch is written at once.

    Raises UsageError where it is not even one. Groups that dynamic sampling replaces are not planned for.
    """
    if max_samples is None or not isinstance(method, Grpo):
        return planned
    if max_samples < batch_size:
        raise UsageError(
            f"--max-samples {max_samples:,} does not suffice for one batch of {batch_size} completions: raise it, or "
            "lower --batch-size"
        )
    return min(planned, max_samples // batch_size * method.updates)


def without_derived(episodes: Sequence[Episode]) -> list[Episode]:
    """Return the episodes that were written for their input: all but the derived ones."""
    return [e for e in episodes if e.origin not in DERIVED]


def top(episodes: Sequence[Episode], share: float, reward: str) -> list[Episode]:
    """Return the ``share`` of each task's episodes with the highest returns, at least one, in their order."""
    best = set()
    for members in _by_task(episodes).values():
        order = sorted(members, key=lambda e: (-_value(e, reward), e.episode_id))
        best |= {e.episode_id for e in order[: math.ceil(round(share * len(order), 9))]}
    return [e for e in episodes if e.episode_id in best]


def weights_of(episodes: Sequence[Episode], method: Weighted) -> list[float]:
    """Return each episode's weight; all 1 in a task whose returns are all equal."""
    weight_of: dict[str, float] = {}
    for members in _by_task(episodes).values():
        returns = np.array([_value(e, method.reward) for e in members])
        spread = returns.std()
        z = (returns - returns.mean()) / spread if spread > 1e-12 else np.zeros(len(returns))
        weights = np.exp(np.minimum(z / method.temperature, math.log(HEAVIEST)))
        weight_of |= dict(zip([e.episode_id for e in members], (weights / weights.mean()).tolist(), strict=True))
    return [weight_of[e.episode_id] for e in episodes]


def pairs_of(episodes: Sequence[Episode], method: Dpo) -> list[Pair]:
    """Return pairs of completions of one task and input: the best with the worst, the second best with the second
    worst, and so on, as long as their returns are the gap apart. No completion stands in two pairs."""
    pairs = []
    for members in _by_task(episodes).values():
        low, high = np.quantile([_value(e, method.reward) for e in members], [0.1, 0.9])
        least = method.gap * float(high - low)
        of_input: dict[str, list[Episode]] = defaultdict(list)
        for episode in members:
            of_input[episode.input_id].append(episode)
        for several in of_input.values():
            order = sorted(several, key=lambda e: (-_value(e, method.reward), e.episode_id))
            for rank in range(len(order) // 2):
                pair = Pair(order[rank], order[-1 - rank])
                difference = _value(pair.chosen, method.reward) - _value(pair.rejected, method.reward)
                if difference > 0 and difference >= least and pair.chosen.completion != pair.rejected.completion:
                    pairs.append(pair)
    return pairs


def _by_task(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    by_task: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.task].append(episode)
    return by_task


def _return(episode: Episode, reward: str) -> float | None:
    value = episode.returns.get(reward)
    return None if value is None or not math.isfinite(value) else value


def _value(episode: Episode, reward: str) -> float:
    value = _return(episode, reward)
    assert value is not None  # those without one were left out
    return value

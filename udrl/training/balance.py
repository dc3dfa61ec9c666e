"""An order of training that sees every bin of a task equally often.

Quantile bins hold like numbers of episodes by construction. Bins that ties have merged do not: where two thirds of a
task's completions have novelty 1, two thirds of what a student sees says nothing about the rest of the range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from udrl.architecture.packing import Indices
from udrl.commands import CommandSpace
from udrl.training.examples import fill_in_passes, mixing_weights


def balanced_order(
    tasks: Sequence[str],
    positions: Sequence[Mapping[str, float]],
    space: CommandSpace,
    *,
    count: int,
    temperature: float,
    seed: int,
) -> Indices:
    """Return ``count`` example indices: a task by its share, an attribute of it, a bin of that, an episode in the bin.

    tasks, positions: each example's; its bin is the nearest centre of the task's scale. Attributes and non-empty bins
    are equally likely, a bin's episodes come in shuffled passes; a task whose episodes have no value at all is drawn in
    shuffled passes. The order depends on the arguments alone.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(tasks)
    weights = mixing_weights(tasks, temperature)
    drawn = rng.choice(len(weights), size=count, p=list(weights.values()))
    order = np.empty(count, dtype=np.int64)
    for number, task in enumerate(weights):
        members = np.flatnonzero(labels == task)
        attributes = [
            bins for a in space.attributes if (bins := _bins(members, positions, space, task, a.name))
        ] or [[members]]  # fmt: skip
        of_number = np.flatnonzero(drawn == number)
        chosen = rng.integers(len(attributes), size=len(of_number))
        for index, bins in enumerate(attributes):
            slots = of_number[chosen == index]
            bin_of = rng.integers(len(bins), size=len(slots))
            for k, episodes in enumerate(bins):
                fill_in_passes(order, slots[bin_of == k], episodes, rng)
    return order


def _bins(
    members: Indices, positions: Sequence[Mapping[str, float]], space: CommandSpace, task: str, attribute: str
) -> list[Indices]:
    """Return the members of each bin that has any."""
    valued = np.asarray([i for i in members.tolist() if attribute in positions[i]], dtype=np.int64)
    if not len(valued):
        return []
    centres = np.asarray(space.scales[task][attribute].positions)
    reached = np.asarray([positions[i][attribute] for i in valued.tolist()])
    nearest = np.abs(reached[:, None] - centres[None, :]).argmin(1)
    return [valued[nearest == k] for k in np.unique(nearest)]

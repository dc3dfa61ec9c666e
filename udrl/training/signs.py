"""Signs of obedience while a student trains: a few completions under a few commands, on validation inputs.

They are cheap and rough, for watching a training; `udrl bench` measures command following properly. Everything random
is drawn from the seed by item, so that measuring changes nothing in the training.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np

from udrl.commands import LENGTH
from udrl.errors import RewardError
from udrl.metrics import distinct_n, spearman_within
from udrl.rewards.protocol import known_inputs
from udrl.student.calibration import sweep_positions
from udrl.student.student import Student
from udrl.training.sweep import BATCH, Score, with_less_at_once
from udrl.words import count_words

LEVELS = 4
"""Commanded levels an attribute, evenly from the lowest to the highest; the other attributes are open."""


def measure_signs(
    student: Student,
    inputs: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Score],
    *,
    seed: int = 0,
    batch_size: int = BATCH,
) -> dict[str, float]:
    """Sweep every attribute that can be computed over ``inputs`` (by task) and return what can be seen.

    spearman_NAME: within-input rank correlation of commanded and achieved, mean over inputs, then tasks. stop_rate:
    share of completions that the student ended itself. diversity: distinct-2 among the completions that different
    inputs got under the same command, mean over commands (it falls when the student stops reading its input).
    completions: how many were written. rewards: by attribute; one without a reward, other than length, is left out, and
    so are inputs that it does not know.
    """
    ends = sweep_positions(student.space)
    levels = np.linspace(min(ends), max(ends), LEVELS).tolist()
    swept = [name for name in student.attributes if name == LENGTH or name in rewards]
    known = {
        (task, name): known_inputs(rewards.get(name), texts_of_task)
        for task, texts_of_task in inputs.items()
        for name in swept
    }
    cells = [
        (task, name, level) for task in student.tasks for name in swept for level in levels if known.get((task, name))
    ]
    texts = [text for task, name, _ in cells for text in known[task, name]]
    controls = [student.space.render(task, {name: level}) for task, name, level in cells for _ in known[task, name]]
    written = student.generate_ids(texts, controls, seeds=seed, batch_size=batch_size)
    by_cell = np.split(np.arange(len(texts)), np.cumsum([len(known[task, name]) for task, name, _ in cells])[:-1])
    follows: dict[str, list[float]] = defaultdict(list)
    for task in student.tasks:
        for name in (one for one in swept if known.get((task, one))):
            rows = [p for cell, p in zip(cells, by_cell, strict=True) if cell[:2] == (task, name)]
            flat = np.concatenate(rows).tolist()
            completions = [written[i].completion for i in flat]
            values = (
                [float(count_words(text)) for text in completions]
                if name == LENGTH
                else list(rewards[name]([texts[i] for i in flat], completions))
            )
            grid = np.asarray(values, dtype=float).reshape(LEVELS, -1)
            follows[name].append(fmean(spearman_within(levels, one) for one in grid.T))
    return {
        **{f"spearman_{name}": fmean(of_tasks) for name, of_tasks in follows.items()},
        "stop_rate": fmean(one.finish_reason == "stop" for one in written),
        "diversity": fmean(distinct_n([written[i].completion for i in rows]) for rows in by_cell),
        "completions": float(len(written)),
    }


def signs_of(
    student: Student,
    inputs: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Score],
    *,
    seed: int,
) -> Callable[[], Mapping[str, float]]:
    """Return `measure_signs` as the training loop calls it; where a reward fails there are no signs, with a warning."""

    def measure() -> Mapping[str, float]:
        try:
            return with_less_at_once(lambda batch: measure_signs(student, inputs, rewards, seed=seed, batch_size=batch))
        except RewardError as error:  # no reason to end a training that does not need it
            warnings.warn(f"no signs of obedience this time: {error}", stacklevel=2)
            return {}

    return measure

"""``student@matched``: the command under which a student writes as long as a reference, as relevant as it then can.

Commanded at once, relevance and length pull at each other: calibration measured what a length achieves with relevance
open, and the most relevant completions are short. So the length is settled on: a few completions are written, and what
is commanded is moved until what is achieved is the reference's. Only their lengths are looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from udrl.commands import LENGTH
from udrl.eval.completions import Completion
from udrl.eval.suites import Item
from udrl.eval.systems import RELEVANCE, CommandedStudent, Targets, answer, attribute_names, wish
from udrl.words import count_words

PILOT = 24
"""Inputs of a task that a length is settled on."""
TRIES = 4
CLOSE = 0.03
"""Miss of the mean length, as a share of it, that is near enough."""


def mean_lengths(rows: Iterable[Completion]) -> dict[str, float]:
    """Return the mean length of the completions of each task, in words."""
    by_task: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.completion is not None:
            by_task[row.task].append(count_words(row.completion))
    return {task: fmean(lengths) for task, lengths in by_task.items()}


def matched_targets(student: CommandedStudent, lengths: Mapping[str, float], *, reward: str = RELEVANCE) -> Targets:
    """Command each task's length in ``lengths`` (the reference's mean, in words), and the highest ``reward`` there.

    A length that the student does not reach is moved to the nearest that it does; what was achieved is checked later,
    and a miss is told as a caveat.
    """
    if LENGTH not in attribute_names(student):
        return {}
    return {task: _command(student, task, length, reward) for task, length in lengths.items()}


def settled_targets(
    student: CommandedStudent,
    items: Sequence[Item],
    lengths: Mapping[str, float],
    *,
    seed: int,
    reward: str = RELEVANCE,
) -> Targets:
    """Return `matched_targets` moved, task by task, to where completions for some ``items`` are as long as asked for.

    Of all that was tried, the nearest is taken.
    """
    settled = dict(matched_targets(student, lengths, reward=reward))
    pilot: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.task in settled and len(pilot[item.task]) < PILOT:
            pilot[item.task].append(item)
    aims = {task: settled[task][LENGTH] for task in pilot}
    nearest = dict.fromkeys(pilot, float("inf"))
    for _ in range(TRIES):
        asked = {task: _command(student, task, aim, reward) for task, aim in aims.items()}
        wanted = [
            wish("settling", "settling", item, 0, seed, targets=asked[task]) for task in aims for item in pilot[task]
        ]
        for task, achieved in mean_lengths(answer(student, wanted)).items():
            miss = abs(achieved / lengths[task] - 1)
            if miss < nearest[task]:
                nearest[task], settled[task] = miss, asked[task]
            aim = asked[task][LENGTH] * lengths[task] / max(achieved, 1.0)
            if miss <= CLOSE or _command(student, task, aim, reward) == asked[task]:
                del aims[task]
            else:
                aims[task] = aim
        if not aims:
            break
    return settled


def _command(student: CommandedStudent, task: str, length: float, reward: str) -> dict[str, float]:
    """Return the command of the reachable length nearest to ``length``, and of the highest ``reward`` there."""
    low, high = student.reachable(task, LENGTH)
    allowed = next(attribute for attribute in student.space.attributes if attribute.name == LENGTH)
    # What is reached is a mean, which empty completions can take below the shortest that can be commanded.
    aim = min(max(min(max(length, low), high), allowed.low), allowed.high)
    if reward not in attribute_names(student):
        return {LENGTH: aim}
    return {LENGTH: aim, reward: student.reachable(task, reward, length=aim)[1]}

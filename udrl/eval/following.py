"""Command following: does the student do what the command says? By the definition of docs/benchmark.md.

For each attribute, nine levels (the training deciles 10 to 90 of each task) are commanded with the other
attributes open, for at least 50 held-out inputs a task and three seeds, with the sampling that ships. A
second, smaller sweep commands the other attributes at their median (levels 10, 50 and 90 %): what still
moves in them is leakage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udrl import metrics
from udrl.commands import LENGTH, CommandSpace
from udrl.eval.completions import Completion
from udrl.eval.suites import Item, Sweep
from udrl.eval.systems import CommandedStudent, wish

LEVELS = 9
LEAKAGE_LEVELS = (0, 4, 8)
"""The levels of the leakage sweeps: 10, 50 and 90 %."""
MIN_INPUTS = 50
"""Held-out inputs a task that the definition asks for; with fewer the figures are shown with a note."""
MIN_LENGTH_UNIT = 1.0
"""Words: the smallest unit in which an error of length is counted."""


@dataclass(frozen=True)
class Bounds:
    """What one attribute can do in one task.

    reachable: (lowest, highest) value that the student reaches by calibration; pool: the 10 % and 90 %
    quantiles of what the teacher's kept training completions achieved (None where they have no such value).
    """

    reachable: tuple[float, float]
    pool: tuple[float, float] | None


def sweep_wishes(
    student: CommandedStudent,
    items: Sequence[Item],
    attribute: str,
    sweep: Sweep,
    *,
    block: str,
    system: str,
    seed: int,
    space: CommandSpace | None = None,
) -> list[Completion]:
    """Return what has to be written to measure how ``attribute`` is followed: items x 9 levels x seeds.

    space: whose deciles are the levels; None: the student's own.
    """
    space = space or student.space
    return [
        wish(
            block,
            system,
            item,
            sample,
            seed,
            part="following",
            attribute=attribute,
            level=level,
            targets={attribute: value},
        )
        for item in first_items(items, sweep.inputs)
        for level, value in enumerate(space.deciles(item.task, attribute))
        for sample in range(sweep.seeds)
    ]


def leakage_wishes(
    student: CommandedStudent,
    items: Sequence[Item],
    attribute: str,
    sweep: Sweep,
    *,
    block: str,
    system: str,
    seed: int,
) -> list[Completion]:
    """Return what has to be written to measure what else moves while ``attribute`` is swept, the others at
    median.

    Empty where the student has no other attribute.
    """
    others = [a.name for a in student.space.attributes if a.name != attribute]
    if not others:
        return []
    wanted = []
    for item in first_items(items, sweep.leakage_inputs):
        deciles = student.space.deciles(item.task, attribute)
        fixed = {other: student.space.quantile(item.task, other, 0.5) for other in others}
        wanted += [
            wish(
                block,
                system,
                item,
                sample,
                seed,
                part="leakage",
                attribute=attribute,
                level=level,
                targets={attribute: deciles[level], **fixed},
            )
            for level in LEAKAGE_LEVELS
            for sample in range(sweep.seeds)
        ]
    return wanted


def uncalibrated_wishes(
    student: CommandedStudent,
    items: Sequence[Item],
    attribute: str,
    sweep: Sweep,
    *,
    block: str,
    system: str,
    seed: int,
) -> list[Completion]:
    """Return the sweep of ``sweep_wishes`` on fewer inputs, to be written without calibration: what that is worth."""
    few = replace(sweep, inputs=sweep.leakage_inputs)
    wanted = sweep_wishes(student, items, attribute, few, block=block, system=system, seed=seed)
    return [replace(row, part="uncalibrated") for row in wanted]


SWEEPS = {"following": sweep_wishes, "leakage": leakage_wishes, "uncalibrated": uncalibrated_wishes}
"""By part: what has to be written."""


def first_items(items: Sequence[Item], count: int) -> list[Item]:
    """Return the first ``count`` items of each task."""
    taken: dict[str, int] = {}
    chosen = []
    for item in items:
        if taken.get(item.task, 0) < count:
            taken[item.task] = taken.get(item.task, 0) + 1
            chosen.append(item)
    return chosen


def measure(
    rows: Sequence[Completion],
    achieved: Mapping[str, NDArray[np.float64]],
    attribute: str,
    bounds: Mapping[str, Mapping[str, Bounds]],
) -> dict[str, Any]:
    """Return the figures of ``command_following`` for one student and ``attribute``, over all tasks and for
    each.

    rows: those of the attribute's following and leakage sweeps; achieved: attribute -> value of each row
    (NaN where it was not scored); bounds: task -> attribute -> Bounds.

    Over all tasks: spearman, spearman_within_input, error, range, leakage and reachable are means over tasks,
    violations their sum; a point of the curve is the mean over tasks at that level.
    """
    tasks = list(dict.fromkeys(row.task for row in rows if row.part == "following"))
    per_task: dict[str, dict[str, Any]] = {}
    grids: dict[str, _Grid] = {}
    for task in tasks:
        grid = _grid(rows, achieved[attribute], task)
        grids[task] = grid
        per_task[task] = _one_task(grid, attribute, bounds[task][attribute])
        per_task[task]["leakage"] = _leakage(rows, achieved, task, attribute, bounds[task])
    names = [name for name in achieved if name != attribute]
    return {
        "spearman": metrics.mean_of_known([t["spearman"] for t in per_task.values()]),
        "spearman_within_input": metrics.mean_of_known([t["spearman_within_input"] for t in per_task.values()]),
        "error": metrics.mean_of_known([t["error"] for t in per_task.values()]),
        "range": metrics.mean_of_known([t["range"] for t in per_task.values()]),
        "violations": sum(t["violations"] for t in per_task.values()),
        "reachable": [metrics.mean_of_known([t["reachable"][k] for t in per_task.values()]) for k in (0, 1)],
        "curve": _pooled_curve(grids),
        "leakage": {name: metrics.mean_of_known([t["leakage"].get(name) for t in per_task.values()]) for name in names},
        "uncalibrated": _uncalibrated(rows, achieved[attribute], attribute, bounds, grids),
        "per_task": per_task,
    }


@dataclass(frozen=True)
class _Grid:
    """One task's sweep: values (inputs, levels, seeds), NaN where missing; commanded (levels,)."""

    values: NDArray[np.float64]
    commanded: NDArray[np.float64]


def _uncalibrated(
    rows: Sequence[Completion],
    values: NDArray[np.float64],
    attribute: str,
    bounds: Mapping[str, Mapping[str, Bounds]],
    calibrated: Mapping[str, _Grid],
) -> dict[str, Any] | None:
    """The figures without calibration, on the first inputs of each task, and the calibrated error on the same ones."""
    tasks = [task for task in calibrated if any(_is(row, "uncalibrated", task) for row in rows)]
    if not tasks:
        return None
    grids = {task: _grid(rows, values, task, "uncalibrated") for task in tasks}
    figures = [_one_task(grids[task], attribute, bounds[task][attribute]) for task in tasks]
    same = {
        task: replace(calibrated[task], values=calibrated[task].values[: len(grids[task].values)]) for task in tasks
    }
    errors = [_error(same[task], attribute, bounds[task][attribute].reachable) for task in tasks]
    return {
        "inputs": min(len(grid.values) for grid in grids.values()),
        **{
            key: metrics.mean_of_known([of[key] for of in figures])
            for key in ("spearman", "spearman_within_input", "error", "range")
        },
        "calibrated_error": metrics.mean_of_known(errors),
        "violations": sum(of["violations"] for of in figures),
        "curve": _pooled_curve(grids),
    }


def _grid(rows: Sequence[Completion], values: NDArray[np.float64], task: str, part: str = "following") -> _Grid:
    chosen = [(row, value) for row, value in zip(rows, values, strict=True) if _is(row, part, task)]
    inputs = {key: n for n, key in enumerate(dict.fromkeys(row.input_id for row, _ in chosen))}
    seeds = 1 + max(row.sample for row, _ in chosen)
    grid = np.full((len(inputs), LEVELS, seeds), np.nan)
    commanded = np.zeros(LEVELS)
    for row, value in chosen:
        level = _level(row)
        grid[inputs[row.input_id], level, row.sample] = value
        commanded[level] = row.targets[str(row.attribute)]
    return _Grid(grid, commanded)


def _one_task(grid: _Grid, attribute: str, bounds: Bounds) -> dict[str, Any]:
    inputs, levels, seeds = grid.values.shape
    averaged = np.nanmean(grid.values, axis=2)
    points = np.repeat(grid.commanded, seeds)
    within = [metrics.spearman_within(points, row.reshape(levels * seeds)) for row in grid.values]
    smooth = [metrics.spearman_within(grid.commanded, row) for row in averaged]
    clusters = np.arange(inputs)
    steps = [metrics.mean_interval(averaged[:, k + 1] - averaged[:, k], clusters) for k in range(levels - 1)]
    means = averaged.mean(axis=0)
    pool = bounds.pool
    return {
        "spearman": float(np.mean(smooth)),
        "spearman_within_input": float(np.mean(within)),
        "error": _error(grid, attribute, bounds.reachable),
        "range": float((means[-1] - means[0]) / (pool[1] - pool[0])) if pool and pool[1] > pool[0] else None,
        "violations": sum(step.hi < 0 for step in steps),
        "reachable": list(bounds.reachable),
        "curve": [[float(grid.commanded[k]), *metrics.mean_interval(averaged[:, k], clusters)] for k in range(levels)],
    }


def _error(grid: _Grid, attribute: str, reachable: tuple[float, float]) -> float | None:
    """Mean absolute error of single samples where the target is inside what the student reaches."""
    low, high = reachable
    errors: list[float] = []
    for k, target in enumerate(grid.commanded):
        if low <= target <= high:
            unit = max(0.1 * target, MIN_LENGTH_UNIT) if attribute == LENGTH else high - low
            if unit > 0:
                errors += list(np.abs(grid.values[:, k, :].ravel() - target) / unit)
    return float(np.nanmean(errors)) if errors else None


def _leakage(
    rows: Sequence[Completion],
    achieved: Mapping[str, NDArray[np.float64]],
    task: str,
    attribute: str,
    bounds: Mapping[str, Bounds],
) -> dict[str, float | None]:
    """How far each other attribute's mean moves between the levels, as a share of its 10-90 range in the
    pool.
    """
    result: dict[str, float | None] = {}
    chosen = [i for i, row in enumerate(rows) if _is(row, "leakage", task)]
    for other, values in achieved.items():
        if other == attribute:
            continue
        pool = bounds[other].pool
        scored = [i for i in chosen if not np.isnan(values[i])]  # none: a reward that does not know the task's inputs
        means = [
            np.nanmean([values[i] for i in scored if rows[i].level == level]) for level in LEAKAGE_LEVELS if scored
        ]
        result[other] = (
            float(max(means) - min(means)) / (pool[1] - pool[0]) if means and pool and pool[1] > pool[0] else None
        )
    return result


def _pooled_curve(grids: Mapping[str, _Grid]) -> list[list[float]]:
    """The mean over tasks at each level. Tasks weigh the same: each is centred on its mean, then inputs are
    pooled.
    """
    averaged = {task: np.nanmean(grid.values, axis=2) for task, grid in grids.items()}
    curve = []
    for k in range(LEVELS):
        commanded = float(np.mean([grid.commanded[k] for grid in grids.values()]))
        centre = float(np.mean([values[:, k].mean() for values in averaged.values()]))
        spread = np.concatenate([values[:, k] - values[:, k].mean() for values in averaged.values()])
        interval = metrics.mean_interval(spread, np.arange(len(spread)))
        curve.append([commanded, centre, centre + interval.lo, centre + interval.hi])
    return curve


def _level(row: Completion) -> int:
    return -1 if row.level is None else row.level


def _is(row: Completion, part: str, task: str) -> bool:
    return row.part == part and row.task == task

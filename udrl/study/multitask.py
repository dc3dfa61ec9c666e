"""``udrl study multitask``: one student for all tasks beside one for each, at equal total steps.

all         one student, trained on all tasks for so many steps
each        a student of the same size for each task, with its share of the steps: together as many steps, and as many
            times the parameters as there are tasks
each-small  the same with a smaller ``part``: together as many steps, and about as many parameters as ``all``
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from udrl.arguments import checked
from udrl.data.episodes import iterate_episodes
from udrl.data.run import Run
from udrl.errors import UsageError
from udrl.study.cells import Cell, run_cells
from udrl.study.figures import Figure, Items, gain, over_inputs, shown
from udrl.study.folders import data_of
from udrl.study.output import Bars, StudyReport, publish, study_folder
from udrl.study.training import Measure, train_one
from udrl.training.presets import PRESETS, Preset
from udrl.training.starting_point import preset_of

ALL, EACH, SMALL = "all", "each", "each-small"
SYSTEM = "student@top"
KEYS = {SYSTEM: SYSTEM, "relevance": "relevance followed", "length": "length followed"}
"""Figure -> its name among a cell's items."""
DIGITS = {SYSTEM: 3, "relevance": 2, "length": 2}
EVERY = "all tasks"
Result = Mapping[str, Any]
"""What a cell returned."""
UNEQUAL = 0.15
"""How far the parameters of two arms may be apart before it is said."""
HEADER = [
    "task", "students", "parameters together", "relevance at the top", "all gains", "relevance followed",
    "all gains in following relevance", "length followed", "all gains in following length", "seconds together",
]  # fmt: skip


@checked
def study_multitask(
    run: Path | str,
    *,
    student: str = "gpt2-mini",
    part: str | None = None,
    steps: int = 900,
    seeds: int = 3,
    measure: Measure | None = None,
    seed: int = 0,
    jobs: int = 1,
    ray: bool = False,
    name: str = "multitask",
) -> StudyReport:
    """Train and measure what is missing, and write RUN/study/NAME.

    student: of ``all`` and ``each``; part: of ``each-small`` (None: the preset of which as many as there are tasks come
    nearest to ``student``'s parameters); both from scratch. steps: in total. Raises UsageError where the run has one
    task alone and for an unknown preset, StudentError where cells fail.
    """
    run, look = Path(run), measure or Measure()
    study = study_folder(run, name)
    tasks = sorted({episode.task for episode in iterate_episodes(Run(run).episodes, splits=("train",))})
    if len(tasks) < 2:
        raise UsageError(f"{run} has the task {', '.join(tasks) or 'none'} alone: there is nothing to compare")
    whole = preset_of(student, "random")
    part = _part(whole, len(tasks)) if part is None else preset_of(part, "random").name
    share = max(1, round(steps / len(tasks)))
    common, places = {**data_of(run), **look.settings}, {"run": str(run.absolute())}
    cells = []
    for k in range(seed, seed + seeds):
        cells.append(Cell(f"{ALL}-{k}", train_one, {**common, "student": student, "steps": steps, "seed": k}, places))
        for arm, size in ((EACH, student), (SMALL, part)):
            for task in tasks:
                settings = {**common, "student": size, "steps": share, "seed": k, "task": task}
                cells.append(Cell(f"{arm}-{task}-{k}", train_one, settings, places))
    with study.writing() as folder:
        results = run_cells(folder, cells, jobs=jobs, ray=ray)
        parts = {
            arm: [_cells_of(results, arm, tasks, k) for k in range(seed, seed + seeds)] for arm in (ALL, EACH, SMALL)
        }
        rows, bars, findings = [HEADER], list[tuple[str, Figure]](), dict[str, Any]()
        for only in (*tasks, None):
            for arm, students in parts.items():
                row, finding = _compared(arm, students, parts[ALL], only)
                rows.append([only or EVERY, arm, *row])
                findings.setdefault(only or EVERY, {})[arm] = finding
                if top := finding[SYSTEM]:
                    bars.append((f"{only or EVERY}: {arm}", top))
        settings = {"student": student, "part": part, "steps": steps, "seeds": seeds, "seed": seed, **look.settings}
        return publish(
            study,
            folder,
            title="One student for all tasks, or one for each",
            settings=settings,
            cells=results,
            table=rows,
            notes=_unequal(findings[EVERY], part),
            bars=Bars("relevance of student@top", bars),
            findings=findings,
        )


def _compared(
    arm: str, students: Sequence[Mapping[str, Result]], whole: Sequence[Mapping[str, Result]], only: str | None
) -> tuple[list[str], dict[str, Any]]:
    """Return the cells of a row behind task and arm, and its findings. students, whole: a mapping a seed."""
    figures, gains = _figures(students, only), {} if arm == ALL else _gains(whole, students, only)
    asked = [cell for of_seed in students for cell in _distinct(of_seed, only)]
    parameters, seconds = (sum(cell[name] for cell in asked) / len(students) for name in ("parameters", "seconds"))
    texts = []
    for name, digits in DIGITS.items():
        texts += [shown(figures[name], digits), shown(gains[name], digits, signed=True) if gains else ""]
    finding = {**figures, "one_for_all_gains": gains, "parameters": parameters}
    return [f"{parameters:,.0f}", *texts, f"{seconds:.0f}"], finding


def _unequal(arms: Mapping[str, Any], part: str) -> list[str]:
    ratio = arms[SMALL]["parameters"] / arms[ALL]["parameters"]
    if abs(ratio - 1) <= UNEQUAL:
        return []
    return [f"{SMALL}: the students of {part} have {ratio:.2f} times the parameters of the one for all tasks together"]


def _part(student: Preset, tasks: int) -> str:
    """Return the preset whose size times ``tasks`` is nearest to that of ``student``."""
    sizes = {name: one.parameters for name, one in PRESETS.items() if one.hub is None}
    return min(sizes, key=lambda name: abs(math.log(sizes[name] * tasks / student.parameters)))


def _cells_of(results: Mapping[str, Any], arm: str, tasks: Sequence[str], seed: int) -> dict[str, Result]:
    """Return the cell that answers each task in one arm."""
    return {task: results[f"{ALL}-{seed}" if arm == ALL else f"{arm}-{task}-{seed}"] for task in tasks}


def _distinct(students: Mapping[str, Result], task: str | None) -> list[Result]:
    """Return the cells that answer ``task`` (None: any of them), each once."""
    return list({id(cell): cell for name, cell in students.items() if task in (None, name)}.values())


def _items(students: Mapping[str, Result], name: str) -> Items:
    """Return what one seed's students measured, each on its own task."""
    return {task: cell["items"].get(KEYS[name], {}).get(task, {}) for task, cell in students.items()}


def _figures(seeds: Sequence[Mapping[str, Result]], task: str | None) -> dict[str, Figure | None]:
    return {name: over_inputs([_items(one, name) for one in seeds], task) for name in KEYS}


def _gains(
    whole: Sequence[Mapping[str, Result]], parts: Sequence[Mapping[str, Result]], task: str | None
) -> dict[str, Figure | None]:
    """Return by how much the one student for all tasks is better, paired by input and seed."""
    return {
        name: gain([_items(one, name) for one in whole], [_items(one, name) for one in parts], task) for name in KEYS
    }

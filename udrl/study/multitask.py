"""``udrl study multitask``: one student for all tasks beside one for each, at equal total steps.

all         one student, trained on all tasks for so many steps
each        a student of the same size for each task, with its share of the steps: together as many steps, and as many
            times the parameters as there are tasks
each-small  the same with a smaller ``part``: together as many steps, and about as many parameters as ``all``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from udrl.data.episodes import iterate_episodes
from udrl.data.run import Run
from udrl.errors import UsageError
from udrl.study.cells import Cell, run_cells
from udrl.study.figures import Figure, over_seeds, shown
from udrl.study.output import Bars, StudyReport, place_of, publish
from udrl.study.training import Measure, train_one

ALL, EACH, SMALL = "all", "each", "each-small"
SYSTEM = "student@top"
HEADER = [
    "task", "students", "parameters together", "relevance at the top", "relevance followed", "length followed",
    "seconds together",
]  # fmt: skip


def study_multitask(
    run: Path | str,
    *,
    student: str = "gpt2-mini",
    part: str = "gpt2-700k",
    steps: int = 900,
    seeds: int = 3,
    measure: Measure | None = None,
    seed: int = 0,
    jobs: int = 1,
    ray: bool = False,
    name: str = "multitask",
) -> StudyReport:
    """Train and measure what is missing, and write RUN/study/NAME.

    student: of ``all`` and ``each``; part: of ``each-small``; both from scratch. steps: in total. Raises UsageError
    where the run has one task alone, StudentError where cells fail.
    """
    run, look = Path(run), measure or Measure()
    place = place_of(run, name)
    tasks = sorted({episode.task for episode in iterate_episodes(Run(run).episodes, splits=("train",))})
    if len(tasks) < 2:
        raise UsageError(f"{run} has the task {', '.join(tasks) or 'none'} alone: there is nothing to compare")
    share = max(1, round(steps / len(tasks)))
    common = {"run": str(run.absolute()), **look.settings}
    cells = []
    for k in range(seed, seed + seeds):
        cells.append(Cell(f"{ALL}-{k}", train_one, {**common, "student": student, "steps": steps, "seed": k}))
        for arm, size in ((EACH, student), (SMALL, part)):
            for task in tasks:
                settings = {**common, "student": size, "steps": share, "seed": k, "task": task}
                cells.append(Cell(f"{arm}-{task}-{k}", train_one, settings))
    with place.writing() as folder:
        found = run_cells(folder, cells, jobs=jobs, ray=ray)
        rows = [HEADER]
        bars: list[tuple[str, Figure]] = []
        findings: dict[str, Any] = {}
        for task in (*tasks, "all tasks"):
            for arm in (ALL, EACH, SMALL):
                parts = {k: _cells_of(found, arm, task, tasks, k) for k in range(seed, seed + seeds)}
                figures = _figures(parts, task)
                every = list(parts.values())
                parameters = sum(cell["parameters"] for cell in every[0].values())
                seconds = sum(cell["seconds"] for cells in every for cell in cells.values()) / len(every)
                shown_ = [shown(figures[SYSTEM]), shown(figures["relevance"], 2), shown(figures["length"], 2)]
                rows.append([task, arm, f"{parameters:,}", *shown_, f"{seconds:.0f}"])
                findings.setdefault(task, {})[arm] = figures
                if top := figures[SYSTEM]:
                    bars.append((f"{task}: {arm}", top))
        settings = {"student": student, "part": part, "steps": steps, "seeds": seeds, "seed": seed, **look.settings}
        return publish(
            place,
            folder,
            title="One student for all tasks, or one for each",
            settings=settings,
            cells=found,
            table=rows,
            bars=Bars("relevance of student@top", bars),
            findings=findings,
        )


def _cells_of(found: Mapping[str, Any], arm: str, task: str, tasks: Sequence[str], seed: int) -> dict[str, Any]:
    """Return the cells that answer ``task`` (or every task) in one arm, by task."""
    if arm == ALL:
        return {task: found[f"{ALL}-{seed}"]}
    wanted = [task] if task in tasks else tasks
    return {one: found[f"{arm}-{one}-{seed}"] for one in wanted}


def _figures(parts: Mapping[int, Mapping[str, Any]], task: str) -> dict[str, Figure | None]:
    """Return relevance at the top and both obediences over the seeds; over tasks, means of the tasks' figures."""
    found: dict[str, list[Figure]] = {SYSTEM: [], "relevance": [], "length": []}
    for cells in parts.values():
        seen: dict[str, list[Figure]] = {name: [] for name in found}
        for one, cell in cells.items():
            top, obeys = cell["rows"][SYSTEM], cell["obeys"]
            whole = one == task and task not in top["tasks"]  # the one student's figures over all tasks
            seen[SYSTEM].append(tuple(top["relevance"] if whole else top["tasks"][one]["relevance"]))
            for name in ("relevance", "length"):
                if name in obeys:
                    value = obeys[name]["spearman"] if whole else obeys[name]["tasks"][one]
                    seen[name].append((value, value, value))
        for name, figures in seen.items():
            if figures:
                middle, low, high = (sum(column) / len(figures) for column in zip(*figures, strict=True))
                found[name].append((middle, low, high))
    return {name: over_seeds(figures) for name, figures in found.items()}

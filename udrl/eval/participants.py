"""What a benchmark is about: the inputs that are left of a suite, and who answers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from udrl.data.episodes import has_episodes
from udrl.data.known_answers import answers_of_file, read_answers
from udrl.data.run import Run
from udrl.data.tasks import Task, load_tasks, stored_tasks
from udrl.errors import RewardError, TaskError, UsageError
from udrl.eval.recorded import recorded_items
from udrl.eval.students import StudentEntry, tasks_in_common
from udrl.eval.suites import SYSTEMS, Items, Suite, load_items
from udrl.eval.systems import RELEVANCE
from udrl.eval.teachers import TEACHER, Contestant, WrittenRow, named_teacher, ordered, own_teacher, recorded_rows
from udrl.eval.writer import RunData
from udrl.rewards import BUILT_IN, covered, load_reward

RECORDED = "recorded"
"""The suite whose inputs are those of the recorded files."""


def card_or_name(name: str | Path) -> str:
    """Return a reference as suites name it: a separator marks the file of a card."""
    return f"{name.parent}/{name.name}" if isinstance(name, Path) else name


def known_tasks(run: Run) -> dict[str, Task]:
    """Return the run's own tasks; without a run, those that ship."""
    known = stored_tasks(run) if (run.path / "tasks").is_dir() or has_episodes(run.episodes) else load_tasks()
    return {task.name: task for task in known}


def known_answers(run: Run, suite: Suite, recorded: Sequence[Path]) -> dict[str, str]:
    """Return the known answers of the run, of recorded files and of the suite's own file."""
    answers: dict[str, str] = {}
    for path in recorded:
        answers.update(answers_of_file(path))
    if suite.source.kind == "file" and suite.source.path is not None:
        answers.update(answers_of_file(suite.source.path, field=suite.source.field))
    return {**answers, **read_answers(run.path)}


def check_known(rewards: Sequence[str], items: Items, answers: Mapping[str, str]) -> None:
    """Raise RewardError for a built-in reward that was asked for and knows none of the inputs."""
    texts = [item.input for item in items.items]
    for source in rewards:
        if source == RELEVANCE or source.partition(":")[0] not in BUILT_IN:
            continue
        reward = load_reward(source, answers=answers)
        if texts and not any(covered(reward, texts)):
            raise RewardError(
                f"reward '{reward.name}' cannot be computed for any of the {len(texts):,} inputs, such as "
                f"{texts[0][:60]!r}: {getattr(reward, 'needs', 'it knows none of them')}"
            )


def chosen_items(
    suite: Suite, entries: Sequence[StudentEntry], data: RunData, tasks: Mapping[str, Task], limit: int | None
) -> Items:
    """Return the inputs of ``suite`` that every student can answer and none has seen, at most ``limit`` a task.

    tasks: those of the run. Raises TaskError where nothing is left, or a suite of recorded inputs has no files.
    """
    common = tasks_in_common(entries)
    known = list(tasks) if common is None else [task for task in tasks if task in common]
    split = data.test_items
    if suite.source.kind == RECORDED:
        if not suite.recorded:
            raise TaskError(
                f"{suite.path}: takes its inputs from recorded files, and none are named: add --recorded FILE"
            )
        of_files = recorded_items(suite.recorded, known_tasks=list(common or ()))
        known = [task for task in of_files if common is None or task in common]
        if not known:
            raise TaskError(
                f"the recorded files are about {', '.join(of_files)}, and the student knows {', '.join(common or ())}: "
                "name files of its tasks"
            )

        def split(task: str) -> list[Any]:
            return of_files.get(task, [])

    seen = frozenset().union(data.seen if entries else (), *(one.seen for one in entries))
    return load_items(suite, known_tasks=known, seen=lambda _task, input_id: input_id in seen, split=split, limit=limit)


def contestants_of(
    run: Run,
    suite: Suite,
    items: Items,
    data: RunData,
    *,
    teacher: str | Path | None,
    base_url: str | None,
    alone: bool,
) -> tuple[list[Contestant], list[str]]:
    """Return the teachers and recorded rows, the leading reference first, and notes on them."""
    notes: list[str] = []
    runs_teacher: Contestant | None = None
    if TEACHER in suite.systems and (teacher is not None or has_episodes(run.episodes)):
        if teacher is not None:
            runs_teacher = named_teacher(teacher, run, data.test, kind="teacher", base_url=base_url)
        else:
            runs_teacher, told = own_teacher(run, data.test, base_url=base_url)
            notes += told
    rows: list[WrittenRow] = []
    for file in suite.recorded:
        of_file, told = recorded_rows(file, items.items, taken=[*SYSTEMS, *(row.name for row in rows)])
        rows += of_file
        notes += told

    def asked(name: str | Path) -> Contestant:
        return named_teacher(name, run, data.test, kind="reference", base_url=base_url)

    every = ordered(suite.references, rows, asked, teacher=runs_teacher, only_first=alone)
    names = Counter([one.name for one in every] + [name for name in suite.systems if name != TEACHER])
    if twice := [name for name, count in names.items() if count > 1]:
        raise UsageError(
            f"two rows would be called {', '.join(twice)}: a reference is called as the file of its card, give that "
            "another name"
        )
    return every, notes

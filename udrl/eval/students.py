"""The students that take part in a benchmark: the run's own, and others by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from udrl.commands import LENGTH
from udrl.data.episodes import has_episodes, read_episodes
from udrl.data.facts import RunFacts
from udrl.data.known_answers import Answers
from udrl.data.run import Run
from udrl.errors import RunError, UsageError
from udrl.eval.systems import RELEVANCE, CommandedStudent, attribute_names
from udrl.rewards import as_scored
from udrl.rewards.protocol import Reward
from udrl.student import load

STUDENT = "student"
"""The name of the run's own student."""


@dataclass(frozen=True)
class StudentEntry:
    """A student that takes part.

    key: identifies its weights. swept: the attributes whose achieved value can be computed, so that a sweep of them
    says something; rewards: name -> source of those that a reward computes; computed: these rewards. seen: ids of the
    inputs that it was trained on, where they are known.
    """

    name: str
    student: CommandedStudent
    key: str
    swept: tuple[str, ...]
    rewards: Mapping[str, str] = field(default_factory=dict)
    computed: Mapping[str, Reward] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()


def student_entries(
    run: Run, others: Sequence[str | Path], *, device: str, precision: str, engine: str, answers: Answers | None = None
) -> list[StudentEntry]:
    """Load the student of ``run``, where it has one, and ``others``: ``PATH`` or ``NAME=PATH`` of runs or checkpoints.

    answers: known ones of the benchmark's inputs. A student without attributes takes part with its open row. Raises
    UsageError where two have one name, StudentError as loading does.
    """

    paths: dict[str, Path] = {STUDENT: run.path} if run.student.is_dir() else {}
    for other in others:
        given, _, path = str(other).rpartition("=") if not Path(other).exists() else ("", "", str(other))
        folder = Path(path)
        name = given or (folder.parent.name if folder.name == STUDENT else folder.name)
        name = name.replace("#", "-").replace("@", "-")
        if name in paths:
            raise UsageError(f"two students are named '{name}': name one of them, as --student other={path}")
        paths[name] = folder
    entries = []
    for name, root in paths.items():
        folder = root / "student" if (root / "student").is_dir() else root
        key = folder_key(folder)
        trained_in = Run(folder.parent) if folder.name == "student" and (folder.parent / "run.json").exists() else None
        student = load(folder, device=device, precision=precision, engine=engine)
        # what the run's own student has seen, the benchmark knows from the run's episodes
        seen = _seen(trained_in) if trained_in is not None and name != STUDENT else frozenset()
        entries.append(student_entry(name, student, key=key, run=trained_in, seen=seen, answers=answers))
    return entries


def student_entry(
    name: str,
    student: CommandedStudent,
    *,
    key: str,
    run: Run | None,
    seen: frozenset[str] = frozenset(),
    answers: Answers | None = None,
) -> StudentEntry:
    """Return a loaded student as an entry; ``run``: where it was trained, None where that is not known."""
    facts = RunFacts() if run is None else run.facts()
    names = attribute_names(student)
    built_in = (RELEVANCE, LENGTH)
    known = as_scored([name for name in names if name not in built_in], facts, answers=answers)
    rewards = {name: facts.score.sources.get(name, name) for name in known}
    swept = tuple(name for name in names if name in built_in or name in rewards)
    return StudentEntry(name, student, key, swept, rewards, known, seen)


def _seen(run: Run) -> frozenset[str]:
    """Return the ids of the inputs that a student of ``run`` was trained and chosen on."""
    if not has_episodes(run.episodes):
        return frozenset()
    return frozenset(episode.input_id for episode in read_episodes(run.episodes, splits=("train", "validation")))


def tasks_in_common(entries: Sequence[StudentEntry]) -> tuple[str, ...] | None:
    """Return the tasks that all students know, None where there is no student; raises UsageError for none."""
    if not entries:
        return None
    first, *others = (one.student.space.tasks for one in entries)
    common = tuple(task for task in first if all(task in other for other in others))
    if not common:
        raise UsageError(
            f"{', '.join(one.name for one in entries)} have no task in common: compare students of one task"
        )
    return common


def folder_key(folder: Path) -> str:
    """Return a hash of the contents of a student's folder, its model card left out.

    Raises RunError where there is no such folder.
    """
    import hashlib

    def new() -> Any:
        return hashlib.blake2b(digest_size=16)

    if not folder.is_dir():
        raise RunError(f"{folder} does not exist: train a student first (udrl train)")
    digest = new()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "README.md" and not path.name.startswith("."):
            with path.open("rb") as file:
                part = hashlib.file_digest(file, new).hexdigest()
            digest.update(f"{path.relative_to(folder)}\0{part}\0".encode())
    return str(digest.hexdigest())

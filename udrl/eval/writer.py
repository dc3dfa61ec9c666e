"""Writing a benchmark's completions, and reusing what was written before under the same conditions.

Blocks are written in the order in which they need each other: teachers, the student (matched to what the
teachers wrote), baselines, sweeps. Each is kept on disk as soon as it is there, so that an interrupted
benchmark goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from udrl.commands import LENGTH
from udrl.data.episode import Episode
from udrl.data.episodes import has_episodes, read_episodes
from udrl.data.hashing import hash_hex
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.tasks import Task
from udrl.encoder import load_encoder
from udrl.errors import MissingDependency, RunError, TeacherError
from udrl.eval import baselines, following, matched_length, systems
from udrl.eval.completions import Block, Completion, SystemFacts, block_key, read_blocks, write_blocks
from udrl.eval.students import STUDENT, StudentEntry
from udrl.eval.suites import Item, Items, Suite
from udrl.eval.systems import CommandedStudent
from udrl.eval.teachers import Contestant, LiveRow, WrittenRow
from udrl.progress import Bar, note
from udrl.rewards.protocol import covered
from udrl.teacher.backends import choice

if TYPE_CHECKING:
    from udrl.teacher.protocol import Teacher


ASKED = "ledger"
"""Folder in the benchmark's own: every answer of a teacher that was asked for it, by what decided it."""


@dataclass(frozen=True)
class RunData:
    """What a benchmark needs of a run's episodes.

    train: what teachers wrote for training, kept; seen: ids of inputs of training and validation (which
    chose the checkpoint and the calibration); test: what teachers wrote for the test split, kept.
    """

    train: tuple[Episode, ...]
    seen: frozenset[str]
    test: tuple[Episode, ...]

    def test_items(self, task: str) -> list[Item]:
        """Return the test split's items of ``task``, each once."""
        items = (Item(e.task, e.input_id, e.input) for e in self.test if e.task == task)
        return list({item.input_id: item for item in items}.values())

    def spread(self, task: str, attribute: str) -> tuple[float, float] | None:
        """Return the 10 % and 90 % quantiles of what training episodes achieved; None where none has such a value."""
        episodes = (episode for episode in self.train if episode.task == task)
        achieved = [e.horizon if attribute == LENGTH else e.returns.get(attribute) for e in episodes]
        values = [value for value in achieved if value is not None]
        if not values:
            return None
        low, high = np.quantile(values, [0.1, 0.9])
        return float(low), float(high)


def read_data(run: Run) -> RunData:
    """Read what a benchmark needs of the episodes of ``run``; nothing where there are neither these nor a student.

    Raises RunError where there is a student without episodes.
    """
    if not has_episodes(run.episodes) and not run.student.is_dir():
        return RunData((), frozenset(), ())
    shown = read_episodes(run.episodes, splits=("train", "validation"))
    return RunData(
        train=tuple(e for e in shown if e.split == "train" and e.origin == "teacher"),
        seen=frozenset(episode.input_id for episode in shown),
        test=tuple(read_episodes(run.episodes, splits=("test",), origins=("teacher",))),
    )


@dataclass
class BlockWriter:
    """One benchmark while its completions are written: what it needs, what is there already, what was done.

    tasks: those that a teacher can be asked for (`teachers.check_tasks`). cache: folder of embeddings. outdated: names
    of the finished blocks that were written anew, as what they depend on has changed.
    """

    folder: Path
    suite: Suite
    items: Items
    tasks: Mapping[str, Task]
    data: RunData
    entries: Sequence[StudentEntry]
    seed: int
    cache: Path
    bar: Bar
    notes: list[str] = field(default_factory=list)
    written: int = 0
    reused: int = 0
    outdated: list[str] = field(default_factory=list)
    done: dict[str, Block] = field(default_factory=dict)
    stored: dict[str, Block] = field(init=False)

    def __post_init__(self) -> None:
        self.stored = read_blocks(self.folder)

    def write(self, contestants: Sequence[Contestant]) -> list[Block]:
        """Return all blocks in the order of the table.

        contestants: the teachers, the leading reference first. Every one becomes a row, or a note that says why not.
        Raises RunError where nobody but baselines wrote anything.
        """
        for one in contestants:
            if isinstance(one, WrittenRow):
                self._given(
                    one,
                    f"nobody can be asked for it, and {one.source} are not in this suite (--suite heldout has them)",
                )
            else:
                self._teacher(one)
        references = self.references(contestants)
        for entry in self.entries:
            self._student(entry, references)
        self._baselines(references)
        for entry in self.entries:
            for name, wishes in planned_sweeps(self.suite, entry, self.items, self.seed):
                self._sweep(entry, name, wishes)
        self._check_measured(contestants)
        self._tell_outdated()
        students = [name for name, block in self.done.items() if block.facts.student and "#" not in name]
        teachers = [one.name for one in contestants if one.name in self.done]
        return [self.done[name] for name in dict.fromkeys([*students, *teachers, *self.done])]

    def _check_measured(self, contestants: Sequence[Contestant]) -> None:
        expected = bool(contestants) or any(name.startswith(f"{STUDENT}@") for name in self.suite.systems)
        of_others = [block for block in self.done.values() if block.facts.kind != "baseline"]
        if expected and not any(row.completion is not None for block in of_others for row in block.rows):
            failed = [f"{block.name}: {row.error}" for block in of_others for row in block.rows[:1] if row.error]
            raise RunError(f"nothing was measured in {self.folder}: {' '.join([*self.notes, *failed])}")

    def _tell_outdated(self) -> None:
        if self.outdated:
            note(
                f"{', '.join(self.outdated)} in {self.folder} were written anew: the student or teacher, the inputs, "
                "the seed or the samples have changed since; keep both with another --name"
            )

    def references(self, contestants: Sequence[Contestant]) -> list[str]:
        """Return the names of the rows that others are compared with: those that wrote something."""
        return [
            one.name
            for one in contestants
            if one.compared and one.name in self.done and any(row.completion for row in self.done[one.name].rows)
        ]

    def _teacher(self, one: LiveRow) -> None:
        """Ask a teacher; where that is not possible now, take what it wrote for the run's test inputs."""
        tasks = {task: self.tasks[task] for task in self.items.tasks}
        try:
            with closing(choice.start(one.card, tasks=list(tasks.values()))) as writer:
                asked = {n: (t.instruction, dict(writer.careful(t.min_words, t.max_words))) for n, t in tasks.items()}
                identity = (writer.name, writer.model, writer.revision, dict(writer.engine_arguments))
                key = self._key(asked, identity, self.suite.samples)
                self._block(one.name, key, partial(self._ask, writer, one, key))
        except (TeacherError, MissingDependency) as error:
            why = f"it cannot be asked now ({error})"
            said = f"The row {one.name} is what {one.card.name} wrote for {one.written.source}: {why}."
            self._given(replace(one.written, note=said), f"{why}, and it wrote nothing for these inputs before")

    def _given(self, one: WrittenRow, why_not: str) -> None:
        """Make a row of completions that exist; where there are none for these inputs, tell ``why_not``."""
        covered, items = one.covers(self.items.items), len(self.items.items)
        if not covered:
            self.notes.append(f"There is no row {one.name}: {why_not}.")
            return
        key = self._key("given", self.suite.samples, one.engine, sorted(one.completions.items()))
        self._block(one.name, key, lambda: one.block(self.items.items, key=key, samples=self.suite.samples))
        if one.note:
            self.notes.append(one.note)
        if covered < items:
            self.notes.append(f"The row {one.name} has completions for {covered} of the {items} inputs.")
        more = one.beyond(self.items.items, self.suite.samples)
        if more:
            self.notes.append(
                f"Of the row {one.name} the first {self.suite.samples} completions of an input count; {more:,} more "
                "are left out."
            )

    def _ask(self, writer: Teacher, one: LiveRow, key: str) -> Block:
        with Ledger(self.folder / ASKED) as ledger:
            return systems.teacher_block(
                writer,
                self.tasks,
                self.items.items,
                name=one.name,
                kind=one.kind,
                key=key,
                samples=self.suite.samples,
                seed=self.seed,
                latency_requests=self.suite.latency_requests,
                prices=one.card.prices,
                ledger=ledger,
                bar=self.bar,
            )

    def _student(self, entry: StudentEntry, references: Sequence[str]) -> None:
        """A student's rows: matched to the leading reference (one more row for each other), top, open."""
        rows: dict[str, systems.Targets] = {}
        lengths: dict[str, Mapping[str, float]] = {}
        student, name, wanted = entry.student, entry.name, self.suite.systems
        if "student@matched" in wanted:
            for number, ref in enumerate(references):
                row = f"{name}@matched" if number == 0 else f"{name}@matched-{ref}"
                lengths[row] = matched_length.mean_lengths(self.done[ref].rows)
                rows[row] = matched_length.matched_targets(student, lengths[row])
        if "student@top" in wanted:
            rows[f"{name}@top"] = systems.top_targets(student, self.items.tasks)
        if "student@open" in wanted:
            rows[f"{name}@open"] = systems.open_targets(self.items.tasks)
        for row, targets in rows.items():
            if not targets:
                self.notes.append(f"There is no row {row}: the student cannot be commanded so.")
                continue
            settling = ["settled"] if row in lengths else []
            key = self._key(entry.key, _engine(student), self.suite.samples, targets, *settling)
            self._block(row, key, partial(self._write_row, entry, row, targets, lengths.get(row), key))

    def _write_row(
        self, entry: StudentEntry, row: str, targets: systems.Targets, lengths: Mapping[str, float] | None, key: str
    ) -> Block:
        items = [item for item in self.items.items if item.task in targets]
        if lengths is not None:
            targets = matched_length.settled_targets(entry.student, items, lengths, seed=self.seed)
        return systems.student_block(
            entry.student,
            items,
            targets,
            name=row,
            key=key,
            samples=self.suite.samples,
            seed=self.seed,
            latency_requests=self.suite.latency_requests,
            bar=self.bar,
        )

    def _baselines(self, references: Sequence[str]) -> None:
        wanted, items = self.suite.systems, self.items.items
        if "echo" in wanted:
            key = self._key("echo")
            self._block("echo", key, partial(baselines.echo_block, items, key=key))
        if "shuffled" in wanted and references:
            leading = self.done[references[0]]
            key = self._key("shuffled", leading.key, [row.completion for row in leading.rows])
            make = partial(baselines.shuffled_block, leading.rows, key=key, seed=self.seed)
            self._block("shuffled", key, make)
        if "nearest" in wanted and self.data.train:
            pool = hash_hex(*sorted(episode.episode_id for episode in self.data.train))
            key = self._key("nearest", self.suite.encoder, pool)
            self._block("nearest", key, partial(self._nearest, key))

    def _nearest(self, key: str) -> Block:
        # Finding neighbours needs no exact arithmetic, and the cache of training's precision has most inputs.
        encoder = load_encoder(self.suite.encoder, cache=self.cache)
        return baselines.nearest_block(self.items.items, self.data.train, encoder, key=key)

    def _sweep(self, entry: StudentEntry, name: str, wishes: Sequence[Completion]) -> None:
        student = entry.student
        content = [(w.task, w.input_id, w.input, w.seed, w.level, dict(w.targets)) for w in wishes]
        calibrated = wishes[0].part != "uncalibrated"
        key = block_key(entry.key, _engine(student), content, *([] if calibrated else ["uncalibrated"]))
        facts = SystemFacts(entry.name, "student", student.parameters, student=entry.name)

        def make() -> Block:
            return Block(name, key, facts, tuple(systems.answer(student, wishes, calibrated=calibrated, bar=self.bar)))

        self._block(name, key, make)

    def _block(self, name: str, key: str, make: Callable[[], Block]) -> None:
        """Take the stored block where it was made under the same key, else make it and keep it at once.

        One that a teacher did not answer whole is made again: what it failed at is asked for once more.
        """
        block = self.stored.pop(name, None)
        if block is not None and block.key == key and not any(row.error for row in block.rows):
            self.reused += len(block.rows)
            self.bar.update(len(block.rows) if block.facts.kind != "baseline" else 0)
        else:
            if block is not None and block.key != key:
                self.outdated.append(name)
            block = make()
            self.written += len(block.rows)
            self.done[name] = block
            write_blocks(self.folder, [*self.done.values(), *self.stored.values()], about={})
        self.done[name] = block

    def _key(self, *parts: object) -> str:
        items = hash_hex(*((item.task, item.input) for item in self.items.items))
        return block_key(items, self.seed, *parts)


def _engine(student: CommandedStudent) -> tuple[str, str]:
    return student.engine, student.precision


def planned_rows(
    suite: Suite, entries: Sequence[StudentEntry], items: Items, contestants: Sequence[Contestant], seed: int
) -> int:
    """Return how many completions there are to write, what exists already and baselines left out."""
    rows = len(items.items) * suite.samples
    asked = sum(isinstance(one, LiveRow) for one in contestants)
    compared = sum(one.compared for one in contestants)
    matched = max(compared - 1, 0) if "student@matched" in suite.systems else 0
    each = matched + sum(name.startswith(f"{STUDENT}@") for name in suite.systems)
    sweeps = sum(len(wishes) for one in entries for _, wishes in planned_sweeps(suite, one, items, seed))
    return rows * (asked + each * len(entries)) + sweeps


def planned_sweeps(suite: Suite, entry: StudentEntry, items: Items, seed: int) -> list[tuple[str, list[Completion]]]:
    """Return the sweeps of command following: (name of the block, what is to be written)."""
    sweep = suite.following
    if sweep is None:
        return []
    sweeps = []
    for attribute in (name for name in entry.swept if name in (sweep.attributes or entry.swept)):
        for part, wishes in following.SWEEPS.items():
            if part == "uncalibrated" and not systems.is_calibrated(entry.student):
                continue
            block = f"{entry.name}#{part}.{attribute}"
            known = entry.computed.get(attribute)
            askable = [item for item in items.items if covered(known, [item.input])[0]]
            rows = wishes(entry.student, askable, attribute, sweep, block=block, system=entry.name, seed=seed)
            if rows:
                sweeps.append((block, rows))
    return sweeps

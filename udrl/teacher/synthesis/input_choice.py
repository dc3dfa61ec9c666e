"""Which inputs completions are written for: from a file, or seeds filled up with invented ones, without
duplicates.

A source is walked in an order that the seed decides, and what passes de-duplication is taken, so that asking
for more later goes on where the last selection ended. What was chosen is kept in the run, one file per task
and source, ``inputs/TASK.SOURCE.jsonl``: a header line, then one input a line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl.data.dedup import THRESHOLD, Deduplicator
from udrl.data.hashing import hash_hex, hash_int
from udrl.data.inputs import input_id
from udrl.data.run import Run
from udrl.data.tasks import Task, seeds
from udrl.errors import RunError, TaskError, damaged, expect
from udrl.files import atomic_write
from udrl.progress import track
from udrl.teacher.backends.builtin import invented
from udrl.teacher.synthesis.invention import Invention, Inventor, fill, missing

SCHEMA = 1

PATIENCE = 3000
"""Invention by rule stops after this many duplicates in a row: the seeds have nothing more to give."""


@dataclass(frozen=True)
class Chosen:
    """The inputs of one task. exact, near: duplicates dropped while choosing; invented: how many are invented.

    missing: how many a teacher would still have to invent, where nothing was stored.
    """

    task: Task
    inputs: tuple[str, ...]
    invented: int
    exact: int
    near: int
    missing: int = 0


def choose_inputs(
    run: Run,
    tasks: Sequence[Task],
    *,
    texts: Sequence[str] | None,
    num_inputs: int,
    seed: int,
    invent: bool,
    near: bool = False,
    inventor: Inventor | None = None,
    store: bool = True,
) -> list[Chosen]:
    """Return up to ``num_inputs`` inputs for each task, the same for the same source and ``seed``.

    texts: the user's inputs (None: the task's seeds); invent: fill up with invented ones. near: take near
    duplicates too. inventor: the teacher that
    invents (None: the built-in one; generated tasks always have it, since their answers must be known). store: keep the
    selection in the run (which must be held for writing); otherwise no teacher is asked, and what it would have to
    invent is ``missing``.
    An input that was chosen from another source before is taken over; a near duplicate of one is dropped.
    Raises TaskError where there is nothing to choose from, RunError for a damaged or newer selection, and as
    ``udrl.teacher.synthesis.invention.fill`` does.
    """
    pools = [
        _pool(
            run,
            task,
            texts,
            num_inputs,
            seed,
            near=near,
            by_rule=invent and (inventor is None or task.generator is not None),
        )
        for task in tasks
    ]
    absent = [0] * len(pools)
    if invent and inventor is not None:
        asked = [pool.invention for pool in pools if pool.invention.task.generator is None]
        short = [invention for invention in asked if len(invention.inputs) < num_inputs]
        if store and short:
            fill(run, short, inventor, num_inputs=num_inputs, seed=seed)
        absent = [
            0 if store or pool.invention.task.generator else missing(pool.invention, inventor, num_inputs)
            for pool in pools
        ]
    if store:
        for pool in pools:
            _store(pool)
    return [_chosen(pool, num_inputs, count) for pool, count in zip(pools, absent, strict=True)]


@dataclass
class _Pool:
    """The selection of one task and source. exact, near: duplicates that the walk through the source dropped."""

    path: Path
    invention: Invention
    exact: int
    near: int


@dataclass(frozen=True)
class _Stored:
    inputs: list[str]
    invented: list[bool]
    header: Mapping[str, Any]


def _chosen(pool: _Pool, num_inputs: int, absent: int) -> Chosen:
    item = pool.invention
    return Chosen(
        task=item.task,
        inputs=tuple(item.inputs[:num_inputs]),
        invented=sum(item.invented[:num_inputs]),
        exact=pool.exact + item.dropped["exact"],
        near=pool.near + item.dropped["near"],
        missing=absent,
    )


def _pool(
    run: Run, task: Task, texts: Sequence[str] | None, num_inputs: int, seed: int, *, near: bool, by_rule: bool
) -> _Pool:
    """Return the task's selection as it is stored, filled up from the source."""
    source = f"seeds-{seed}" if texts is None else f"file-{hash_hex(seed, *map(input_id, texts), size=4)}"
    path = run.inputs / f"{task.name}.{source}{'-near' if near else ''}.jsonl"
    stored = _load(path) if path.exists() else _Stored([], [], {})
    given = seeds(task) if texts is None else texts
    if not given:
        raise TaskError(f"{task.path}: task '{task.name}' has neither seeds nor examples: give inputs with --inputs")
    item = Invention(
        task=task,
        given=given if texts is None else [*seeds(task), *given],
        inputs=stored.inputs,
        invented=stored.invented,
        # generated problems differ in a number or a word: that makes them different problems, not near duplicates
        seen=Deduplicator(threshold=THRESHOLD if task.generator is None and not near else None),
        rounds=stored.header.get("rounds", 0),
        dropped=Counter(stored.header.get("dropped", {})),
        exhausted=stored.header.get("exhausted"),
    )
    pool = _Pool(path, item, stored.header.get("exact", 0), stored.header.get("near", 0))
    if len(item.inputs) < num_inputs:
        others = [text for other in _other_files(run, task, path) for text in _load(other).inputs]
        stream = _stream(task, given, item.given, seed, by_rule)
        pool.exact, pool.near = _walk(item, stream, others, num_inputs)
    return pool


def _stream(
    task: Task, given: Sequence[str], known: Sequence[str], seed: int, by_rule: bool
) -> Iterator[tuple[str, bool]]:
    """Yield (input, whether it is invented); without end where inputs are invented by rule."""
    for text in sorted(given, key=lambda text: hash_int(seed, task.name, input_id(text))):
        yield text, False
    if by_rule:
        for text in invented(task, seeds=known, seed=seed):
            yield text, True


def _walk(
    item: Invention, stream: Iterable[tuple[str, bool]], others: Sequence[str], num_inputs: int
) -> tuple[int, int]:
    """Walk the stream from its start until there are ``num_inputs``; what ``item`` holds already is passed by.

    Returns how many exact and near duplicates were dropped.
    """
    for text in (*others, *item.inputs):
        item.seen.add(text)
    passed_by = {input_id(text) for text in item.inputs}
    taken_over = {input_id(text) for text in others} - passed_by
    exact = near = fruitless = 0
    bar = track(f"choosing inputs for {item.task.name}", total=None, unit="inputs")
    for text, is_invented in stream:
        bar.update()
        if len(item.inputs) >= num_inputs or fruitless > PATIENCE:
            break
        identity = input_id(text)
        if identity in passed_by:
            passed_by.remove(identity)
            fruitless = 0  # as when it was new
            continue
        verdict = "new" if identity in taken_over else item.seen.add(text)
        taken_over.discard(identity)
        if verdict == "new":
            item.inputs.append(text)
            item.invented.append(is_invented)
            fruitless = 0
        else:
            exact += verdict == "exact"
            near += verdict == "near"
            fruitless += is_invented
    bar.close()
    return exact, near


def _other_files(run: Run, task: Task, path: Path) -> list[Path]:
    return [other for other in sorted(run.inputs.glob(f"{task.name}.*.jsonl")) if other != path]


def _load(path: Path) -> _Stored:
    with damaged(RunError, path, "remove it, the inputs are chosen again"):
        header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        if expect(header["schema"], int, "schema") > SCHEMA:
            raise RunError(
                f"{path}: has schema {header['schema']}, this udrl reads up to {SCHEMA}: install a newer udrl"
            )
        for name in ("exact", "near"):
            expect(header[name], int, name)
        expect(header.get("rounds", 0), int, "rounds")
        for name, count in expect(header.get("dropped", {}), dict, "dropped").items():
            expect(count, int, name)
        texts = [expect(row["input"], str, "input") for row in rows]
        return _Stored(texts, [expect(row["invented"], bool, "invented") for row in rows], header)


def _store(pool: _Pool) -> None:
    """Write the selection with a header that says how it came about; nothing where it stands there already."""
    item = pool.invention
    header = {"schema": SCHEMA, "task": item.task.name, "exact": pool.exact, "near": pool.near}
    if item.rounds:
        header |= {"rounds": item.rounds, "dropped": dict(sorted(item.dropped.items()))}
    if item.exhausted:
        header["exhausted"] = item.exhausted
    rows = [
        {"input_id": input_id(text), "input": text, "invented": is_invented}
        for text, is_invented in zip(item.inputs, item.invented, strict=True)
    ]
    # json.dumps escapes U+2028 and the like, at which str.splitlines would split.
    content = "".join(json.dumps(row) + "\n" for row in (header, *rows))
    if not pool.path.exists() or pool.path.read_text(encoding="utf-8") != content:
        pool.path.parent.mkdir(exist_ok=True)
        atomic_write(pool.path, content)

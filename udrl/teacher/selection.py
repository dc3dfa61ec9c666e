"""Which inputs completions are written for: from a file, or seeds filled up with invented ones, without
duplicates.

A source is walked in an order that the seed decides, and what passes de-duplication is taken, so that asking
for more later goes on where the last selection ended. What was chosen is kept in the run, one file per task
and source, ``inputs/TASK.SOURCE.jsonl``: a header line, then one input a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from udrl.data.dedup import Deduplicator
from udrl.data.hashing import hash_hex, hash_int
from udrl.data.inputs import input_id
from udrl.data.run import Run, atomic_write
from udrl.data.tasks import Task, seeds
from udrl.errors import RunError, TaskError

SCHEMA = 1

PATIENCE = 3000
"""Invention stops after this many duplicates in a row: the seeds have nothing more to give."""


@dataclass(frozen=True)
class Chosen:
    """The inputs of one task. exact, near: duplicates dropped while choosing; invented: how many are
    invented."""

    task: Task
    inputs: tuple[str, ...]
    invented: int
    exact: int
    near: int


def choose_inputs(
    run: Run,
    task: Task,
    *,
    texts: Sequence[str] | None,
    num_inputs: int,
    seed: int,
    invent: bool,
    store: bool = True,
) -> Chosen:
    """Return up to ``num_inputs`` inputs for ``task``, the same for the same source and ``seed``.

    texts: the user's inputs (None: the task's seeds); invent: fill up with invented ones.
    store: keep the selection in the run (which must be held for writing).
    An input that was chosen from another source before is taken over; a near duplicate of one is dropped.
    Raises TaskError where there is nothing to choose from, RunError for a damaged or newer selection.
    """
    source = f"seeds-{seed}" if texts is None else f"file-{hash_hex(seed, *map(input_id, texts), size=4)}"
    path = run.inputs / f"{task.name}.{source}.jsonl"
    own = _load(path) if path.exists() else _Selection([], [], 0, 0)
    if len(own.inputs) < num_inputs:
        others = [text for other in _other_files(run, task, path) for text in _load(other).inputs]
        own = _walk(own, _stream(task, texts, seed, invent), others, num_inputs)
        if store:
            _store(path, task, own)
    taken = own.inputs[:num_inputs]
    return Chosen(task, tuple(taken), sum(own.invented[:num_inputs]), own.exact, own.near)


@dataclass
class _Selection:
    inputs: list[str]
    invented: list[bool]
    exact: int
    near: int


def _stream(task: Task, texts: Sequence[str] | None, seed: int, invent: bool) -> Iterator[tuple[str, bool]]:
    """Yield (input, whether it is invented); without end where inputs are invented."""
    given = seeds(task) if texts is None else texts
    if not given:
        raise TaskError(f"{task.path}: task '{task.name}' has neither seeds nor examples: give inputs with --inputs")
    for text in sorted(given, key=lambda text: hash_int(seed, task.name, input_id(text))):
        yield text, False
    if invent:
        from udrl.teacher.builtin import invent as invented

        for text in invented(task, seeds=given if texts is None else [*seeds(task), *given], seed=seed):
            yield text, True


def _walk(own: _Selection, stream: Iterable[tuple[str, bool]], others: Sequence[str], num_inputs: int) -> _Selection:
    """Walk the stream from its start until there are ``num_inputs``; what ``own`` holds already is passed
    by."""
    seen = Deduplicator()
    for text in (*others, *own.inputs):
        seen.add(text)
    taken_over = {input_id(text) for text in others}
    passed_by = {input_id(text) for text in own.inputs}
    taken_over -= passed_by
    result = _Selection(list(own.inputs), list(own.invented), 0, 0)
    fruitless = 0
    for text, is_invented in stream:
        if len(result.inputs) >= num_inputs or fruitless > PATIENCE:
            break
        identity = input_id(text)
        if identity in passed_by:
            passed_by.remove(identity)
            continue
        verdict = "new" if identity in taken_over else seen.add(text)
        taken_over.discard(identity)
        if verdict == "new":
            result.inputs.append(text)
            result.invented.append(is_invented)
            fruitless = 0
        else:
            result.exact += verdict == "exact"
            result.near += verdict == "near"
            fruitless += is_invented
    return result


def _other_files(run: Run, task: Task, path: Path) -> list[Path]:
    return [other for other in sorted(run.inputs.glob(f"{task.name}.*.jsonl")) if other != path]


def _load(path: Path) -> _Selection:
    try:
        header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        if header["schema"] > SCHEMA:
            raise RunError(
                f"{path}: has schema {header['schema']}, this udrl reads up to {SCHEMA}: install a newer udrl"
            )
        inputs, invented = [row["input"] for row in rows], [row["invented"] for row in rows]
        return _Selection(inputs, invented, header["exact"], header["near"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is damaged ({error!r}): remove it, the inputs are chosen again") from error


def _store(path: Path, task: Task, chosen: _Selection) -> None:
    path.parent.mkdir(exist_ok=True)
    header = {"schema": SCHEMA, "task": task.name, "exact": chosen.exact, "near": chosen.near}
    rows = [
        {"input_id": input_id(text), "input": text, "invented": is_invented}
        for text, is_invented in zip(chosen.inputs, chosen.invented, strict=True)
    ]
    # json.dumps escapes U+2028 and the like, at which str.splitlines would split.
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in (header, *rows)))

"""Files of recorded outputs: what systems wrote before, to be compared without asking anybody.

A file is a table as ``udrl.data.tables`` reads it (.json is how AlpacaEval writes its ``model_outputs.json``), one
completion or a list of them a row:

    input    what it was written for; also instruction, text, prompt, caption (of several the first that is not empty)
    output   the completion, or a list of completions; also completion
    model    optional: who wrote it; also generator. Without it the file's name is the system's
    task     optional: where inputs of several tasks are compared, and one input belongs to more than one of them
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl.data import tables
from udrl.data.inputs import DEFAULT_FIELDS, cut_input, input_id
from udrl.errors import InputError, UsageError
from udrl.eval.suites import Item
from udrl.words import whole_characters

INPUTS = (*DEFAULT_FIELDS, "instruction")
OUTPUTS = ("output", "completion")
MODELS = ("model", "generator")
TASK = "recorded"
"""The task of rows that name none, where the recorded inputs are the suite."""


@dataclass(frozen=True)
class Output:
    """One recorded completion. task: None where the file does not say; place: in the file, for messages."""

    task: str | None
    input: str
    input_id: str
    output: str
    model: str
    line: str


def read_outputs(path: Path) -> Iterator[Output]:
    """Yield the completions of a file in order, reading as it goes; rows without input or output are left out.

    Raises InputError, with the place, where the file cannot be read so.
    """
    stem = path.name.partition(".")[0]
    for line, row in tables.read_rows(path, _pick):
        where = f"{path}{line}"
        text, outputs = _value(row, INPUTS), _value(row, OUTPUTS)
        task, model = row.get("task"), next((row[name] for name in MODELS if row.get(name)), stem)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        for value in (text, task, model, *outputs):
            if not (value is None or isinstance(value, str)):
                raise InputError(f"{where}: input, output, model and task must be texts, found {repr(value)[:40]}")
        if text is None or not text.strip():
            continue
        if "task" in row and not task:
            raise InputError(f"{where}: the row has no task: name it, or take the column out")
        cleaned, _ = cut_input(whole_characters(text.strip()))
        for output in outputs:
            if output is not None:
                yield Output(task, cleaned, input_id(cleaned), whole_characters(output.strip()), model.strip(), line)


def recorded_items(paths: Sequence[Path], *, known_tasks: Sequence[str] = ()) -> dict[str, list[Item]]:
    """Return the inputs of the files by task, each once: the suite of a benchmark of recorded outputs.

    known_tasks: those of a student that is to answer them too; a file without tasks is about the only one of them.
    Raises InputError where such a file could be about several, or the files hold nothing.
    """
    items: dict[tuple[str, str], Item] = {}
    for path in paths:
        for output in read_outputs(path):
            task = output.task
            if task is None:
                if len(known_tasks) > 1:
                    raise InputError(
                        f"{path}{output.line}: there is no column 'task', and the student knows "
                        f"{', '.join(known_tasks)}: add it"
                    )
                task = known_tasks[0] if known_tasks else TASK
            items.setdefault((task, output.input_id), Item(task, output.input_id, output.input))
    if not items:
        raise InputError(f"{', '.join(map(str, paths))}: holds no completions: check the file")
    by_task: dict[str, list[Item]] = {}
    for item in items.values():
        by_task.setdefault(item.task, []).append(item)
    return by_task


@dataclass(frozen=True)
class MatchedOutputs:
    """What a file holds for the items: model -> (task, input_id) -> completions; others: models that hold nothing."""

    models: Mapping[str, Mapping[tuple[str, str], list[str]]]
    others: tuple[str, ...]


def outputs_for(path: Path, items: Sequence[Item]) -> MatchedOutputs:
    """Return the completions of a file that are for ``items``, matched by input (and task, where the file has them).

    Raises InputError where it holds none, or where a row without a task fits items of several.
    """
    tasks: dict[str, list[str]] = {}
    for item in items:
        tasks.setdefault(item.input_id, []).append(item.task)
    models: dict[str, dict[tuple[str, str], list[str]]] = {}
    others: dict[str, None] = {}
    for output in read_outputs(path):
        fitting = [task for task in tasks.get(output.input_id, ()) if output.task in (None, task)]
        if len(fitting) > 1:
            raise InputError(
                f"{path}{output.line}: there is no column 'task', and this input is one of {', '.join(fitting)}: add it"
            )
        if fitting:
            models.setdefault(output.model, {}).setdefault((fitting[0], output.input_id), []).append(output.output)
        else:
            others[output.model] = None
    if not models:
        names = ", ".join(dict.fromkeys(item.task for item in items))
        raise InputError(
            f"{path}: holds no output for any of the {len(items)} inputs of this benchmark (tasks {names}): record "
            "outputs for those inputs, choose --suite heldout where the run's test inputs stand in the file, or "
            "--suite recorded to compare on the file's own"
        )
    return MatchedOutputs(models, tuple(sorted(set(others) - set(models))))


def model_named(name: str, models: Iterable[str]) -> str | None:
    """Return the one of ``models`` that ``name`` means: itself, or the only one that contains it.

    Case and punctuation do not count: ``llama3`` is Meta-Llama-3-8B-Instruct. Raises UsageError where several fit.
    """
    known = list(models)
    if name in known:
        return name
    fitting = [model for model in known if _plain(name) and _plain(name) in _plain(model)]
    if len(fitting) > 1:
        raise UsageError(f"'{name}' may be any of {', '.join(fitting)}: name one in full")
    return fitting[0] if fitting else None


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _pick(where: str, columns: Collection[str]) -> Collection[str]:
    for names in (INPUTS, OUTPUTS):
        if not any(name in columns for name in names):
            raise tables.no_column(where, names, columns)
    return [name for name in (*INPUTS, *OUTPUTS, *MODELS, "task") if name in columns]


def _value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return what stands in the first of the columns ``names`` that is not empty (Alpaca's rows may have an empty
    ``input`` beside the ``instruction``).
    """
    cells = [row[name] for name in names if name in row]
    return next((value for value in cells if value not in (None, "")), cells[0])

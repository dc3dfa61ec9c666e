"""Completions that already exist, as a teacher: ``--teacher recorded:FILE``, or ``written`` for those that ship.

FILE is a table, or a folder of tables, which are read as one in the order of their names. One completion or a list of
them a row:

    input    what it was written for; also under the names text, prompt, caption, or the one that is given
    output   the completion, or a list of completions; also under the name completion
    task     optional; without it all rows belong to one task
    model    optional: who wrote it, which becomes the episode's teacher
    licence  optional: under which licence it may be used
    finish_reason  optional, also under the name stop_reason: why it ended; what did not finish is rejected
    others   numbers are kept beside the completion, as rewards (``udrl score --reward-field``)
"""

from __future__ import annotations

import math
import re
import time
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from udrl import yamlfile
from udrl.data import tables
from udrl.data.hashing import hash_hex, hash_int
from udrl.data.inputs import cut_input, field_of, input_id
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.survey import KeySet
from udrl.data.tasks import NAME, Task, load_task, shipped_tasks
from udrl.errors import InputError, TaskError, suggestion
from udrl.files import atomic_write
from udrl.resources import folder
from udrl.teacher.protocol import Reply, Request
from udrl.teacher.thoughts import without_thoughts
from udrl.words import count_words, whole_characters

PREFIX = "recorded:"

WRITTEN = "written"
"""The teacher's name for the completions that ship with udrl, ``data/written``."""

OUTPUTS = ("output", "completion")

MOST_WORDS = 300
"""No bound taken from a file is above this: a student's context ends not far behind it."""

_SHARES = (0.01, 0.95)
_FACTS = ("task", "model", "licence", "license", "finish_reason", "stop_reason")
_NOT_NUMBERS = (*_FACTS, "source", "id")
_ROW_NUMBERS = re.compile(r"index|Unnamed: \d+|__index_level_\d+__|")
"""What pandas and others call columns of row numbers: they change when a row is added, what a row says does not."""
_UNNAMED = "recorded"


@dataclass(frozen=True)
class RecordedRow:
    """One completion of the file."""

    task: str
    input: str
    output: str
    model: str
    licence: str | None
    numbers: Mapping[str, float]
    finish_reason: str | None = None


@dataclass
class FileSurvey:
    """What is in a file. lengths: words of the completions, by task; inputs: how many different ones, by task.

    rows: completions. blank: rows without an input or an output. cut: inputs longer than is read.
    licences: by model, as the file names them. tasks: all names in the file, also of rows that are not taken.
    """

    rows: int = 0
    blank: int = 0
    cut: int = 0
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    licences: dict[str, set[str]] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)


def source_of(teacher: str | Path) -> Path | None:
    """Return the table or folder of recorded completions that is named as a ``teacher``; None for any other teacher."""
    name = str(teacher)
    if name == WRITTEN:
        return folder("data") / WRITTEN
    return Path(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def tables_of(source: Path) -> tuple[Path, ...]:
    """Return the table ``source``, or the tables of this folder by name; raises InputError where it holds none."""
    if not source.is_dir():
        return (source,)
    paths = tuple(path for path in sorted(source.iterdir()) if tables.is_table(path))
    if not paths:
        raise InputError(f"{source}: is a folder without tables: it takes files named {', '.join(tables.FORMATS)}")
    return paths


class RecordedTeacher:
    """Replies with what stands in ``path``, see `tables_of`.

    It is asked with its own ``requests``, which are all that it knows.
    """

    name = _UNNAMED
    revision: str | None = None
    engine_arguments: Mapping[str, Any] = {}
    gpus = 0

    def __init__(self, path: Path, *, tasks: Collection[str] = (), input_field: str | None = None) -> None:
        """tasks: the names that rows are taken of (none: all). In a file without the column ``task`` every row
        belongs to the only one of them, or to one with the file's name."""
        self.path = path
        self.model = path.name
        self._wanted = tuple(tasks)
        self._field = input_field
        self._held: tuple[str, RecordedRow] | None = None

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Nothing can be set."""
        return {}

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Nothing can be set."""
        return {}

    def survey(self) -> FileSurvey:
        """Read all of the file once, without keeping its texts; raises InputError where it cannot be read so."""
        survey = FileSurvey()
        inputs: dict[str, set[int]] = {}
        for row in self._rows(survey):
            survey.rows += 1
            survey.lengths.setdefault(row.task, Counter())[count_words(row.output)] += 1
            inputs.setdefault(row.task, set()).add(hash_int(input_id(row.input)))
            licences = survey.licences.setdefault(row.model, set())
            if row.licence is not None:
                licences.add(row.licence)
        survey.inputs = {task: len(ids) for task, ids in sorted(inputs.items())}
        for task in self._wanted:
            if task not in survey.lengths:
                raise InputError(
                    f"{self.path}: holds no completions of task '{task}'{suggestion(task, survey.tasks)}; found: "
                    f"{', '.join(sorted(survey.tasks)) or 'none'}"
                )
        if not survey.rows:
            raise InputError(f"{self.path}: holds no completions: check the file")
        return survey

    def requests(self) -> Iterator[Request]:
        """Yield a request for every completion of the file, in its order.

        The key hashes what the row says, and how many equal ones stand before it: rows that were taken are known
        wherever they stand in a file of whatever name. Memory: about 100 bytes an input, for ``sample``, and a row.
        """
        samples: dict[int, int] = {}
        keys = _Keys()
        for row in self._rows(FileSurvey()):
            identity = input_id(row.input)
            asked = hash_int(row.task, identity)
            sample = samples.get(asked, 0)
            samples[asked] = sample + 1
            key = keys.next(row.task, row.input, row.output, row.model, row.numbers)
            self._held = key, row
            messages = ({"role": "user", "content": row.input},)
            yield Request(key, row.task, identity, row.input, messages, dict(row.numbers), 0, sample)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Reply to each of the teacher's own requests as it is drawn: of the file, one row is held at a time."""
        for request in requests:
            started = time.time()
            if self._held is None or self._held[0] != request.key:
                reply = Reply(
                    request.key, None, None, None, None, started, 0.0, error=f"answer: {self.path} does not hold it"
                )
            else:
                row = self._held[1]
                reply = Reply(
                    request.key, row.output, row.finish_reason or "stop", None, None, started, 0.0, teacher=row.model
                )
            yield reply

    def close(self) -> None:
        """Nothing is held open."""
        self._held = None

    def _rows(self, counts: FileSurvey) -> Iterator[RecordedRow]:
        for where, data in self._read():
            names = self._names(where, data)
            task = self._task(data, where)
            counts.tasks.add(task)
            if self._wanted and task not in self._wanted:
                continue
            text, outputs = (data[name] for name in names)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            if not all(value is None or isinstance(value, str) for value in (text, *outputs)):
                raise InputError(f"{where}: {' and '.join(map(repr, names))} must be texts")
            given = [output for output in outputs if output is not None]
            if not text or not text.strip() or not given:
                counts.blank += 1
                continue
            text, was_cut = cut_input(whole_characters(text.strip()))
            counts.cut += was_cut
            model = _text(data, "model", where) or _UNNAMED
            licence = _text(data, "licence", where) or _text(data, "license", where)
            reason = _text(data, "finish_reason", where) or _text(data, "stop_reason", where)
            numbers = _numbers(data, names, where)
            for output in given:
                yield RecordedRow(
                    task, text, whole_characters(without_thoughts(output).strip()), model, licence, numbers, reason
                )

    def _read(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield where each row stands, and what it says."""
        for path in tables_of(self.path):
            for line, data in tables.read_rows(path, self._pick, numbers=True):
                yield f"{path}{line}", data

    def _names(self, where: str, columns: Collection[str]) -> tuple[str, str]:
        """Return the columns of the input and of the output."""
        return field_of(where, columns, self._field), _column(where, columns, OUTPUTS)

    def _pick(self, where: str, columns: Collection[str]) -> Collection[str]:
        return *self._names(where, columns), *(name for name in _FACTS if name in columns)

    def _task(self, data: Mapping[str, Any], where: str) -> str:
        name = _text(data, "task", where)
        if name is None:
            if "task" in data:
                raise InputError(f"{where}: the row has no task: name it, or take the column out")
            if len(self._wanted) > 1:
                raise InputError(f"{where}: there is no column 'task': add it, or name one --task for all rows")
            if self._wanted:
                return self._wanted[0]
            name = re.sub(r"[^a-z0-9]+", "-", self.path.name.partition(".")[0].lower()).strip("-") or _UNNAMED
        if not NAME.fullmatch(name):
            raise InputError(f"{where}: a task's name must be small letters, digits and single hyphens, found {name!r}")
        return name


def define_tasks(run: Run, survey: FileSurvey, *, given: Iterable[Task] = (), source: Path) -> tuple[Task, ...]:
    """Return the tasks of the file, and write what is new into the run, which must be held for writing.

    A task that is ``given`` or that the run has already stays as it is. One that ships keeps its texts, with bounds
    widened to hold what was recorded; any other is made from the file. Bounds are those within which 94 % of the
    completions lie, up to MOST_WORDS; longer and shorter ones are rejected by the rules of episode building.
    """
    by_name = {task.name: task for task in given}
    shipped = shipped_tasks(generated=True)
    for name, lengths in sorted(survey.lengths.items()):
        target = run.path / "tasks" / f"{name}.yaml"
        if name in by_name:
            continue
        if not target.is_file():
            low, high = bounds(lengths)
            if name in shipped:
                data = yamlfile.read_mapping(shipped[name], kind="task")
                length = data["length"]
                data["length"] = {"min": min(low, length["min"]), "max": max(high, length["max"])}
            else:
                data = {
                    "name": name,
                    "title": name.replace("-", " ").capitalize(),
                    "description": f"Taken from the recorded outputs in {source.name}.",
                    "instruction": "{input}",
                    "length": {"min": low, "max": high},
                }
            target.parent.mkdir(exist_ok=True)
            atomic_write(target, yamlfile.written(data))
        by_name[name] = load_task(target)
    return tuple(by_name[name] for name in sorted(survey.lengths))


def bounds(lengths: Mapping[int, int]) -> tuple[int, int]:
    """Return the bounds in words that hold all but the shortest 1 % and the longest 5 % of ``lengths``.

    lengths: how often each number of words occurs, at least one above 0. Raises TaskError where none is.
    """
    lengths = {words: count for words, count in lengths.items() if words > 0}
    if not lengths:
        raise TaskError("the recorded outputs hold no words: check the file")
    total, passed = sum(lengths.values()), 0
    marks = array("q")
    shares = list(_SHARES)
    for words, count in sorted(lengths.items()):
        passed += count
        while shares and passed >= shares[0] * total:
            marks.append(words)
            shares.pop(0)
    low = min(marks[0], MOST_WORDS)
    return low, max(low, min(marks[1], MOST_WORDS))


def taken(ledger: Ledger) -> KeySet:
    """Return the keys that recorded rows have which ``ledger`` holds the completions of.

    What a row says stands in its line, so that rows taken by earlier versions, whose keys hashed row numbers, are
    known as well.
    """
    keys = _Keys()
    return KeySet.of(
        keys.next(row["task"], cut_input(row["input"])[0], row["completion"], row["teacher"], row["sampling"])
        for _, row in ledger.rows()
        if row["status"] == "ok"
    )


class _Keys:
    """The identities of rows: a hash of what each says, and of how many equal ones came before."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def next(self, task: str, text: str, output: str, model: str, numbers: Mapping[str, Any]) -> str:
        """Return the identity of the next row that says this."""
        lasting = sorted((name, value) for name, value in numbers.items() if not _ROW_NUMBERS.fullmatch(name))
        said = hash_hex(_UNNAMED, task, text, output, model, lasting, size=16)
        mark = int(said[:16], 16)
        equal = self._seen.get(mark, 0)
        self._seen[mark] = equal + 1
        return hash_hex(said, equal, size=16)


def _column(where: str, columns: Collection[str], names: Collection[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise tables.no_column(where, names, columns)


def _text(data: Mapping[str, Any], name: str, where: str) -> str | None:
    value = data.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InputError(f"{where}: '{name}' must be text, found {value!r}")
    return whole_characters(value.strip())


def _numbers(data: Mapping[str, Any], columns: Collection[str], where: str) -> dict[str, float]:
    """Return the columns that hold numbers; a CSV file's cells are texts that read as numbers.

    Raises InputError for a whole number beyond a float's range.
    """
    numbers: dict[str, float] = {}
    for name, value in data.items():
        if name in columns or name in _NOT_NUMBERS:
            continue
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                continue
        try:
            if isinstance(value, bool | int | float | Decimal) and math.isfinite(value):
                numbers[whole_characters(name.strip())] = float(value)
        except OverflowError:
            raise InputError(f"{where}: '{name}' is beyond 1.8e308: write a smaller number or take it out") from None
    return numbers

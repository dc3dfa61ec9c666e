"""Known answers: what rewards such as ``accuracy`` compare completions with, kept in the run beside its inputs.

``RUN/answers.jsonl`` holds one ``{"input_id", "answer"}`` a line, so that answers go wherever the run goes. They come
from the column ``answer`` of an input file, of recorded outputs, or of a table given to ``udrl score --answers``.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path

from udrl.data import tables
from udrl.data.inputs import DEFAULT_FIELDS, FORMATS, cut_input, field_of, input_id
from udrl.data.tables import no_column
from udrl.errors import InputError, RunError
from udrl.files import atomic_write
from udrl.numerals import LONGEST
from udrl.words import whole_characters

ANSWER = "answer"
"""The column of the known answer, a text or a number."""

FILE = "answers.jsonl"
FIELDS = (*DEFAULT_FIELDS, "question")
"""Where a row's input is looked for when no field is named: the first of these that it has."""

Answers = Mapping[str, str]
"""Known answers as texts, by input id."""


def read_answers(folder: Path) -> dict[str, str]:
    """Return the answers that the folder of a run, or of a benchmark, has; empty where it has none.

    Raises RunError for a file that cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        return {}
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
        return {str(row["input_id"]): str(row["answer"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: is damaged ({error!r}): restore it, or remove it and give --answers again") from error


def store_answers(folder: Path, answers: Answers, *, unknown: Collection[str] = ()) -> None:
    """Add ``answers`` to those of ``folder``; a newer answer of an input takes the place of the older.

    unknown: ids of inputs that have no answer any more.
    """
    old = read_answers(folder)
    new = {identity: answer for identity, answer in {**old, **answers}.items() if identity not in unknown}
    if new != old:
        lines = (json.dumps({"input_id": identity, "answer": answer}) + "\n" for identity, answer in new.items())
        atomic_write(folder / FILE, "".join(lines))


def answers_of_file(path: Path | str, *, field: str | None = None, needed: bool = False) -> dict[str, str]:
    """Return, by input id, what stands in the column ``answer`` of a table; empty where it has none.

    path: a table as ``udrl.data.tables`` reads it (in a .txt file there is no answer). field: the column of the input;
    None: the first of FIELDS. needed: a table without the column, or without an answer in it, is an error. An input
    with answers that differ has none, which is told as a warning. Raises InputError as ``read_inputs`` does.
    """
    path = Path(path)
    if not needed and tables.kind_of(path, FORMATS) == ".txt":
        return {}
    answers: dict[str, str] = {}
    torn: set[str] = set()
    lacking: list[InputError] = []

    def pick(where: str, columns: Collection[str]) -> Collection[str]:
        if ANSWER in columns:
            return field_of(where, columns, field, FIELDS), ANSWER
        if not lacking:
            lacking.append(no_column(where, (ANSWER,), columns))
        return ()

    for line, row in tables.read_rows(path, pick):
        if ANSWER not in row:
            continue
        text = row[field_of(f"{path}{line}", row, field, FIELDS)]
        answer = _text(row[ANSWER])
        if not isinstance(text, str) or not text.strip() or answer is None:
            continue
        identity = input_id(cut_input(whole_characters(text.strip()))[0])  # as recorded outputs are read
        if answers.setdefault(identity, answer) != answer:
            torn.add(identity)
    if needed and not answers:
        raise next(iter(lacking), InputError(f"{path}: holds no known answer: write one into the column '{ANSWER}'"))
    if torn:
        warnings.warn(f"{path}: {len(torn):,} inputs have answers that differ: none of them is taken", stacklevel=3)
    return {identity: answer for identity, answer in answers.items() if identity not in torn}


def _text(value: object) -> str | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        return _written(Decimal(repr(value)) if isinstance(value, float) else value) if math.isfinite(value) else None
    return value.strip() or None if isinstance(value, str) else None


def _written(value: Decimal) -> str:
    """Return the digits of a number as people write them, 0.00001 and not 1e-05; with an exponent where it is long."""
    plain = f"{value:f}"
    return plain if len(plain) <= LONGEST else f"{value:e}"

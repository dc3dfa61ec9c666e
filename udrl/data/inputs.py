"""Inputs: the texts that completions are written for, from files of users, and their identity and split."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

from udrl.data import tables
from udrl.data.hashing import hash_hex, hash_int
from udrl.errors import InputError, suggestion
from udrl.words import WORD

Split = Literal["train", "validation", "test"]

DEFAULT_FIELDS = ("text", "input", "prompt", "caption")
"""Where inputs are looked for when no field is named: the first of these that the file has."""

REFERENCE = "reference"
"""The column of a good answer to the input, which teachers may be shown."""

FORMATS = (*tables.FORMATS, ".txt")

MAX_INPUT_WORDS = 2000
"""Longer inputs are cut: no student reads more, and one runaway row must not stall a teacher."""

MAX_INPUT_CHARACTERS = 20 * MAX_INPUT_WORDS
"""So are inputs of more characters, whatever a word of them is: one of 2 million characters would take a gigabyte."""

# JSON can spell half of a character ("\\ud800"), which no file of ours could hold.
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHARES: tuple[tuple[int, Split], ...] = ((90, "train"), (95, "validation"), (100, "test"))


def normalise(text: str) -> str:
    """Return ``text`` as it is compared: NFKC, case-folded, white space folded and stripped."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def input_id(text: str) -> str:
    """Return the identity of an input, the same in every task: 16 hex digits of its normalised text."""
    return hash_hex(normalise(text))


def split_of(input_id: str) -> Split:
    """Return the split of an input (90/5/5) by a hash of its id: it never stands on both sides."""
    draw = hash_int("split", input_id, bits=64) % 100
    return next(split for limit, split in _SHARES if draw < limit)


def cut_input(text: str) -> tuple[str, bool]:
    """Return ``text`` up to its word number MAX_INPUT_WORDS, of at most MAX_INPUT_CHARACTERS, and whether anything was
    cut off."""
    if len(text) <= MAX_INPUT_WORDS:
        return text, False
    if len(text) > MAX_INPUT_CHARACTERS:
        return cut_input(text[:MAX_INPUT_CHARACTERS].rstrip())[0], True
    for number, word in enumerate(WORD.finditer(text), start=1):
        if number == MAX_INPUT_WORDS:
            rest = WORD.search(text, word.end())
            return (text[: word.end()], True) if rest else (text, False)
    return text, False


def read_inputs(path: Path | str, *, field: str | None = None, counts: Counter[str] | None = None) -> Iterator[str]:
    """Yield the inputs of a file in order, stripped, reading as it goes.

    path: a table as ``udrl.data.tables`` reads it, or .txt (one input a line), each also .gz.
    field: the column that holds the inputs; None: the first of DEFAULT_FIELDS that the file has.
    counts: receives ``blank`` (inputs dropped because nothing is in them) and ``cut`` (inputs longer than
        MAX_INPUT_WORDS or MAX_INPUT_CHARACTERS, cut there); without it both are told as warnings.
    Raises InputError, with the line where there is one, for a file that is missing, empty, binary, wrongly
    encoded, half-written, of an unknown format, or without the field.
    """
    path = Path(path)
    tally: Counter[str] = Counter() if counts is None else counts
    holds_some = False
    for text in _texts(path, field):
        stripped = text.strip()
        if not stripped:
            tally["blank"] += 1
            continue
        stripped, was_cut = cut_input(stripped)
        tally["cut"] += was_cut
        holds_some = True
        yield stripped
    if not holds_some:
        why = f"all {tally['blank']} of them are blank" if tally["blank"] else "it is empty"
        raise InputError(f"{path} holds no inputs: {why}")
    if counts is None:
        if tally["blank"]:
            warnings.warn(f"{path}: {tally['blank']} blank inputs dropped", stacklevel=2)
        if tally["cut"]:
            warnings.warn(
                f"{path}: {tally['cut']} inputs cut at {MAX_INPUT_WORDS} words or {MAX_INPUT_CHARACTERS} characters",
                stacklevel=2,
            )


def read_references(path: Path | str, *, field: str | None = None) -> dict[str, str]:
    """Return, by input id, what stands in the column ``reference`` of a file of inputs; empty where it has none.

    Of an input that stands in the file several times the first reference counts. Raises as ``read_inputs`` does.
    """
    path = Path(path)
    references: dict[str, str] = {}
    if tables.kind_of(path, FORMATS) == ".txt":
        return references

    def pick(where: str, columns: Collection[str]) -> Collection[str]:
        return (field_of(where, columns, field), REFERENCE) if REFERENCE in columns else ()

    for line, row in tables.read_rows(path, pick):
        if row.get(REFERENCE) is None:
            continue
        where = f"{path}{line}"
        name = field_of(where, row, field)
        text, shown = _text_of(where, row[name], name).strip(), _text_of(where, row[REFERENCE], REFERENCE).strip()
        if text and shown:
            references.setdefault(input_id(cut_input(text)[0]), shown)
    return references


def field_of(where: str, columns: Collection[str], field: str | None, names: Collection[str] = DEFAULT_FIELDS) -> str:
    """Return the column of the inputs: ``field``, or the first of ``names`` that is among ``columns``.

    where: file and place, for messages. Raises InputError where there is none.
    """
    listed = ", ".join(columns) or "none"
    if field is not None:
        if field not in columns:
            raise InputError(f"{where}: has no field '{field}'{suggestion(field, columns)}; found: {listed}")
        return field
    for name in names:
        if name in columns:
            return name
    raise InputError(
        f"{where}: none of the fields {', '.join(names)} is there; found: {listed}; "
        "rename the right one, or name it with --input-field"
    )


def _texts(path: Path, field: str | None) -> Iterator[str]:
    if tables.kind_of(path, FORMATS) == ".txt":
        yield from _lines(path, field)
        return
    for line, row in tables.read_rows(path, lambda where, columns: (field_of(where, columns, field),)):
        name = field_of(f"{path}{line}", row, field)
        yield _text_of(f"{path}{line}", row[name], name)


def _lines(path: Path, field: str | None) -> Iterator[str]:
    if field is not None:
        raise InputError(f"{path}: a .txt file has no fields, found the field '{field}' asked for: leave it out")
    with tables.opened(path) as file:
        for _, line in tables.text_lines(path, file):
            yield line


def _text_of(where: str, value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: field '{name}' must be text, found {str(value)[:40]!r}")
    if not value.isascii() and _SURROGATE.search(value):
        raise InputError(f"{where}: field '{name}' holds half of a surrogate pair: remove that character")
    return value

"""Inputs: the texts that completions are written for, from files of users, and their identity and split."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import unicodedata
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from udrl.data.hashing import hash_hex, hash_int
from udrl.errors import InputError, suggestion
from udrl.words import WORD

Split = Literal["train", "validation", "test"]
Pick = Callable[[Mapping[str, Any]], str | None]
"""From a table's header to the one column that is wanted, or None for all of them."""

T = TypeVar("T")

DEFAULT_FIELDS = ("text", "input", "prompt", "caption")
"""Where inputs are looked for when no field is named: the first of these that the file has."""

REFERENCE = "reference"
"""The column of a good answer to the input, which teachers may be shown."""

FORMATS = (".jsonl", ".csv", ".txt", ".parquet")

MAX_INPUT_WORDS = 2000
"""Longer inputs are cut: no student reads more, and one runaway row must not stall a teacher."""

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
    """Return ``text`` up to its word number MAX_INPUT_WORDS, and whether anything was cut off."""
    if len(text) <= MAX_INPUT_WORDS:
        return text, False
    for number, word in enumerate(WORD.finditer(text), start=1):
        if number == MAX_INPUT_WORDS:
            rest = WORD.search(text, word.end())
            return (text[: word.end()], True) if rest else (text, False)
    return text, False


def read_inputs(path: Path | str, *, field: str | None = None, counts: Counter[str] | None = None) -> Iterator[str]:
    """Yield the inputs of a file in order, stripped, reading as it goes.

    path: .jsonl (one object a line), .csv (with a header), .txt (one input a line), .parquet; each also .gz.
    field: the column that holds the inputs; None: the first of DEFAULT_FIELDS that the file has.
    counts: receives ``blank`` (inputs dropped because nothing is in them) and ``cut`` (inputs longer than
        MAX_INPUT_WORDS, cut there); without it both are told as warnings.
    Raises InputError, with the line where there is one, for a file that is missing, empty, binary, wrongly
    encoded, half-written, of an unknown format, or without the field.
    """
    path = Path(path)
    tally: Counter[str] = Counter() if counts is None else counts
    found = False
    for text in _texts(path, field):
        stripped = text.strip()
        if not stripped:
            tally["blank"] += 1
            continue
        stripped, was_cut = cut_input(stripped)
        tally["cut"] += was_cut
        found = True
        yield stripped
    if not found:
        why = f"all {tally['blank']} of them are blank" if tally["blank"] else "it is empty"
        raise InputError(f"{path} holds no inputs: {why}")
    if counts is None:
        if tally["blank"]:
            warnings.warn(f"{path}: {tally['blank']} blank inputs dropped", stacklevel=2)
        if tally["cut"]:
            warnings.warn(f"{path}: {tally['cut']} inputs cut at {MAX_INPUT_WORDS} words", stacklevel=2)


def read_references(path: Path | str, *, field: str | None = None) -> dict[str, str]:
    """Return, by input id, what stands in the column ``reference`` of a file of inputs; empty where it has none.

    Of an input that stands in the file several times the first reference counts. Raises as ``read_inputs`` does.
    """
    path = Path(path)
    references: dict[str, str] = {}
    if _kind(path) == ".txt":
        return references
    for place, row in read_rows(path):
        reference = row.get(REFERENCE)
        if reference is None:
            if REFERENCE not in row and _kind(path) != ".jsonl":
                return references
            continue
        text = _text_of(path, row.get(_field_of(path, row, field, place)), field or "", place).strip()
        shown = _text_of(path, reference, REFERENCE, place).strip()
        if text and shown:
            references.setdefault(input_id(cut_input(text)[0]), shown)
    return references


def read_rows(path: Path | str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a table in order, reading as it goes, each with its place for messages (``, line 3``).

    path: .jsonl (one object a line), .csv (with a header; its cells are all text), .parquet; each also .gz.
    Raises InputError as ``read_inputs`` does, and for a .txt file, which has no columns.
    """
    path = Path(path)
    if _kind(path) == ".txt":
        raise InputError(f"{path}: a .txt file has no columns: write a .jsonl, .csv or .parquet file")
    return _read(path, lambda kind, file: _ROWS[kind](path, file, lambda _: None))


def _texts(path: Path, field: str | None) -> Iterator[str]:
    def texts(kind: str, file: IO[bytes]) -> Iterator[str]:
        return _txt(path, file, field) if kind == ".txt" else _column(path, kind, file, field)

    return _read(path, texts)


def _kind(path: Path) -> str:
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind not in FORMATS:
        raise InputError(f"{path}: cannot tell the format; name the file {', '.join(FORMATS)}, each also with .gz")
    return kind


def _read(path: Path, reader: Callable[[str, IO[bytes]], Iterator[T]]) -> Iterator[T]:
    kind = _kind(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from reader(kind, file)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: check the path") from None
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: is cut off or damaged ({error}): write or download it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): check the file") from error


def _column(path: Path, kind: str, file: IO[bytes], field: str | None) -> Iterator[str]:
    name = field
    for place, row in _ROWS[kind](path, file, lambda header: _field_of(path, header, field, "")):
        if name is None or name not in row:
            name = _field_of(path, row, field, place)
        yield _text_of(path, row[name], name, place)


def text_lines(path: Path | str, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield (number, line) decoded from UTF-8; a byte-order mark is dropped."""
    number = 0
    try:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise InputError(f"{path}: is UTF-16 text: save it as UTF-8")
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if b"\0" in raw:
                raise InputError(f"{path}, line {number}: holds binary data: inputs must be text")
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number}: byte {error.start + 1} is not UTF-8: convert it to UTF-8"
                ) from error
    except (EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: is cut off or damaged after line {number} ({error}): write or download it again"
        ) from error


def _txt(path: Path, file: IO[bytes], field: str | None) -> Iterator[str]:
    if field is not None:
        raise InputError(f"{path}: a .txt file has no fields, found the field '{field}' asked for: leave it out")
    for _, line in text_lines(path, file):
        yield line


def _jsonl(path: Path, file: IO[bytes], _: Pick) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in text_lines(path, file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            whole = "" if line.endswith("\n") else " (the file may be half-written)"
            raise InputError(f"{path}, line {number}: not a line of JSON{whole}: correct or remove it") from error
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: holds a number of more digits than can be read: shorten it or write it as text"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: a line must be a JSON object with fields, found {line[:40]!r}")
        yield f", line {number}", row


def _csv(path: Path, file: IO[bytes], pick: Pick) -> Iterator[tuple[str, dict[str, Any]]]:
    # csv refuses cells of over 128 KiB; inputs longer than that are cut later, not refused.
    csv.field_size_limit(1 << 28)
    whole = 0  # the last line of the last whole row
    reader = csv.DictReader((line for _, line in text_lines(path, file)), strict=True)
    try:
        if reader.fieldnames is None:
            return
        pick(dict.fromkeys(reader.fieldnames))
        whole = reader.line_num
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{path}, line {reader.line_num}: has {'more' if None in row else 'fewer'} cells than "
                    f"the header ({len(reader.fieldnames)}): "
                    "the row is half-written or a quotation mark is missing"
                )
            whole = reader.line_num
            yield f", line {whole}", row
    except csv.Error as error:
        raise InputError(f"{path}, line {whole + 1}: not a row of CSV ({error}): correct or remove it") from error


def _parquet(path: Path, file: IO[bytes], pick: Pick) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet is read from its end, which a gzip stream cannot do: only then is all of it held in memory.
    source: Any = io.BytesIO(file.read()) if path.suffix == ".gz" else file
    try:
        table = pq.ParquetFile(source)
        columns = dict.fromkeys(table.schema_arrow.names)
        if not columns:
            return
        name = pick(columns)
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=None if name is None else [name]):
            for row in batch.to_pylist():
                number += 1
                yield f", row {number}", row
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{path}: is not a whole Parquet file ({first}): write or download it again") from error


_ROWS: Mapping[str, Callable[[Path, IO[bytes], Pick], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _field_of(path: Path, row: Mapping[str, Any], field: str | None, place: str) -> str:
    found = ", ".join(map(str, row)) or "none"
    if field is not None:
        if field not in row:
            raise InputError(f"{path}{place}: has no field '{field}'{suggestion(field, row)}; found: {found}")
        return field
    for name in DEFAULT_FIELDS:
        if name in row:
            return name
    raise InputError(
        f"{path}{place}: none of the fields {', '.join(DEFAULT_FIELDS)} is there; found: {found}; "
        "name the right one with --input-field"
    )


def _text_of(path: Path, value: Any, name: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{path}{place}: field '{name}' must be text, found {str(value)[:40]!r}")
    if not value.isascii() and _SURROGATE.search(value):
        raise InputError(f"{path}{place}: field '{name}' holds half of a surrogate pair: remove that character")
    return value

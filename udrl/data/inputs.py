"""Inputs: the texts that completions are written for, from files of users, and their identity and split."""

from __future__ import annotations

import csv
import gzip
import io
import json
import unicodedata
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from udrl.data.hashing import hash_hex, hash_int
from udrl.errors import InputError, suggestion
from udrl.words import WORD

Split = Literal["train", "validation", "test"]

DEFAULT_FIELDS = ("text", "input", "prompt", "caption")
"""Where inputs are looked for when no field is named: the first of these that the file has."""

FORMATS = (".jsonl", ".csv", ".txt", ".parquet")

MAX_INPUT_WORDS = 2000
"""Longer inputs are cut: no student reads more, and one runaway row must not stall a teacher."""

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


def read_inputs(
    path: Path | str, *, field: str | None = None, counts: Counter[str] | None = None
) -> Iterator[str]:
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
        found = True
        if not stripped:
            tally["blank"] += 1
            continue
        stripped, was_cut = cut_input(stripped)
        tally["cut"] += was_cut
        yield stripped
    if not found:
        raise InputError(f"{path} holds no inputs: it is empty")
    if counts is None:
        if tally["blank"]:
            warnings.warn(f"{path}: {tally['blank']} blank inputs dropped", stacklevel=2)
        if tally["cut"]:
            warnings.warn(f"{path}: {tally['cut']} inputs cut at {MAX_INPUT_WORDS} words", stacklevel=2)


def _texts(path: Path, field: str | None) -> Iterator[str]:
    gzipped = path.suffix == ".gz"
    kind = path.with_suffix("").suffix if gzipped else path.suffix
    if kind not in FORMATS:
        raise InputError(
            f"{path}: cannot tell the format; name the file {', '.join(FORMATS)}, each also with .gz"
        )
    readers = {".jsonl": _jsonl, ".csv": _csv, ".txt": _txt, ".parquet": _parquet}
    try:
        with gzip.open(path) if gzipped else path.open("rb") as file:
            yield from readers[kind](path, file, field)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: check the path") from None
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: is cut off or damaged ({error}): write or download it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): check the file") from error


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
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
                    f"{path}, line {number}: byte {error.start + 1} is not UTF-8: save the file as UTF-8"
                ) from error
    except (EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: is cut off or damaged after line {number} ({error}): write or download it again"
        ) from error


def _txt(path: Path, file: IO[bytes], field: str | None) -> Iterator[str]:
    if field is not None:
        raise InputError(
            f"{path}: a .txt file has no fields, found the field '{field}' asked for: leave it out"
        )
    for _, line in _lines(path, file):
        yield line


def _jsonl(path: Path, file: IO[bytes], field: str | None) -> Iterator[str]:
    name = field
    for number, line in _lines(path, file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            whole = "" if line.endswith("\n") else " (the file may be half-written)"
            raise InputError(
                f"{path}, line {number}: not a line of JSON{whole}: correct or remove it"
            ) from error
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, line {number}: a line must be a JSON object with fields, found {line[:40]!r}"
            )
        if name is None or name not in row:
            name = _field_of(path, row, field, f", line {number}")
        yield _text_of(path, row[name], name, f", line {number}")


def _csv(path: Path, file: IO[bytes], field: str | None) -> Iterator[str]:
    # csv refuses cells of over 128 KiB; inputs longer than that are cut later, not refused.
    csv.field_size_limit(1 << 28)
    reader = csv.DictReader((line for _, line in _lines(path, file)), strict=True)
    try:
        if reader.fieldnames is None:
            return
        name = _field_of(path, dict.fromkeys(reader.fieldnames), field, "")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{path}, line {reader.line_num}: has {'more' if None in row else 'fewer'} cells than "
                    f"the header ({len(reader.fieldnames)}): "
                    "the row is half-written or a quotation mark is missing"
                )
            yield row[name]
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}): correct the row"
        ) from error


def _parquet(path: Path, file: IO[bytes], field: str | None) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet is read from its end, which a gzip stream cannot do: only then is all of it held in memory.
    source: Any = io.BytesIO(file.read()) if path.suffix == ".gz" else file
    try:
        table = pq.ParquetFile(source)
        columns = dict.fromkeys(table.schema_arrow.names)
        if not columns:
            return
        name = _field_of(path, columns, field, "")
        row = 0
        for batch in table.iter_batches(columns=[name]):
            for value in batch.column(0).to_pylist():
                row += 1
                yield _text_of(path, value, name, f", row {row}")
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"{path}: is not a whole Parquet file ({first}): write or download it again"
        ) from error


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
    return value

"""Tables: the one reader of files of rows, in every format that users bring.

    .jsonl           one JSON object a line
    .json            a list of JSON objects, or one object a line
    .csv, .tsv       with a header; cells are texts
    .parquet

each also compressed (.gz). A table is read as it goes, row by row. Of its columns only those that are wanted are read,
so that nothing in another one can be in the way. Two columns, or keys of a JSON object, of one name are refused: which
of them is meant, nobody knows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from udrl.errors import InputError, suggestion

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

Pick = Callable[[str, Collection[str]], Collection[str]]
"""From where (file and place, for messages) and column names to those that are wanted. Raises InputError where one is
missing."""

_KEY_SETS = 256
"""So many sets of keys are remembered of the rows of a JSON file."""

_CELL = 1 << 28
"""Longest cell of a CSV file, in bytes: csv refuses those of over 128 KiB; what is too long is cut later."""


_FOLDER = "is a folder and cannot be read: name a file in it"

_LINE = 1 << 30
"""No line is read that is as long, in bytes: what gives no line break, such as /dev/zero, may never end."""


class Row(NamedTuple):
    """One row: where it stands (``, line 3, row 2``; for messages, behind the file's name) and its values by column."""

    line: str
    values: Mapping[str, Any]


class Unreadable:
    """A value that Python cannot hold (the year 10000, a number of 5,000 digits). No text, and no number."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __repr__(self) -> str:
        return f"a value that cannot be read ({self._why})"


def kind_of(path: Path, formats: Collection[str] = FORMATS) -> str:
    """Return the format of a file by its name, such as ``.csv``; raises InputError where it is none of ``formats``."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    kind = name.suffix.lower()
    if kind not in formats:
        if path.is_dir():
            raise InputError(f"{path}: {_FOLDER}")
        raise InputError(f"{path}: cannot tell the format; name the file {', '.join(formats)}, each also with .gz")
    return kind


def is_table(path: Path) -> bool:
    """Say whether ``path`` is a file that has the name of a table."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return path.is_file() and name.suffix.lower() in FORMATS


def read_rows(path: Path | str, pick: Pick, *, numbers: bool = False) -> Iterator[Row]:
    """Yield the rows of a table in order, reading as it goes.

    pick: says which columns are wanted; asked with the header, or in JSON with every new set of keys.
    numbers: all other columns that may hold numbers are read, too; an ``Unreadable`` value may stand in these.
    Raises InputError with file, place and column for what cannot be read: a file that is missing, no regular file,
    empty of columns, binary, wrongly encoded, half-written, of an unknown format, with columns of one name, or with a
    value in a wanted column that Python cannot hold.
    """
    path = Path(path)
    reader = _READERS[kind_of(path)]
    with opened(path) as file:
        yield from reader(path, file, pick, numbers)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of the user's for reading, unpacked where it is .gz; raises InputError for all that goes wrong."""
    try:
        check_regular(path)
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: check the path") from None
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: is cut off or damaged ({error}): write or download it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}): check the file") from error


def check_regular(path: Path) -> None:
    """Raise InputError for a folder, a pipe or a device, and OSError where there is nothing.

    Files are read more than once, and opening a pipe waits for ever where nobody writes.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL in the path
        raise InputError(f"{str(path)!r}: is no path ({error}): check it") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: {_FOLDER}")
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{path}: is a pipe or a device and cannot be read again: write what it gives into a file first"
        )


def text_lines(path: Path | str, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield (number, line) decoded from UTF-8; a byte-order mark is dropped."""
    number = 0
    try:
        for number, raw in enumerate(iter(lambda: file.readline(_LINE), b""), start=1):
            if len(raw) == _LINE:
                raise InputError(f"{path}, line {number}: is longer than {_LINE:,} bytes: break it into lines")
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


def no_column(where: str, names: Collection[str], columns: Collection[str]) -> InputError:
    """Return the error for a table that has none of the columns ``names``. where: file and place."""
    first = next(iter(names))
    return InputError(
        f"{where}: there is no column {' or '.join(names)}{suggestion(first, columns)}; found: "
        f"{', '.join(columns) or 'none'}: rename the right one"
    )


def _jsonl(path: Path, file: IO[bytes], pick: Pick, _: bool) -> Iterator[Row]:
    known: dict[tuple[str, ...], Collection[str]] = {}
    for number, line in text_lines(path, file):
        if line.strip():
            yield _json_row(path, f", line {number}", _object_of(path, number, line), pick, known)


def _object_of(path: Path, number: int, line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except (json.JSONDecodeError, RecursionError) as error:
        whole = "" if line.endswith("\n") else " (the file may be half-written)"
        raise InputError(f"{path}, line {number}: not a line of JSON{whole}: correct or remove it") from error


def _json(path: Path, file: IO[bytes], pick: Pick, _: bool) -> Iterator[Row]:
    lines = list(text_lines(path, file))
    text = "".join(line for _, line in lines)
    known: dict[tuple[str, ...], Collection[str]] = {}
    try:
        data = _DECODER.decode(text)
    except RecursionError:
        raise InputError(f"{path}: cannot be read as JSON (nested too deeply): correct it") from None
    except json.JSONDecodeError as error:
        full = [(number, line) for number, line in lines if line.strip()]
        if len(full) < 2 or not all(line.lstrip().startswith("{") for _, line in full[:2]):
            raise InputError(f"{path}: cannot be read as JSON ({error}): write or download it again") from error
        for number, line in full:
            yield _json_row(path, f", line {number}", _object_of(path, number, line), pick, known)
        return
    if not isinstance(data, list):
        raise InputError(f"{path}: must be a list of objects, or hold one object a line: correct it")
    for number, row in enumerate(data, start=1):
        yield _json_row(path, f", item {number}", row, pick, known)


def _json_row(path: Path, line: str, row: Any, pick: Pick, known: dict[tuple[str, ...], Collection[str]]) -> Row:
    """Return a row whose columns are checked. known: what ``pick`` said of keys, which are alike in most rows."""
    if not isinstance(row, dict):
        raise InputError(f"{path}{line}: a row must be a JSON object with fields, found {str(row)[:40]!r}")
    if isinstance(row, _Repeating):
        raise _repeated(f"{path}{line}", row.repeated, "key")
    names = tuple(row)
    if names not in known:
        if len(known) >= _KEY_SETS:
            known.clear()
        known[names] = pick(f"{path}{line}", names)
    _check_readable(f"{path}{line}", row, known[names])
    return Row(line, row)


def _csv(path: Path, file: IO[bytes], pick: Pick, numbers: bool) -> Iterator[Row]:
    return _separated(path, file, pick, numbers, ",")


def _tsv(path: Path, file: IO[bytes], pick: Pick, numbers: bool) -> Iterator[Row]:
    return _separated(path, file, pick, numbers, "\t")


def _separated(path: Path, file: IO[bytes], pick: Pick, numbers: bool, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_CELL)
    reader = csv.reader((line for _, line in text_lines(path, file)), strict=True, delimiter=delimiter)
    begins = 1  # the line at which the row begins: a cell may hold line breaks
    try:
        header = next((cells for cells in reader if cells), None)
        if header is None:
            return
        _check_names(str(path), header)
        named = [name for name in header if name]
        wanted = [*pick(str(path), named), *(named if numbers else ())]
        chosen = [(header.index(name), name) for name in dict.fromkeys(wanted)]
        begins, number = reader.line_num + 1, 0
        for cells in reader:
            if cells and len(cells) != len(header):
                raise InputError(
                    f"{path}, line {begins}: has {'more' if len(cells) > len(header) else 'fewer'} cells than "
                    f"the header ({len(header)}): the row is half-written or a quotation mark is missing"
                )
            if cells:
                number += 1
                yield Row(f", line {begins}, row {number}", {name: cells[index] for index, name in chosen})
            begins = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {begins}: not a row of CSV ({error}): correct or remove it") from error


def _parquet(path: Path, file: IO[bytes], pick: Pick, numbers: bool) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet is read from its end, which a gzip stream cannot do: only then is all of it held in memory.
    source: Any = io.BytesIO(file.read()) if path.suffix.lower() == ".gz" else file
    number = 0
    try:
        table = pq.ParquetFile(source)
        columns = table.schema_arrow.names
        if not columns:
            return
        _check_names(str(path), columns)
        picked = pick(str(path), columns)
        others = (field.name for field in table.schema_arrow if numbers and _may_be_number(field.type))
        wanted = list(dict.fromkeys((*picked, *others)))
        for batch in table.iter_batches(batch_size=1024, columns=wanted):
            values = [_values(batch.column(batch.schema.get_field_index(name))) for name in wanted]
            rows = zip(*values, strict=True) if wanted else ((),) * batch.num_rows
            for cells in rows:
                number += 1
                row = dict(zip(wanted, cells, strict=True))
                _check_readable(f"{path}, row {number}", row, picked)
                yield Row(f", row {number}", row)
    except (pa.ArrowException, OSError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        behind = f" behind row {number}" if number else ""
        raise InputError(
            f"{path}: is not a whole Parquet file{behind} ({first}): write or download it again"
        ) from error


def _may_be_number(kind: Any) -> bool:
    import pyarrow.types as of

    kind = kind.value_type if of.is_dictionary(kind) else kind
    tests = (of.is_integer, of.is_floating, of.is_boolean, of.is_decimal, of.is_string, of.is_large_string)
    return any(test(kind) for test in tests)


def _values(column: Any) -> list[Any]:
    """Return the values of an Arrow column; ``Unreadable`` for those that Python cannot hold."""
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, TypeError, ArithmeticError, NotImplementedError):
        return [_value(column[number]) for number in range(len(column))]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, TypeError, ArithmeticError, NotImplementedError) as error:
        return Unreadable(next(iter(str(error).splitlines()), type(error).__name__)[:80])


class _Repeating(dict[str, Any]):
    """A JSON object in which a key stands twice."""

    repeated: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    marked = _Repeating(row)
    marked.repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return marked


def _whole(digits: str) -> int | Unreadable:
    try:
        return int(digits)
    except ValueError:  # Python reads no more than 4,300 digits
        return Unreadable(f"a number of {len(digits):,} digits")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)


def _check_names(where: str, names: Iterable[str]) -> None:
    """Raise InputError where two columns have one name; empty names, which spreadsheets leave, are no columns."""
    for name, count in Counter(names).items():
        if count > 1 and name:
            raise _repeated(where, name, "column")


def _repeated(where: str, name: str, what: str) -> InputError:
    return InputError(f"{where}: the {what} '{name}' stands there twice: rename or remove one of them")


def _check_readable(where: str, row: Mapping[str, Any], wanted: Iterable[str]) -> None:
    for name in wanted:
        if isinstance(row.get(name), Unreadable):
            raise InputError(f"{where}: '{name}' holds {row[name]!r}: correct it, or write it as text")


_READERS: Mapping[str, Callable[[Path, IO[bytes], Pick, bool], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}

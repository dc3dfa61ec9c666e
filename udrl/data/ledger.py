"""The ledger: every teacher response, raw, one JSON object a line, append-only.

What stands here is paid for: nothing is rewritten, a line is complete or it is not there, and the next start
goes on after the last complete one, however the process before it ended.
"""

from __future__ import annotations

import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from udrl.data.hashing import hash_hex
from udrl.errors import RunError
from udrl.files import disk_errors

SCHEMA = 1
SHARD_BYTES = 256 << 20
"""A new shard is begun when the last one has reached this size."""

SYNC_SECONDS = 2.0
"""Lines survive the death of the process at once, and that of the machine after at most this time."""


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """One response. Produced by synthesis, consumed by episode building and reports; the fields are the
    file's.

    status: ``ok`` with a completion, or ``failed`` with an error.
    sample: which of the input's completions this is, from 0.
    started: Unix time; seconds: what this response took.
    """

    schema: int
    key: str
    status: Literal["ok", "failed"]
    error: str | None
    attempts: int
    task: str
    input_id: str
    input: str
    messages: Sequence[Mapping[str, str]]
    completion: str | None
    finish_reason: str | None
    teacher: str
    revision: str | None
    sampling: Mapping[str, Any]
    seed: int
    sample: int
    prompt_tokens: int | None
    completion_tokens: int | None
    started: float
    seconds: float


FIELDS = tuple(field.name for field in fields(LedgerRecord))
NONE = type(None)
_TEXT, _TEXT_OR_NONE, _COUNT, _NUMBER = (str,), (str, NONE), (int,), (int, float)
_TYPES: Mapping[str, tuple[type, ...]] = {
    "schema": _COUNT,
    "key": _TEXT,
    "status": _TEXT,
    "error": _TEXT_OR_NONE,
    "attempts": _COUNT,
    "task": _TEXT,
    "input_id": _TEXT,
    "input": _TEXT,
    "messages": (list,),
    "completion": _TEXT_OR_NONE,
    "finish_reason": _TEXT_OR_NONE,
    "teacher": _TEXT,
    "revision": _TEXT_OR_NONE,
    "sampling": (dict,),
    "seed": _COUNT,
    "sample": _COUNT,
    "prompt_tokens": (int, NONE),
    "completion_tokens": (int, NONE),
    "started": _NUMBER,
    "seconds": _NUMBER,
}
_WHOLE = 1 << 63
"""Whole numbers of a line are below this, which the table of episodes holds."""

_SHARD = re.compile(r"part-\d{5,18}\.jsonl")
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


class LineSpan(NamedTuple):
    """Where a line stands: number of the shard, first byte, number of bytes."""

    shard: int
    offset: int
    length: int


def request_key(
    *,
    model: str,
    revision: str | None,
    engine_arguments: Mapping[str, Any],
    messages: Sequence[Mapping[str, str]],
    sampling: Mapping[str, Any],
    seed: int,
) -> str:
    """Return the identity of a request: 32 hex digits of all that decides what is written, and of nothing
    else.

    ``n`` in ``sampling`` is left out: how many completions are asked for at once does not change one of them.
    """
    decides = {
        "model": model,
        "revision": revision,
        "engine": dict(engine_arguments),
        "messages": [dict(message) for message in messages],
        "sampling": {name: value for name, value in sampling.items() if name != "n"},
        "seed": seed,
    }
    return hash_hex(json.dumps(decides, sort_keys=True), size=16)


class Ledger:
    """The ledger in ``folder``. Readers need nothing else; the one writer appends and closes."""

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder = folder
        self._shard_bytes = shard_bytes
        self._file: int | None = None
        self._number = 0
        self._size = 0
        self._synced = 0.0
        self._readers: dict[int, int] = {}

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[LedgerRecord]:
        return (record for _, record in self.entries())

    def entries(self) -> Iterator[tuple[LineSpan, LedgerRecord]]:
        """Yield every response in the order of the files, with its place, one at a time.

        A torn last line (the process died while writing it) is left out with a warning, and so is a damaged
        line elsewhere; both are asked for again by the next synthesis. Raises RunError, with file and line, for a newer
        schema, for a line that lacks a field or has one of the wrong type, and as ``shards`` does.
        """
        for span, data in self.rows():
            yield span, LedgerRecord(**data)

    def rows(self) -> Iterator[tuple[LineSpan, dict[str, Any]]]:
        """Yield every line as ``entries`` does, as the plain object that it holds: three times as fast."""
        for path in self.shards():
            shard, offset = _number_of(path), 0
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    span = LineSpan(shard, offset, len(line))
                    offset += len(line)
                    if not line.endswith(b"\n"):
                        warnings.warn(f"{path}: the torn last line ({number}) is dropped", stacklevel=3)
                        break
                    data = _parse(line)
                    if data is None:
                        warnings.warn(f"{path}, line {number}: damaged, left out", stacklevel=3)
                        continue
                    _check(data, line, f"{path}, line {number}")
                    yield span, data

    def read(self, span: LineSpan) -> LedgerRecord:
        """Return the response at ``span``, which ``entries`` gave."""
        if span.shard not in self._readers:
            self._readers[span.shard] = os.open(self._path(span.shard), os.O_RDONLY | os.O_CLOEXEC)
        line = os.pread(self._readers[span.shard], span.length, span.offset)
        data, where = _parse(line), f"{self._path(span.shard)}, byte {span.offset}"
        if data is None:
            raise RunError(f"{where}: is no line of a ledger any more: it was changed while it was read, start again")
        _check(data, line, where)
        return LedgerRecord(**data)

    def append(self, record: LedgerRecord) -> None:
        """Write one response; when this returns, the death of the process cannot lose it.

        Raises RunError where the disk is full; the ledger then ends with the last complete line.
        """
        data = {name: getattr(record, name) for name in FIELDS}
        # Lone surrogates, which a broken server may send, have no UTF-8 form: they become question marks.
        line = (_ENCODE(data) + "\n").encode("utf-8", "replace")
        file = self._open()
        with disk_errors(self.folder):
            try:
                _write_all(file, line)
            except BaseException:
                self._cut(file)
                raise
            self._size += len(line)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(file)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Bring everything to the disk and close the files; the ledger may be used again afterwards."""
        for descriptor in self._readers.values():
            os.close(descriptor)
        self._readers.clear()
        if self._file is not None:
            file, self._file = self._file, None
            try:
                with disk_errors(self.folder):
                    os.fsync(file)
            finally:
                os.close(file)

    def shards(self) -> list[Path]:
        """Return the ledger's files in order.

        Raises RunError for any other file in the folder, such as a conflicting copy that a synchronised folder made:
        it may hold responses, which must be neither lost nor counted twice. Hidden files are the system's.
        """
        paths = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if path.name.startswith(".") or (path.is_dir() and not _SHARD.fullmatch(path.name)):
                continue
            if not _SHARD.fullmatch(path.name) or path.is_dir() or path.is_fifo():
                raise RunError(
                    f"{path}: is no part of the ledger (those are called part-00000.jsonl and so on): move it out of "
                    "the folder"
                )
            paths.append(path)
        return paths

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.jsonl"

    def _open(self) -> int:
        """Return the last shard, opened for appending behind its last complete line."""
        if self._file is not None and self._size >= self._shard_bytes:
            self.close()
        if self._file is None:
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                shards = self.shards()
                self._number = _number_of(shards[-1]) if shards else 0
                if shards and shards[-1].stat().st_size >= self._shard_bytes:
                    self._number += 1
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(self._path(self._number), flags, 0o644)
                self._size = _complete_bytes(self._file)
                self._cut(self._file)
        return self._file

    def _cut(self, file: int) -> None:
        """Take a torn line off the end."""
        if os.fstat(file).st_size > self._size:
            os.ftruncate(file, self._size)


def _number_of(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))


def _check(data: Mapping[str, Any], line: bytes, where: str) -> None:
    """Raise RunError where ``data`` is not what a line of the ledger says: somebody has edited it.

    where: the file and its line; line: as it stands there.
    """
    if data["schema"] > SCHEMA:
        raise RunError(f"{where}: has schema {data['schema']}, this udrl reads up to {SCHEMA}: install a newer udrl")
    wrong = None
    if data.keys() != _TYPES.keys():
        lacking, unknown = sorted(_TYPES.keys() - data.keys()), sorted(data.keys() - _TYPES.keys())
        wrong = f"has no field '{lacking[0]}'" if lacking else f"has the unknown field '{unknown[0]}'"
    else:
        for name, kinds in _TYPES.items():
            value = data[name]
            if type(value) not in kinds or (type(value) is int and abs(value) >= _WHOLE):
                wrong = f"'{name}' must be {_named(kinds)}, found {value!r:.40}"
                break
    if wrong is None:
        if data["status"] not in ("ok", "failed") or (data["status"] == "ok") != (data["completion"] is not None):
            wrong = f"has the status {data['status']!r} and {'no' if data['completion'] is None else 'a'} completion"
        elif b"\\u" in line and _holds_surrogate(data):
            wrong = "holds half of a surrogate pair"
    if wrong is not None:
        raise RunError(f"{where}: {wrong}: correct or remove the line, its completion is then asked for again")


def _holds_surrogate(data: Mapping[str, Any]) -> bool:
    try:
        _ENCODE(data).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _named(kinds: tuple[type, ...]) -> str:
    names = {str: "text", int: "a whole number", float: "a number", dict: "an object", list: "a list", NONE: "null"}
    return " or ".join(names[kind] for kind in kinds if kind is not int or float not in kinds)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and type(data.get("schema")) is int else None


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _complete_bytes(file: int) -> int:
    """Return the size of the file up to its last line feed, reading from its end."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - (1 << 20))
        line_feed = os.pread(file, end - start, start).rfind(b"\n")
        if line_feed >= 0:
            return start + line_feed + 1
        end = start
    return 0

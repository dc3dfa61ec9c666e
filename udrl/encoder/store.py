"""Where encoded texts are kept: in memory for one process, or in a file for all of them."""

from __future__ import annotations

import fcntl
import os
import weakref
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from udrl.errors import RunError

Vector = npt.NDArray[np.float32]


class Store(Protocol):
    """Vectors by the 16-byte digest of their text, each with whether the text was truncated."""

    def get(self, digest: bytes) -> tuple[Vector, bool] | None:
        """Return what is kept for ``digest``, or None."""

    def add(self, entries: Iterable[tuple[bytes, Vector, bool]]) -> None:
        """Keep ``entries``; digests that are there already stay as they are."""


class MemoryStore:
    """Keeps the vectors that came last, at most ``limit`` (100,000 of 384 numbers take about 170 MB)."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._kept: dict[bytes, tuple[Vector, bool]] = {}

    def get(self, digest: bytes) -> tuple[Vector, bool] | None:
        """See Store."""
        return self._kept.get(digest)

    def add(self, entries: Iterable[tuple[bytes, Vector, bool]]) -> None:
        """See Store."""
        for digest, vector, truncated in entries:
            self._kept.setdefault(digest, (vector, truncated))
        while len(self._kept) > self._limit:
            del self._kept[next(iter(self._kept))]


class FileStore:
    """Keeps vectors in an append-only file of records of one size; memory holds only where each digest is.

    A record is digest (16 bytes), truncated (1), checksum of the rest (4), vector (4 x dimensions). A record
    that a crash left half-written is cut off before the next append, one with a wrong checksum is not used.
    Several processes may append: each holds a lock while it does.
    """

    def __init__(self, path: Path, dimensions: int) -> None:
        self._path = path
        self._type = np.dtype(
            [("digest", "V16"), ("truncated", "u1"), ("checksum", "<u4"), ("vector", "<f4", (dimensions,))]
        )
        self._rows: dict[bytes, int] = {}
        self._records = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if not path.is_file():  # a pipe may never end
            raise RunError(f"{path} is no file, but vectors are kept there: remove it")
        self._file = path.open("rb")
        weakref.finalize(self, self._file.close)  # nobody closes an encoder: it is dropped
        self._index()

    def get(self, digest: bytes) -> tuple[Vector, bool] | None:
        """See Store."""
        row = self._rows.get(digest)
        if row is None:
            return None
        record = os.pread(self._file.fileno(), self._type.itemsize, row * self._type.itemsize)
        stored = np.frombuffer(record, dtype=self._type)[0]
        return stored["vector"].astype(np.float32), bool(stored["truncated"])

    def add(self, entries: Iterable[tuple[bytes, Vector, bool]]) -> None:
        """See Store."""
        new = {digest: (vector, cut) for digest, vector, cut in entries if digest not in self._rows}
        if not new:
            return
        records = np.zeros(len(new), dtype=self._type)
        for record, (digest, (vector, cut)) in zip(records, new.items(), strict=True):
            record["digest"], record["truncated"], record["vector"] = digest, cut, vector
            record["checksum"] = _checksum(record)
        with self._path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = os.fstat(file.fileno()).st_size // self._type.itemsize * self._type.itemsize
            file.truncate(whole)
            file.seek(whole)
            file.write(records.tobytes())
        self._index()

    def _index(self) -> None:
        """Note the places of the records that came since the last look, this process's own and others'."""
        size = self._type.itemsize
        while True:
            block = os.pread(self._file.fileno(), 4096 * size, self._records * size)
            records = np.frombuffer(block[: len(block) // size * size], dtype=self._type)
            if not len(records):
                return
            for record in records:
                if record["checksum"] == _checksum(record):
                    self._rows.setdefault(record["digest"].tobytes(), self._records)
                self._records += 1


def _checksum(record: np.void) -> int:
    head = record["digest"].tobytes() + bytes([record["truncated"]])
    return zlib.crc32(record["vector"].tobytes(), zlib.crc32(head))

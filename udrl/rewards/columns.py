"""Columns: returns that the user's own data holds (clicks, ratings) instead of a function."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from udrl.data import tables
from udrl.data.episode import Episode
from udrl.data.facts import RewardFacts
from udrl.data.hashing import hash_hex
from udrl.data.ledger import Ledger
from udrl.errors import InputError, RewardError, UsageError, suggestion

SOURCE = "column"
TEXTS = ("input", "completion")

_EMPTY = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "none"))
"""Cells of CSV files that hold nothing, lower-cased."""
_TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Field:
    """A column that is wanted, its range where the user declared one, and what it counts."""

    name: str
    bounds: tuple[float, float] | None
    unit: str = ""


@dataclass(frozen=True)
class Column:
    """Values of one column for episodes. Produced here, consumed by scoring.

    by_text: value by the digest of input and completion, where they come from a file; None: the value stands
    in the sampling settings of the ledger's response.
    written: that digest by episode id, for responses that the file has as the ledger holds them: an episode may be
    repaired or masked. source: the file or the ledger.
    """

    facts: RewardFacts
    by_text: Mapping[bytes, float] | None
    source: Path
    written: Mapping[str, bytes] = field(default_factory=dict)

    def __call__(self, episode: Episode) -> float | None:
        """Return the episode's value; None where the data holds none, and for derived episodes."""
        if episode.origin != "teacher":
            return None
        if self.by_text is not None:
            digest = self.written.get(episode.episode_id)
            value = None if digest is None else self.by_text.get(digest)
            return value if value is not None else self.by_text.get(_digest(episode.input, episode.completion))
        return _number(json.loads(episode.sampling).get(self.facts.name))


def parse_field(text: str) -> Field:
    """Read ``NAME``, ``NAME=LOW:HIGH`` or ``NAME=LOW:HIGH:UNIT``; raises UsageError."""
    name, equals, bounds = text.partition("=")
    if not name.isidentifier() or name in ("length", "task"):
        raise UsageError(f"reward field '{name}': use letters, digits and underscores, and not length or task")
    if not equals:
        return Field(name, None)
    low, _, rest = bounds.partition(":")
    high, _, unit = rest.partition(":")
    try:
        limits = float(low), float(high)
    except ValueError:
        raise UsageError(f"reward field '{text}': write its range as {name}=LOW:HIGH, such as {name}=0:1") from None
    if not limits[0] < limits[1] or not all(map(math.isfinite, limits)):
        raise UsageError(f"reward field '{text}': LOW must be below HIGH, both finite")
    return Field(name, limits, unit.strip())


def columns_of_file(path: Path, fields: Sequence[Field], ledger: Ledger) -> list[Column]:
    """Read ``fields`` from a table with the columns input, completion and each field's name.

    path: a table as ``udrl.data.tables`` reads it. An empty cell is "not scored"; where a pair stands
    twice, its mean counts. A completion may stand there as in ``ledger`` or as in its episode; what the ledger holds
    counts before. Memory: about 300 bytes a row. Raises InputError for a file that cannot be read as such, RewardError
    for a value that is no number or outside its declared range; both name the row.
    """
    sums: dict[str, dict[bytes, list[float]]] = {wanted.name: {} for wanted in fields}

    def pick(where: str, columns: Collection[str]) -> Collection[str]:
        for name in (*TEXTS, *sums):
            if name not in columns:
                raise InputError(
                    f"{where}: has no column '{name}'{suggestion(name, columns)}; found: {', '.join(columns) or 'none'}"
                )
        return (*TEXTS, *sums)

    for line, row in tables.read_rows(path, pick):
        where = f"{path}{line}"
        if not isinstance(row["input"], str) or not isinstance(row["completion"], str):
            raise InputError(f"{where}: input and completion must be texts")
        digest = _digest(row["input"], row["completion"])
        for wanted in fields:
            value = _cell(row[wanted.name], wanted, where)
            if value is not None:
                sums[wanted.name].setdefault(digest, []).append(value)
    columns = []
    written = _written(ledger, frozenset().union(*sums.values()))
    for wanted in fields:
        means = {digest: sum(values) / len(values) for digest, values in sums[wanted.name].items()}
        columns.append(Column(_facts(wanted, means.values(), str(path)), means, path, written))
    return columns


def _cell(raw: object, wanted: Field, where: str) -> float | None:
    """Return the value of a cell, which CSV files hold as text; None: empty. Raises RewardError for what is none."""
    value: object = raw
    if isinstance(raw, str):
        text = raw.strip().lower()
        if text in _EMPTY:
            return None
        try:
            value = _TRUTHS[text] if text in _TRUTHS else float("none" if "_" in text else text)
        except ValueError:
            value = None
    elif raw is None or (isinstance(raw, float) and math.isnan(raw)):
        return None
    number = _number(value)
    if number is None:
        raise RewardError(f"{where}: '{wanted.name}' must be a number, found {str(raw)[:40]!r}: correct it")
    if wanted.bounds is not None and not wanted.bounds[0] <= number <= wanted.bounds[1]:
        raise RewardError(
            f"{where}: '{wanted.name}' is {number:g}, outside its declared range "
            f"[{wanted.bounds[0]:g}, {wanted.bounds[1]:g}]: correct the row or the range"
        )
    return number


def columns_of_ledger(ledger: Ledger, fields: Sequence[Field]) -> list[Column]:
    """Find ``fields`` among the settings that the ledger's responses carry (recorded rows keep theirs there).

    Raises RewardError where no response has a number under that name.
    """
    if not fields:
        return []
    limits_by_name: dict[str, list[float]] = {}
    for _, row in ledger.rows():
        for name, raw in row["sampling"].items():
            value = _number(raw)
            if value is None:
                continue
            limits = limits_by_name.setdefault(name, [value, value])
            limits[:] = min(limits[0], value), max(limits[1], value)
    for wanted in fields:
        if wanted.name not in limits_by_name:
            raise RewardError(
                f"no response in {ledger.folder} carries the number '{wanted.name}'"
                f"{suggestion(wanted.name, limits_by_name)}; found: {', '.join(sorted(limits_by_name)) or 'none'}; "
                "name a file that has it (--reward-file)"
            )
    source = ledger.folder
    return [Column(_facts(wanted, limits_by_name[wanted.name], str(source)), None, source) for wanted in fields]


def _written(ledger: Ledger, wanted: frozenset[bytes]) -> dict[str, bytes]:
    """Return, by episode id, the digests of the ledger's responses that are among ``wanted``."""
    written: dict[str, bytes] = {}
    for _, row in ledger.rows():
        if row["status"] == "ok" and (digest := _digest(row["input"], row["completion"])) in wanted:
            written[hash_hex(row["key"], "teacher")] = digest
    return written


def _facts(field: Field, values: Any, source: str) -> RewardFacts:
    values = list(values)
    if not values:
        raise RewardError(f"{source}: the column '{field.name}' holds no number")
    low, high = min(values), max(values)
    if field.bounds is not None:
        if low < field.bounds[0] or high > field.bounds[1]:
            wrong = low if low < field.bounds[0] else high
            raise RewardError(
                f"{source}: '{field.name}' is {wrong:g} in a row, outside its declared range "
                f"[{field.bounds[0]:g}, {field.bounds[1]:g}]: correct the row or the range"
            )
        low, high = field.bounds
    if low == high:
        raise RewardError(f"{source}: '{field.name}' is {low:g} in every row: there is nothing to learn from it")
    return RewardFacts(field.name, low, high, field.unit, SOURCE)


def _number(value: object) -> float | None:
    if isinstance(value, bool | int | float | Decimal):
        with suppress(OverflowError):  # a whole number beyond a float's range
            number = float(value)
            return number if math.isfinite(number) else None
    return None


def _digest(text: str, completion: str) -> bytes:
    parts = (part.strip().encode("utf-8", "replace") for part in (text, completion))
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()

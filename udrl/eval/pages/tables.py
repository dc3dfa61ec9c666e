"""What tables on a page are made of, and figures as texts. All of it is plain text: templates escape it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "–"
"""What stands where there is no figure."""


@dataclass(frozen=True)
class Cell:
    """A text with small lines below it. sure: a difference that chance hardly explains, which is marked."""

    text: str
    below: tuple[str, ...] = ()
    sure: bool = False


NONE = Cell(ABSENT)


@dataclass(frozen=True)
class Row:
    """A row of a table. role: the colour at its left; prose: its last cell, a longer text."""

    head: Cell | str
    cells: Sequence[Cell | str]
    role: str | None = None
    prose: str | None = None


@dataclass(frozen=True)
class Table:
    """A table. label: what it is called to those who do not see it; prose: heading of a last column of prose."""

    label: str
    headings: Sequence[Cell | str]
    rows: Sequence[Row]
    prose: str | None = None


def role_of(kind: str) -> str:
    """Return the colour role of a kind of system."""
    return {"student": "student", "baseline": "baseline"}.get(kind, "reference")


def estimate(value: Mapping[str, Any] | None, digits: int = 2, *, key: str = "mean", interval: str = "ci95") -> Cell:
    """Return a figure with its interval below it, read from ``key`` and ``interval``."""
    if not value or value.get(key) is None:
        return NONE
    bounds = value.get(interval)
    return Cell(number(value[key], digits), (span(bounds[0], bounds[1], digits),) if bounds else ())


def span(low: float, high: float, digits: int = 2) -> str:
    """Return an interval as text."""
    low_, high_ = number(low, digits), number(high, digits)
    # A dash between negative numbers would be read as another minus.
    return f"{low_} to {high_}" if low_.startswith("-") or high_.startswith("-") else f"{low_}–{high_}"


def percent(value: float | None) -> str:
    """Return a share as a percentage."""
    return ABSENT if value is None else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def number(value: float | None, digits: int = 2) -> str:
    """Return a figure with thousands set apart."""
    return ABSENT if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no "-0.00"


def size(parameters: int | None) -> str:
    """Return a number of parameters, in millions or billions."""
    if not parameters:
        return ABSENT
    value, unit = (parameters / 1e9, "B") if parameters >= 1e9 else (parameters / 1e6, "M")
    return f"{value:,.1f}\N{NO-BREAK SPACE}{unit}"

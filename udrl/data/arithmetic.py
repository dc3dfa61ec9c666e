"""The language of generated arithmetic problems: what the task ``arithmetic`` asks, and how it is read again.

A problem is a few sentences of one grammar, so that its answer, and how hard it is, can be computed from its text
wherever the text turns up:

    Ann has 3 apples. Ann finds 4 more. Ann sells 2. How many apples does Ann have now?
    Ben has 3 boxes of 4 coins. How many coins does Ben have now?
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GAINS = ("finds {} more", "buys {} more", "gets {} more")
LOSSES = ("loses {}", "sells {}", "gives away {}")
LEVELS = (1, 2, 3, 4)
LARGEST = {1: 10, 2: 20, 3: 20, 4: 99}
"""The largest number of a level's problems, steps on the way included; levels 3 and 4 have two steps."""

_PROBLEM = re.compile(
    r"(?P<who>[A-Z][a-z]+) has (?P<first>\d{1,4}) (?:boxes of (?P<each>\d{1,4}) )?(?P<thing>[a-z]+)\."
    r"(?P<changes>(?: (?P=who) [a-z ]+\d{1,4}(?: more)?\.)*)"
    r" How many (?P=thing) does (?P=who) have now\?"
)
_ONE = re.compile(r" [A-Z][a-z]+ ([a-z ]+)(\d{1,4})( more)?\.")


@dataclass(frozen=True)
class Problem:
    """An arithmetic problem: ``who`` has ``first`` (boxes of ``each``) ``thing``, then ``changes`` happen in order.

    each: None where there are no boxes. changes: a form of GAINS or LOSSES with its number.
    """

    who: str
    thing: str
    first: int
    each: int | None
    changes: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The problem as an input."""
        boxes = "" if self.each is None else f"boxes of {self.each} "
        told = "".join(f" {self.who} {form.format(number)}." for form, number in self.changes)
        question = f" How many {self.thing} does {self.who} have now?"
        return f"{self.who} has {self.first} {boxes}{self.thing}.{told}{question}"

    @property
    def operations(self) -> tuple[tuple[str, int], ...]:
        """What is done to ``first``, step by step: an operator of ``+ - *`` and its number."""
        boxes = () if self.each is None else (("*", self.each),)
        return (*boxes, *(("+" if form in GAINS else "-", number) for form, number in self.changes))

    @property
    def results(self) -> tuple[int, ...]:
        """The result of every step; the last one is the answer."""
        results, value = [], self.first
        for operator, number in self.operations:
            value = applied(value, operator, number)
            results.append(value)
        return tuple(results)

    @property
    def answer(self) -> int:
        """The correct answer."""
        return (self.first, *self.results)[-1]

    @property
    def level(self) -> int:
        """How hard it is, one of LEVELS; what lies beyond the last one counts as the last one."""
        largest = max(self.first, *(number for _, number in self.operations), *self.results)
        steps = len(self.operations)
        if steps == 1:
            plain = self.each is None
            return 1 if plain and largest <= LARGEST[1] else 2 if largest <= LARGEST[2] else 4
        return 3 if steps == 2 and largest <= LARGEST[3] else 4


def applied(value: int, operator: str, number: int) -> int:
    """Return ``value operator number`` for an operator of ``+ - *``."""
    return {"+": value + number, "-": value - number, "*": value * number}[operator]


def parse(text: str) -> Problem | None:
    """Return the problem that ``text`` states; None where it is not of this language, or a step goes below zero."""
    match = _PROBLEM.fullmatch(" ".join(text.split()))
    if match is None:
        return None
    changes = tuple((f"{verb}{{}}{more}", int(number)) for verb, number, more in _ONE.findall(match["changes"]))
    if any(form not in (*GAINS, *LOSSES) for form, _ in changes):
        return None
    each = None if match["each"] is None else int(match["each"])
    problem = Problem(match["who"], match["thing"], int(match["first"]), each, changes)
    return problem if problem.operations and min(problem.results) >= 0 else None


def level(text: str) -> int | None:
    """Return how hard the problem ``text`` is, one of LEVELS; None where it is no generated problem."""
    problem = parse(text)
    return None if problem is None else problem.level

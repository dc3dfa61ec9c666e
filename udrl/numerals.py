"""Numbers in texts: what a completion gives as its answer, however it is written.

``1,600``, ``$1600.00``, ``1600 dollars`` and ``\\boxed{1{,}600}`` are one number; so are ``3/4``, ``\\frac{3}{4}``,
``0.75`` and ``.75``. Numbers in words ("seven") and with a decimal comma are not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from udrl.words import SENTENCE_END

TOLERANCE = Fraction(1, 1_000_000)
"""Two numbers are equal where they differ by no more: 0.3333333 is a third, 0.33 is not."""

_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}"), r"\1/\2"),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ","),
    (re.compile(r"\\([$%#])"), r"\1"),
    (re.compile(r"\\[,!;: ]"), ""),
)
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]])[-+\u2212])?(?P<unit>[$€£]\s?)?(?P<inner>(?<=[$€£])[-\u2212])?"
    rf"(?P<value>{_DIGITS}(?:\.\d+)?|(?<![\w.])\.\d+)"
    rf"(?:\s?/\s?(?P<below>{_DIGITS})(?![\d.]))?(?P<percent>\s?%)?"
)
_PHRASE = re.compile(r"(?:\banswer\s+is|\banswer[\"'*]*\s*[:=])[\s:\"'*=]*", re.IGNORECASE)
_DECLARED = (re.compile(r"####[ \t]*"), re.compile(r"\\boxed\s*\{"), _PHRASE)
"""What declares an answer, the surest first; the last declaration of the first kind that a text has counts."""

LONGEST = 40
"""Characters of a number; a longer run of digits is a student that repeats itself, and no number."""

_STOP = re.compile(rf"\n|{SENTENCE_END.pattern}")


@dataclass(frozen=True)
class Number:
    """A number as it stands in a text: its value (of ``50 %`` it is 50), and where it ends."""

    value: Fraction
    percent: bool
    end: int

    def equals(self, known: Number) -> bool:
        """Say whether this is the ``known`` number, up to TOLERANCE; ``50 %`` is both 50 and 0.5."""
        mine = {self.value, self.value / 100} if self.percent and not known.percent else {self.value}
        theirs = {known.value, known.value / 100} if known.percent and not self.percent else {known.value}
        return any(abs(a - b) <= TOLERANCE for a in mine for b in theirs)


def plain(text: str) -> str:
    """Return ``text`` with LaTeX's ways to write numbers as plain ones; positions in it are those of ``Number``."""
    for pattern, written in _LATEX:
        text = pattern.sub(written, text)
    return text


def numbers(text: str, start: int = 0, end: int | None = None) -> list[Number]:
    """Return the numbers in ``text`` from ``start`` to ``end``, in order; a division by zero is none."""
    found = []
    for match in _NUMBER.finditer(text, start, len(text) if end is None else end):
        if match.end() - match.start() > LONGEST:
            continue
        value = Fraction(match["value"].replace(",", ""))
        if match["below"] is not None:
            below = int(match["below"].replace(",", ""))
            if not below:
                continue
            value /= below
        negative = match["sign"] in ("-", "\u2212") or match["inner"] is not None
        found.append(Number(-value if negative else value, match["percent"] is not None, match.end()))
    return found


def declarations(text: str) -> list[tuple[int, Number]]:
    """Return every declared answer of ``plain`` text: where its declaration begins, and its number; by place.

    A declaration is ``####``, ``\\boxed{`` or ``answer is`` / ``answer:`` with a number in the same sentence: the first
    one, after a phrase the one behind the last ``=`` where there is one ("the answer is 3 + 4 = 7").
    """
    return sorted(((at, number) for kind in _DECLARED for at, number in _of_kind(text, kind)), key=lambda one: one[0])


def final_number(text: str) -> Number | None:
    """Return the number that ``text`` gives as its answer: the declared one, else its last; None where it has none."""
    text = plain(text)
    for kind in _DECLARED:
        if declared := _of_kind(text, kind):
            return declared[-1][1]
    found = numbers(text)
    return found[-1] if found else None


def _of_kind(text: str, kind: re.Pattern[str]) -> list[tuple[int, Number]]:
    found = []
    for match in kind.finditer(text):
        stop = _STOP.search(text, match.end())
        end = len(text) if stop is None else stop.start()
        start = max(match.end(), text.rfind("=", match.end(), end) + 1) if kind is _PHRASE else match.end()
        if here := numbers(text, start, end):
            found.append((match.start(), here[0]))
    return found

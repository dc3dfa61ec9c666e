"""Numbers in texts: what a completion gives as its answer, however it is written.

``1,600``, ``$1600.00``, ``1600 dollars``, ``1.6e3``, ``1.6 \\times 10^{3}`` and ``\\boxed{1{,}600}`` are one number;
so are ``3/4``, ``\\frac{3}{4}``, ``0.75``, ``0,75``, ``.75`` and ``¾``. A decimal comma is read where it can be no
separator of thousands and no list: ``0,5``, ``3,14`` and ``1.234,50``, but ``1,234`` is a thousand and ``1,2,3`` are
three numbers.
Numbers in words ("seven") are not read.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from udrl.words import SENTENCE_END

TOLERANCE = Fraction(1, 1_000_000)
"""Two numbers are equal where they differ by no more than this, and by no more than this share of the larger one:
0.3333333 is a third, 0.33 is not, and 0.00001 is not 0.000011."""

_MINUS = "\\-\u2010-\u2013\u2212\ufe63"
_WIDTHS = str.maketrans("\u066b\u066c\uff05\uff0e\uff0c\uff0b\uff0d\uff0f", ".,%.,+-/")
_LATEX = (
    (re.compile(r"(?<=\d)[ ]?\\[dt]?frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac ?\{ ?(-?\d+) ?\} ?\{ ?(\d+) ?\}"), r"\1/\2"),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ","),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\\([$%#])"), r"\1"),
    (re.compile(r"\\[,!;: ]"), ""),
    (re.compile("(?<![0-9])10([⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})"), lambda match: f"10^{unicodedata.normalize('NFKC', match[1])}"),
    (
        re.compile("([0-9]?)([¼½¾⅐-⅞])"),
        lambda match: f"{match[1]} {_fraction(match[2])}" if match[1] else _fraction(match[2]),
    ),
)
_POWER = rf"10\s?(?:\^|\*\*)\s?[({{]?([+{_MINUS}]?\d{{1,3}})(?!\d)[)}}]?"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]])[+{_MINUS}])?(?P<unit>[$€£]\s?)?(?P<inner>(?<=[$€£])[{_MINUS}])?"
    rf"(?:(?<![\d.,]){_POWER}|(?:(?P<whole>\d{{1,9}})\s(?=\d{{1,3}}\s?/\s?\d))?"
    r"(?P<run>\d+(?:[.,\u00a0\u2009\u202f]\d+)*|(?<![\w.])\.\d+)"
    rf"(?:[eE]([+{_MINUS}]?\d{{1,3}})(?!\w)|\s?[×x*·⋅]\s?{_POWER})?)"
    r"(?:\s?/\s?(?P<below>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?!\d|\.\d))?(?P<percent>\s?(?:%|per ?cent\b))?"
)
_SEPARATOR = re.compile(r"[.,\u00a0\u2009\u202f]")
_PHRASE = re.compile(r"(?:\banswer\s+is|\banswer[\"'*]*\s*[:=])[\s:\"'*=]*", re.IGNORECASE)
_DECLARED = (re.compile(r"####[ \t]*"), re.compile(r"\\boxed\s*\{"), _PHRASE)
"""What declares an answer, the surest first; the last declaration of the first kind that a text has counts."""

LONGEST = 40
"""Characters of a number; a longer run of digits is a student that repeats itself, and no number."""

_STOP = re.compile(rf"\n|{SENTENCE_END.pattern}")


def _fraction(sign: str) -> str:
    """Return ``½`` as ``1/2``."""
    return unicodedata.normalize("NFKC", sign).replace("\u2044", "/")


@dataclass(frozen=True)
class Number:
    """A number as it stands in a text: its value (of ``50 %`` it is 50), and where it begins and ends."""

    value: Fraction
    percent: bool
    start: int
    end: int

    def equals(self, known: Number) -> bool:
        """Say whether this is the ``known`` number, up to TOLERANCE; ``50 %`` is both 50 and 0.5."""
        mine = {self.value, self.value / 100} if self.percent and not known.percent else {self.value}
        theirs = {known.value, known.value / 100} if known.percent and not self.percent else {known.value}
        return any(abs(a - b) <= TOLERANCE * min(Fraction(1), max(abs(a), abs(b))) for a in mine for b in theirs)


def plain(text: str) -> str:
    """Return ``text`` with other ways to write numbers as plain ones; positions in it are those of ``Number``."""
    text = text.translate(_WIDTHS)
    for pattern, written in _LATEX:
        text = pattern.sub(written, text)
    return text


def numbers(text: str) -> list[Number]:
    """Return the numbers in ``plain`` text in order; a division by zero is none, nor are over LONGEST digits."""
    return list(_numbers(text))


def _numbers(text: str) -> Iterator[Number]:
    for match in _NUMBER.finditer(text):
        negative = match["sign"] not in (None, "+") or match["inner"] is not None
        power = next((int(_ascii(match[group])) for group in (4, 7, 8) if match[group] is not None), 0)
        parts = [(Fraction(1), match.start(), match.end())] if match["run"] is None else _of_run(match)
        if match["below"] is not None and parts and len(match["below"]) <= LONGEST:
            below = int(match["below"].replace(",", ""))
            value, start, end = parts.pop()
            if match["whole"] is not None:
                whole = int(match["whole"])
                if value < below:
                    value += whole * below
                else:
                    yield Number(Fraction(-whole if negative else whole), False, match.start(), match.end("whole"))
                    negative = False
            parts += [(value / below, start, end)] if below else []
        for index, (value, start, end) in enumerate(parts):
            last = index == len(parts) - 1
            value = value * Fraction(10) ** power if last else value
            yield Number(
                -value if negative and index == 0 else value,
                last and match["percent"] is not None,
                match.start() if index == 0 else start,
                match.end() if last else end,
            )


def _ascii(number: str) -> str:
    return re.sub(f"[{_MINUS}]", "-", number)


def _of_run(match: re.Match[str]) -> list[tuple[Fraction, int, int]]:
    """Return the numbers in a run of digits and separators, each with where it begins and ends.

    It is one number where its separators agree on what they are: of thousands up to the last one, which may be of
    decimals; else it is a list, or a date, and each part that is separated by a comma is read by itself.
    """
    run, start = match["run"], match.start("run")
    if len(run) <= LONGEST:
        value = _value(run, listed=match.string[start - 1 : start] in tuple("([{"))
        if value is not None:
            return [(value, start, match.end("run"))]
    values = []
    parts = run.split(",") if "," in run else _SEPARATOR.split(run)
    for part in parts:
        value = _value(part, listed=True) if len(part) <= LONGEST else None
        if value is not None:
            values.append((value, start, start + len(part)))
        start += len(part) + 1
    return values


def _value(run: str, *, listed: bool) -> Fraction | None:
    """Return the number that ``run`` is as a whole, or None. listed: a lone comma stands between members of a list."""
    parts, marks = _SEPARATOR.split(run), _SEPARATOR.findall(run)
    if not marks:
        return Fraction(run)
    grouped = 1 <= len(parts[0]) <= 3 and parts[0] != "0" and all(len(part) == 3 for part in parts[1:-1])
    if len(marks) == 1:
        if marks[0] == ".":
            return Fraction(f"{parts[0] or 0}.{parts[1]}")
        if grouped and len(parts[1]) == 3:
            return Fraction("".join(parts))
        return Fraction(".".join(parts)) if marks[0] == "," and not listed else None
    if not grouped or len(set(marks[:-1])) > 1:
        return None
    if marks[-1] == marks[0]:
        return Fraction("".join(parts)) if len(parts[-1]) == 3 else None
    return Fraction(f"{''.join(parts[:-1])}.{parts[-1]}") if marks[-1] in ".," else None


def declarations(text: str) -> list[tuple[int, Number]]:
    """Return every declared answer of ``plain`` text: where its declaration begins, and its number; by place.

    A declaration is ``####``, ``\\boxed{`` or ``answer is`` / ``answer:`` with a number in the same sentence: the first
    one, after a phrase the one behind the last ``=`` where there is one ("the answer is 3 + 4 = 7").
    """
    declared = _Declared(text)
    return sorted(((at, number) for kind in _DECLARED for at, number in declared.of(kind)), key=lambda one: one[0])


def final_number(text: str) -> Number | None:
    """Return the number that ``text`` gives as its answer: the declared one, else its last; None where it has none."""
    declared = _Declared(plain(text))
    for kind in _DECLARED:
        if of_kind := declared.of(kind):
            return of_kind[-1][1]
    return declared.numbers[-1] if declared.numbers else None


class _Declared:
    """The numbers of a text and what stands between them, looked for once: many declarations may share a sentence."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.numbers = numbers(text)
        self._starts = [number.start for number in self.numbers]
        self._stops = [stop.start() for stop in _STOP.finditer(text)]
        self._equals = [index for index, character in enumerate(text) if character == "="]

    def of(self, kind: re.Pattern[str]) -> list[tuple[int, Number]]:
        """Return the declarations of one kind: where each begins, and its number."""
        of_kind = []
        for match in kind.finditer(self._text):
            start = match.end()
            stop = bisect_left(self._stops, start)
            end = self._stops[stop] if stop < len(self._stops) else len(self._text)
            if kind is _PHRASE:
                last = bisect_left(self._equals, end) - 1
                start = max(start, self._equals[last] + 1) if last >= 0 else start
            index = bisect_left(self._starts, start)
            if index < len(self.numbers) and self._starts[index] < end:
                of_kind.append((match.start(), self.numbers[index]))
        return of_kind

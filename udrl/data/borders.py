"""Where a text may be parted: behind its sentences, and behind clauses of one sentence.

A sentence's end is seen by its mark and by what follows it. Whether a comma ends a clause, only a parser could say; the
rules here refuse a comma where it more likely stands between adjectives ("a large, shaggy dog"), in a list ("old barns,
fields and rivers") or behind an opening that needs what follows ("In the distance, a ship"). A good border that is
refused costs little, since texts have others; a bad one is a text that nobody would write. The words of the rules are
English: in other languages commas are held to lengths alone.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from udrl.words import SPACED_ENDS, UNSPACED_ENDS, WORD

LEAST_CLAUSE = 3
"""Words of a sentence before a clause of it may end."""

_CLOSERS = "\"'”’»)\\]」』）*_"
_SENTENCE = re.compile(  # a run of marks or spaces is tried from its beginning alone, or long ones take quadratic time
    rf"(?:(?<![{SPACED_ENDS}…])[{SPACED_ENDS}…]++[{_CLOSERS}]*+(?=\s)|[{UNSPACED_ENDS}]+[{_CLOSERS}]*|(?=\n))\s*"
)
_LAST_MARK = re.compile(rf"([{SPACED_ENDS}…{UNSPACED_ENDS}])[{_CLOSERS}]*$")
_CLAUSE = re.compile(r"[,;:]\s+|[，；]\s*|(?:(?<!\s)\s++)?—\s*|(?<!\s)\s++[–-]\s+")
_DASH = re.compile(r"[—–]|\s-\s")

_ABBREVIATION = re.compile(
    r"(?:^|.*[\s(\"“])(?:mr|mrs|ms|dr|prof|st|mt|jr|sr|vs|no|nr|fig|vol|approx|incl|esp|ca|cf|e\.g|i\.e|etc|al|\w|\w\.\w)\.",
    re.IGNORECASE,
)
_NUMBERING = re.compile(r"\s*\(?(?:\d+|[a-z])[.)]", re.IGNORECASE)
_HEADING = re.compile(r"\s*(?:#.*|\*\*[^*]*\*\*|.*:[*_]*)\s*")

_OPENERS = frozenset(
    "a about above across after against all along although among and around as at because before behind below beneath "
    "beside between both but by down during each even every first for from her his if in inside into it its just like "
    "my near next no nor not of off on once one onto or our out over past she he so some still than that the their "
    "then they there these this those though through till to toward towards two under until up upon we what when "
    "where whereas which while who whose with within without yet you your".split()
)
"""Words that open a clause or a phrase and can be no second adjective."""

_LEADING = frozenset(
    "about above across after against along although amid among around as at because before behind below beneath "
    "beside between beyond by despite during for from given if in inside into like near of off on once onto out over "
    "past since though through throughout to toward towards under unless until up upon when whenever where wherever "
    "whether while with within without".split()
)
"""Words that begin what cannot stand before a full stop alone: the first comma of a sentence that they open."""

_ADJECTIVES = frozenset(
    "ancient bare big black blue bold bright brown calm clean clear cold cool cozy cosy creamy crisp dark deep dense "
    "dim dirty dry dull empty faint fast fine flat fresh friendly full gentle giant gold golden gray green grey happy "
    "hard heavy high huge icy intricate large light little long loud low lush majestic matte misty modern narrow neat "
    "new old orange pale pink plain plump pure purple quick quiet raw red rich rough round rustic sandy serene sharp "
    "sheer shiny short shy silver simple sleek slender slight slow small smart smooth soft square steady steep still "
    "straight strong subtle sunny sweet swift tall tender thick thin tiny tranquil tropical urban vast very vibrant "
    "vintage vivid warm weary wet white wide wild wooden woolen woollen worn yellow young".split()
)
_ADJECTIVE = re.compile(r".+(?:ful|ous|less|ish|able|ible|ly|like|-\w+ed|esque|lit)")
_ARTICLES = frozenset("a an".split())
_DETERMINERS = frozenset("a an the its his her their my our your some two three several many with".split())
_INTRODUCING = frozenset("as following follows include includes including is are like such these this".split())
_OPEN = (("(", ")"), ("[", "]"), ("{", "}"), ("“", "”"), ("«", "»"), ("「", "」"), ("（", "）"))
_TELLING = str.maketrans("?？", ".。")
_QUOTES = "\"'“‘«「"
_PAIRED = ('"', "```", "**")


@dataclass(frozen=True)
class Border:
    """A place where a text may be parted: it then ends at ``end``, and what is left begins at ``start``.

    words: how many stand before it. sentence: whether it lies behind a whole sentence, or behind a clause. mark: behind
    a clause, what its sentence ends with; "" where that has no mark.
    """

    end: int
    start: int
    words: int
    sentence: bool
    mark: str = ""


class _TextIndex:
    """Where the words, brackets and quotation marks of a text stand, so that counting between two places is cheap."""

    def __init__(self, text: str) -> None:
        words = [(match.start(), match[0].casefold()) for match in WORD.finditer(text)]
        self._starts, self._words = [start for start, _ in words], [word for _, word in words]
        self._marks = {
            mark: [match.start() for match in re.finditer(re.escape(mark), text)]
            for mark in (*itertools.chain(*_OPEN), *_PAIRED)
        }

    def words(self, begin: int, end: int) -> list[str]:
        """Return the words from ``begin`` to ``end``, in small letters."""
        return self._words[bisect_left(self._starts, begin) : bisect_left(self._starts, end)]

    def count(self, begin: int, end: int) -> int:
        """Return how many words stand from ``begin`` to ``end``."""
        return bisect_left(self._starts, end) - bisect_left(self._starts, begin)

    def balanced(self, begin: int, end: int) -> bool:
        """Tell whether every bracket and quotation mark from ``begin`` to ``end`` is closed."""

        def number(mark: str) -> int:
            positions = self._marks[mark]
            return bisect_left(positions, end) - bisect_left(positions, begin)

        pairs = all(number(left) == number(right) for left, right in _OPEN)
        return pairs and all(number(mark) % 2 == 0 for mark in _PAIRED)


def borders(text: str) -> list[Border]:
    """Return where ``text`` may be parted, in order; none before its first word, and none behind its last."""
    index = _TextIndex(text)
    parting: list[Border] = []
    begin = 0
    for end, start in [*_sentence_ends(text, index), (len(text), len(text))]:
        clauses = _clause_ends(text, begin, end, index)
        last = _LAST_MARK.search(text[begin:end])
        mark = "" if last is None else last[1].replace("…", ".")
        for stop, next_ in clauses:
            asks = (
                mark if text[stop] in ",，" else mark.translate(_TELLING)
            )  # "It sleeps; does it dream?" asks behind ";"
            parting.append(Border(stop, next_, index.count(0, stop), sentence=False, mark=asks))
        if start < len(text):
            parting.append(Border(end, start, index.count(0, end), sentence=True))
        begin = start
    return parting


def head(text: str, border: Border) -> str:
    """Return ``text`` up to ``border``; behind a clause it is closed as its sentence is."""
    before = text[: border.end].rstrip()
    return before if closed(before) else before + border.mark


def closed(text: str) -> bool:
    """Tell whether ``text`` ends with a mark that ends sentences."""
    return _LAST_MARK.search(text) is not None


def _sentence_ends(text: str, index: _TextIndex) -> Iterator[tuple[int, int]]:
    """Yield where sentences end, and where the next one begins."""
    begin = 0
    for match in _SENTENCE.finditer(text):
        end, start = match.start() + len(match[0].rstrip()), match.end()
        if not index.count(start, len(text)) or index.count(begin, end) < 2 or not index.balanced(begin, end):
            continue
        line = text[text.rfind("\n", 0, end) + 1 : end]
        if "\n" in text[end:start]:
            if _HEADING.fullmatch(line):
                continue
        elif text[start].islower() or _ABBREVIATION.fullmatch(line[-40:]) or _NUMBERING.fullmatch(line):
            continue
        yield end, start
        begin = start


def _clause_ends(text: str, begin: int, end: int, index: _TextIndex) -> Iterator[tuple[int, int]]:
    """Yield where clauses of the sentence ``text[begin:end]`` end, and where the next ones begin."""
    marks = [(begin + match.start(), begin + match.end()) for match in _CLAUSE.finditer(text[begin:end])]
    edges = [(begin, begin), *marks, (end, end)]
    parts = [index.words(start, stop) for (_, start), (stop, _) in pairwise(edges)]
    in_list = _in_lists(parts, [text[stop:start].strip() for stop, start in marks])
    dashes = len(_DASH.findall(text[begin:end]))
    for number, (stop, start) in enumerate(marks):
        mark, before, after = text[stop:start].strip(), parts[number], parts[number + 1]
        if not before or not after or index.count(begin, stop) < LEAST_CLAUSE or not index.balanced(begin, stop):
            continue
        if text[start] in _QUOTES:  # "The sign says, 'Stop'": what is quoted belongs to its verb
            continue
        if dashes > 1 and _DASH.search(text, stop, start):  # between two dashes stands an insertion
            continue
        if mark in (":", "：") and (before[-1] in _INTRODUCING or "\n" in text[stop:start]):
            continue
        if mark == "," and (min(len(before), len(after)) == 1 or number in in_list or _leads(before, number)):
            continue
        if mark == "," and _between_adjectives(before, after):
            continue
        yield stop, start


def _in_lists(parts: list[list[str]], marks: list[str]) -> set[int]:
    """Return the commas that stand between the members of a list, which "and" or "or" closes."""
    in_lists: set[int] = set()
    for number in range(len(marks)):
        before, after = parts[number], parts[number + 1]
        closes = bool({"and", "or", "nor"} & set(after[1:4]))
        if after[:1] in (["and"], ["or"], ["nor"]):
            closes = len(before) <= 3 and number > 0
        while closes and number not in in_lists:
            in_lists.add(number)
            if number > 0 and len(parts[number]) <= 3 and marks[number - 1] == ",":
                number -= 1
    return in_lists


def _leads(before: list[str], number: int) -> bool:
    """Tell whether the comma stands behind an opening that needs what follows: "When it rains, …", "Suddenly, …"."""
    return number == 0 and (before[0] in _LEADING or before[0].endswith("ing") or before[-1].endswith("ly"))


def _between_adjectives(before: list[str], after: list[str]) -> bool:
    """Tell whether a comma may stand between two adjectives of one noun."""
    if after[0] in _OPENERS:
        return False
    last, second = before[-1], before[-2] if len(before) > 1 else ""
    if second in _ARTICLES or (second == "very" and len(before) > 2):
        return True
    if last in _ADJECTIVES or _ADJECTIVE.fullmatch(last) is not None:
        return True
    return second in _DETERMINERS and last.endswith(("ed", "ing", "en", "y"))

"""The language of generated writing requests: constraints that a program can check, stated in the request itself.

The kinds are some of IFEval's (Zhou et al. 2023, arXiv 2311.07911). A request is free text with one sentence a
constraint, so that what holds can be checked from the texts alone wherever they turn up:

    Write about an old lamp. Use the word 'river'. Write at least 12 words. Do not use commas.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from udrl.words import SENTENCE_END, count_words, folded_words

Value = str | int | None


@dataclass(frozen=True)
class Kind:
    """How one kind of constraint is asked for (``{}``: its value) and whether a completion keeps it."""

    asked: str
    value: type | None
    holds: Callable[[str, Value], bool]

    @property
    def pattern(self) -> re.Pattern[str]:
        """What finds the constraint in a request, in any case and with either quotation mark."""
        slot = r"(\d{1,4})" if self.value is int else r"([^'\"\n]{1,80})"
        parts = [re.escape(part).replace("'", "['\"]") for part in self.asked.split("{}")]
        return re.compile(r"(?<!not )\b" + slot.join(parts), re.IGNORECASE)


@functools.lru_cache(maxsize=8)
def sentences(text: str) -> int:
    """Return the number of sentences: runs that hold a word and end with a mark such as ``.`` or the text."""
    return sum(count_words(part) > 0 for part in SENTENCE_END.split(text))


@functools.lru_cache(maxsize=8)
def bullets(text: str) -> int:
    """Return the number of bullet points: lines that begin with ``*`` and hold a word."""
    return sum(line.lstrip().startswith("*") and count_words(line) > 0 for line in text.splitlines())


@functools.lru_cache(maxsize=8)
def _folded(text: str) -> tuple[str, ...]:
    # A request may state thousands of constraints: the completion is taken apart once for all of them.
    return tuple(folded_words(text))


@functools.lru_cache(maxsize=8)
def _distinct(text: str) -> frozenset[str]:
    return frozenset(_folded(text))


def _length(text: str) -> int:
    return len(_folded(text))


def _has(text: str, value: Value) -> bool:
    return str(value).casefold() in _distinct(text)


def _ends(text: str, value: Value) -> bool:
    wanted = tuple(folded_words(str(value)))
    return _folded(text)[-len(wanted) :] == wanted


KINDS: Mapping[str, Kind] = {
    "contain": Kind("Use the word '{}'.", str, _has),
    "avoid": Kind("Do not use the word '{}'.", str, lambda text, value: not _has(text, value)),
    "at_least": Kind("Write at least {} words.", int, lambda text, value: _length(text) >= int(value or 0)),
    "at_most": Kind("Write at most {} words.", int, lambda text, value: _length(text) <= int(value or 0)),
    "lowercase": Kind("Use only lowercase letters.", None, lambda text, _: text == text.lower()),
    "no_commas": Kind("Do not use commas.", None, lambda text, _: "," not in text),
    "end_with": Kind("End with the words '{}'.", str, _ends),
    "sentences": Kind("Write exactly {} sentences.", int, lambda text, value: sentences(text) == value),
    "bullets": Kind("Write exactly {} bullet points that start with '*'.", int, lambda text, n: bullets(text) == n),
}
"""The kinds by name. An empty completion keeps none of them, see ``kept``."""

_PATTERNS = {name: kind.pattern for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Constraint:
    """One thing that a request asks for: a kind of KINDS and its value, None where the kind has none."""

    kind: str
    value: Value = None

    @property
    def text(self) -> str:
        """The sentence that asks for it."""
        return KINDS[self.kind].asked.format(self.value)

    def holds(self, completion: str) -> bool:
        """Say whether ``completion`` keeps it; one without a word keeps nothing."""
        return _length(completion) > 0 and KINDS[self.kind].holds(completion, self.value)


def constraints_of(text: str) -> list[Constraint]:
    """Return the constraints that the request ``text`` states, by kind; empty where it states none of KINDS."""
    constraints = []
    for name, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            raw = match[1].strip() if pattern.groups else None
            constraints.append(Constraint(name, int(raw) if raw is not None and KINDS[name].value is int else raw))
    return constraints


def kept(text: str, completion: str) -> float | None:
    """Return the share in [0, 1] of the constraints in ``text`` that ``completion`` keeps; None where it has none."""
    wanted = constraints_of(text)
    if not wanted:
        return None
    holds = {one: one.holds(completion) for one in dict.fromkeys(wanted)}
    return sum(holds[one] for one in wanted) / len(wanted)

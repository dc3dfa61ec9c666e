"""Episodes derived from what teachers wrote, so that returns vary within an input, whatever the teacher does.

``mismatched``: the right text for another input. ``truncated``: the text up to the end of a sentence or a clause.
``spliced``: a share of the text's own sentences beside another input's, from hardly any to nearly all. Nobody wrote
them as an answer; they are made whenever episodes are built, and never stand in the ledger.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import product

from udrl.data.borders import borders, closed, head
from udrl.data.cleaning import clean
from udrl.data.episode import Episode, Origin
from udrl.data.hashing import hash_hex, hash_unit
from udrl.data.index import LedgerIndex
from udrl.data.ledger import Ledger, LedgerRecord
from udrl.data.tasks import Task
from udrl.errors import UsageError
from udrl.words import UNSPACED_ENDS, count_words

MOST = 16
"""Episodes of one kind that may be derived from a response."""

Screening = Callable[[LedgerRecord, str | None], tuple[LedgerRecord, str | None]]
"""What comes after cleaning, see ``udrl.data.hygiene.Screen``: may change texts, or reject."""

_PARTNER_TRIES = 16
_CUT_SHARES = (0.2, 0.8)
_OWN_SHARES = (0.1, 0.9)
_LENGTHS = (0.6, 1.6)
"""A spliced completion may be this much shorter or longer than the one that it is made from."""
_WHOLE = 0.3
"""What it costs, in shares, to set a whole text behind another: texts have one opening."""


@dataclass(frozen=True)
class Derivation:
    """How many episodes of each kind are derived from a response that is kept: 0.1 is one from every tenth."""

    mismatched: float = 0.1
    truncated: float = 0.1
    spliced: float = 0.1

    def __post_init__(self) -> None:
        for one in fields(self):
            if not 0 <= getattr(self, one.name) <= MOST:
                raise UsageError(
                    f"the number of {one.name} episodes a response must be within [0, {MOST}], found "
                    f"{getattr(self, one.name)}"
                )

    @property
    def total(self) -> float:
        """Episodes that are derived from a response in the mean, at most."""
        return self.mismatched + self.truncated + self.spliced


@dataclass(frozen=True)
class Deriver:
    """Derives episodes from responses of one ledger; every choice is a hash of ``seed`` and the response's key."""

    index: LedgerIndex
    ledger: Ledger
    seed: int
    screen: Screening
    wanted: Derivation

    def derive(self, episode: Episode, record: LedgerRecord, row: int, task: Task) -> Iterator[Episode]:
        """Yield what is derived from the kept ``episode``, which ``record`` in ``row`` of the index became."""
        for number in range(self._count("mismatched", record)):
            yield from self._mismatched(episode, record, row, task, number)
        yield from self._truncated(episode, record, task, self._count("truncated", record))
        count = self._count("spliced", record)
        for number in range(count):
            share = (
                _OWN_SHARES[0]
                + (_OWN_SHARES[1] - _OWN_SHARES[0])
                * (number + hash_unit(self.seed, "share", record.key, number))
                / count
            )
            yield from self._spliced(episode, record, row, task, number, share)

    def _count(self, kind: Origin, record: LedgerRecord) -> int:
        number: float = getattr(self.wanted, kind)
        whole = math.floor(number)
        return whole + (hash_unit(self.seed, kind, record.key) < number - whole)

    def _partners(self, record: LedgerRecord, row: int, task: Task, *choice: object) -> Iterator[LedgerRecord]:
        """Yield a few kept responses for other inputs of the task and split."""
        for attempt in range(_PARTNER_TRIES):
            other = self.index.draw(row, self.seed, *choice, record.key, attempt)
            if self.index.input_id[other] == self.index.input_id[row]:
                continue
            partner, reason = self.screen(*clean(self.ledger.read(self.index.span(other)), task))
            if reason is None and partner.completion != record.completion:
                yield partner

    def _mismatched(
        self, episode: Episode, record: LedgerRecord, row: int, task: Task, number: int
    ) -> Iterator[Episode]:
        """Yield the episode with a completion of another input; nothing where no partner is found."""
        for partner in self._partners(record, row, task, "partner", number):
            completion = partner.completion or ""
            yield replace(
                episode,
                episode_id=hash_hex(record.key, "mismatched", partner.key, number),
                completion=completion,
                horizon=count_words(completion),
                origin="mismatched",
                teacher=partner.teacher,
                sampling=json.dumps({**partner.sampling, "mismatched": {"with": partner.input_id}}, sort_keys=True),
                seed=partner.seed,
            )
            return

    def _truncated(self, episode: Episode, record: LedgerRecord, task: Task, count: int) -> Iterator[Episode]:
        """Yield the episode up to ``count`` different borders; fewer where its text has not so many.

        Sentences end before clauses do: those are taken where no other sentence ends early enough.
        """
        if not count:
            return
        low = max(1, math.ceil(0.5 * task.min_words), math.ceil(_CUT_SHARES[0] * episode.horizon))
        fitting = [one for one in borders(episode.completion) if low <= one.words <= _CUT_SHARES[1] * episode.horizon]
        fitting.sort(key=lambda one: (not one.sentence, hash_unit(self.seed, "cut", record.key, one.end)))
        for border in fitting[:count]:
            behind = "sentence" if border.sentence else "clause"
            told = {"behind": behind, "share": round(border.words / episode.horizon, 3)}
            yield replace(
                episode,
                episode_id=hash_hex(record.key, "truncated", border.end),
                completion=head(episode.completion, border),
                horizon=border.words,
                origin="truncated",
                sampling=json.dumps({**record.sampling, "truncated": told}, sort_keys=True),
            )

    def _spliced(
        self, episode: Episode, record: LedgerRecord, row: int, task: Task, number: int, share: float
    ) -> Iterator[Episode]:
        """Yield the episode with about ``share`` of its own words; nothing where no partner fits.

        The partner is the same teacher's, so that the text keeps one manner of writing.
        """
        own_first = hash_unit(self.seed, "first", record.key, number) < 0.5
        for partner in self._partners(record, row, task, "splice", number):
            if partner.teacher != record.teacher:
                continue
            made = splice(episode.completion, partner.completion or "", share, task=task, own_first=own_first)
            if made is None:
                continue
            told = {"own": round(made.own_words / made.words, 3), "with": partner.input_id}
            yield replace(
                episode,
                episode_id=hash_hex(record.key, "spliced", partner.key, number),
                completion=made.text,
                horizon=made.words,
                origin="spliced",
                sampling=json.dumps({**record.sampling, "spliced": told}, sort_keys=True),
            )
            return


@dataclass(frozen=True)
class Splice:
    """A text from two. words: of all of it; own_words: of them those of the first."""

    text: str
    words: int
    own_words: int


@dataclass(frozen=True)
class _Part:
    """The beginning or the end of a text.

    text: as it stands there; ended: closed with a mark, where the whole is. joint: what stood between it and the rest;
    None: it is the whole text. clause: parted behind a clause, not behind a sentence.
    """

    text: str
    words: int
    ended: str
    joint: str | None = None
    clause: bool = False


def splice(completion: str, other: str, share: float, *, task: Task, own_first: bool) -> Splice | None:
    """Return the beginning of one text with the end of the other, about ``share`` of its words from ``completion``.

    They are parted behind sentences, or, where ``completion`` has but one, behind clauses; either may stay whole. The
    length is about that of ``completion``, and within the task's bounds. own_first: whose beginning. None where nothing
    fits.
    """
    first, second = (completion, other) if own_first else (other, completion)
    length = count_words(completion)
    by_sentence = any(one.sentence for one in borders(completion))
    best: tuple[float, Splice] | None = None
    for left, right in product(_beginnings(first, by_sentence), _endings(second, by_sentence)):
        words, mine = left.words + right.words, left.words if own_first else right.words
        fits = _LENGTHS[0] * length <= words <= _LENGTHS[1] * length
        if not fits or not 0.5 * task.min_words <= words <= task.max_words:
            continue
        cost = abs(mine / words - share) + 0.25 * abs(words / length - 1) + _WHOLE * (right.joint is None)
        text = _joined(left, right) if best is None or cost < best[0] else None
        if text is not None:
            best = cost, Splice(text, words, mine)
    return None if best is None else best[1]


def _beginnings(text: str, by_sentence: bool) -> list[_Part]:
    """Return ``text`` up to each border, and all of it."""
    parts = [
        _Part(text[: one.end].rstrip(), one.words, head(text, one), text[one.end : one.start], not one.sentence)
        for one in borders(text)
        if one.sentence or not by_sentence
    ]
    return [*parts, _Part(text.strip(), count_words(text), text.strip())]


def _endings(text: str, by_sentence: bool) -> list[_Part]:
    """Return all of ``text``, and what is left of it from each border on."""
    words = count_words(text)
    parts = [
        _Part(rest := text[one.start :].strip(), words - one.words, rest, text[one.end : one.start], not one.sentence)
        for one in borders(text)
        if one.sentence or not by_sentence
    ]
    return [_Part(text.strip(), words, text.strip()), *parts]


def _joined(left: _Part, right: _Part) -> str | None:
    """Return both as one text; None where a writer would not join them so.

    A clause goes on where a clause was left, or behind a text without marks ("a fox, soft light"); a sentence begins
    where one has ended. What separates them is what separated them before.
    """
    if left.joint is not None and left.clause and (right.clause or not closed(right.text)):
        return f"{left.text}{left.joint}{right.text}"
    if closed(left.ended):
        gap = left.joint if left.joint is not None and not left.clause else _gap(left.ended)
        return None if right.clause else f"{left.ended}{gap}{right.text}"
    return f"{left.text}{right.joint}{right.text}" if right.clause and not closed(right.text) else None


def _gap(text: str) -> str:
    return "" if text[-1:] in UNSPACED_ENDS else " "

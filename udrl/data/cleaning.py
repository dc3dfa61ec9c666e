"""Which responses are kept out of training, and why: every rule has a name that stands in ``rejected_by``."""

from __future__ import annotations

import operator

from udrl.data.ledger import LedgerRecord
from udrl.data.tasks import Task
from udrl.words import WORD, folded_words

SLACK = (0.5, 1.5)
"""A completion may be this much shorter or longer than the task's bounds before it is rejected."""

_PERIODS = range(1, 9)
_REPEATS = 4
_LOOP_WORDS = 6


def rejected_by(record: LedgerRecord, task: Task) -> str | None:
    """Return the name of the first rule that rejects the response, or None where it is kept.

    empty: no word in it; unfinished: the teacher ran into its token limit; under_length, over_length: outside
    the task's bounds by more than SLACK; loop: see ``is_loop``. The rule ``duplicate`` needs the input's
    other completions and lies with episode building.
    """
    words = folded_words(record.completion or "")
    if not words:
        return "empty"
    if record.finish_reason == "length":
        return "unfinished"
    if len(words) < SLACK[0] * task.min_words:
        return "under_length"
    if len(words) > SLACK[1] * task.max_words:
        return "over_length"
    return "loop" if is_loop(words) else None


def is_loop(words: list[str]) -> bool:
    """Tell whether 1 to 8 words stand at least 4 times in direct succession, 6 words or more in all."""
    if len(words) - len(set(words)) < _LOOP_WORDS - 1:
        return False  # every loop repeats more words than that
    for period in _PERIODS:
        needed = max(period * _REPEATS, _LOOP_WORDS) - period
        # One byte a word: whether the word one period before is the same; a loop is a run of ones.
        if b"\1" * needed in bytes(map(operator.eq, words[period:], words)):
            return True
    return False


def first_words(text: str, count: int) -> str:
    """Return ``text`` up to the end of its word number ``count`` (from 1); all of it where it has fewer."""
    for number, word in enumerate(WORD.finditer(text), start=1):
        if number == count:
            return text[: word.end()]
    return text

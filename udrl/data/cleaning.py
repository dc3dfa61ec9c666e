"""Which responses are kept out of training, and why: every rule has a name that stands in ``rejected_by``.

Talk around an answer is taken off where its border is certain (``repaired``); the ledger keeps what was written, the
episode's ``sampling`` names what was repaired, and the counts say how often. Everything else is kept as it is, or
rejected under a name. ``udrl synth --show-rejected`` shows both. A rule that does not suit a task is switched off in
the task's file (``allow``). docs/cleaning.md says how often each is wrong on real outputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace

from udrl.data.finish import finish_of
from udrl.data.language import is_foreign
from udrl.data.leakage import (
    asked_for,
    echoes,
    has_role_name,
    is_fenced,
    is_preamble,
    is_quoted,
    is_refusal,
    is_structured,
    repaired,
)
from udrl.data.ledger import LedgerRecord
from udrl.data.tasks import Task
from udrl.words import folded_words

REPAIRED = "repaired"
"""Key of an episode's sampling that names what was taken off its completion."""

SLACK = (0.5, 1.5)
"""A completion may be this much shorter or longer than the task's bounds before it is rejected."""

_PERIODS = range(1, 9)
_REPEATS = 4
_LOOP_WORDS = 6


def clean(record: LedgerRecord, task: Task) -> tuple[LedgerRecord, str | None]:
    """Return the response as episodes are made of it, and the rule that rejects it (None: kept).

    A repaired one has the repaired text, and in ``sampling`` the key ``repaired`` with the names of what was repaired;
    one that is rejected all the same stays as it was written.
    """
    text, repairs = repaired(record.completion or "", allow=allowed(record, task))
    fixed = record
    if repairs:
        fixed = replace(record, completion=text, sampling={**record.sampling, REPAIRED: ", ".join(repairs)})
    reason = rejected_by(fixed, task)
    return (fixed if reason is None else record), reason


def rejected_by(record: LedgerRecord, task: Task) -> str | None:
    """Return the name of the first rule that rejects the response, or None where it is kept.

    Rules that the task allows are left out, and those whose finds are asked for. ``duplicate`` needs the input's other
    completions and lies with episode building.
    """
    text = record.completion or ""
    words = folded_words(text)
    request = _request(record, task)
    allow = allowed(record, task)
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("empty", lambda: not words),
        ("unfinished", lambda: finish_of(record.finish_reason) != "finished"),
        ("refusal", lambda: is_refusal(text)),
        ("role_name", lambda: has_role_name(text)),
        ("preamble", lambda: is_preamble(text, given=record.input)),
        ("fenced", lambda: is_fenced(text)),
        ("structured", lambda: is_structured(text)),
        ("quoted", lambda: is_quoted(text)),
        ("echo", lambda: echoes(words, messages=record.messages, given=record.input)),
        ("language", lambda: is_foreign(text, words=words, request=request, given=record.input)),
        ("under_length", lambda: len(words) < SLACK[0] * task.min_words),
        ("over_length", lambda: len(words) > SLACK[1] * task.max_words),
        ("loop", lambda: is_loop(words)),
    )
    return next((name for name, holds in checks if name not in allow and holds()), None)


def allowed(record: LedgerRecord, task: Task) -> frozenset[str]:
    """Return the rules that are off for the response: the task allows what they find, or the request asks for it.

    Of recorded outputs whose instruction nobody knows, JSON may be what was asked for.
    """
    unknown = {"structured"} if task.instruction.strip() == "{input}" else set()
    return frozenset(task.allow) | asked_for(_request(record, task)) | unknown


def _request(record: LedgerRecord, task: Task) -> str:
    """Return all that was asked for: the messages, and the task's instruction, which recorded outputs do not carry."""
    return "\n".join([task.instruction, *(message["content"] for message in record.messages)])


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

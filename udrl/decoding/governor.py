"""A completion of just the commanded length, which ends as the student ends: behind a clause or a sentence.

A command makes a student aim at a length; what it hits is off by a clause or so. A governor counts the words while they
are written. As long as many are left, the student is kept from ending. Near the target, where a clause begins, several
continuations are written ahead, which begin with the student's likeliest next ids, and the one that has an end just at
the target is taken. An end is where the student would end: what counts is the probability that it gives the end, so
that no word and no clause is cut, in whatever style or language it writes. What was written is never taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from udrl.decoding.engine import Array
from udrl.decoding.sampling import best, softmax
from udrl.decoding.wording import byte_alphabet
from udrl.words import SENTENCE_END, count_words

CANDIDATES = 6
"""Continuations that are written ahead."""
LIKELY = 0.002
"""A continuation begins with an id of at least this probability."""
REACH = 8
"""Words before the target from which the rest is written ahead, once a clause begins."""
NEAR = 5
"""Words before the target at which the rest is written ahead, wherever a word begins."""
LOOKS = 3
"""How often the rest is written ahead: once if an end was found just at the target, else where later clauses begin."""
SLACK = 2
"""Words before the target from which, with soft control, the student may end by itself."""
WILLING = 0.1
"""An end that the student gives this probability is one anywhere."""
ASSENT = 0.001
"""Before a mark that ends a clause, and behind a sentence, this much is enough."""
MARKS: tuple[str, ...] = (",", ";", "，", "；", "、", "،", "\n")
"""What stands behind a clause."""
CLOSING = "\"'”’»)]"


@dataclass(frozen=True)
class Rest:
    """A place where a completion can end: behind so many ids, with so many words."""

    ids: int
    words: int


class Clauses:
    """What the ids of a tokenizer are to a governor: pieces of text, marks behind clauses, ends."""

    def __init__(self, tokenizer: Any, size: int, ends: Sequence[int]) -> None:
        """Read the names of ``size`` text ids; a piece is spelled out once it is written."""
        self.ends = np.array(ends, dtype=np.int64)
        self.names = tokenizer.convert_ids_to_tokens(list(range(size)))
        self.to_byte: dict[str, int] | None = None
        if '"ByteLevel"' in tokenizer.backend_tokenizer.decoder.__getstate__().decode():
            self.to_byte = byte_alphabet()
        marks = MARKS
        if self.to_byte is not None:
            shown = {byte: character for character, byte in self.to_byte.items()}
            marks = tuple("".join(shown[byte] for byte in mark.encode()) for mark in MARKS)
        self.marks = np.array([k for k, name in enumerate(self.names) if name and name.startswith(marks)], np.int64)
        self.is_mark = frozenset(self.marks.tolist())
        self.pieces: dict[int, bytes] = dict.fromkeys(ends, b"")

    def piece(self, token: int) -> bytes:
        """Return the bytes that ``token`` stands for."""
        if token not in self.pieces:
            self.pieces[token] = self._spelled(self.names[token] or "")
        return self.pieces[token]

    def begins_word(self, token: int) -> bool:
        """Tell whether ``token`` ends the word before it: it begins with neither a letter nor a digit."""
        text = self.piece(token).decode("utf-8", "replace")
        return not text or not (text[0].isalnum() or text[0] == "\ufffd")

    def _spelled(self, name: str) -> bytes:
        if self.to_byte is not None:
            known = all(character in self.to_byte for character in name)
            return bytes(self.to_byte[character] for character in name) if known else name.encode()
        if len(name) == 6 and name.startswith("<0x"):
            return bytes([int(name[3:5], 16)])
        return name.replace("▁", " ").encode()


class Governor:
    """One completion under way: how many words it has of those that are wanted, and where it can end."""

    def __init__(self, length: int, clauses: Clauses, *, is_soft: bool = False) -> None:
        """length: the words that are wanted. is_soft: never write ahead, and end at the clause after the last word."""
        self.length, self.clauses = length, clauses
        self.slack = SLACK if is_soft else 0
        self.looks = 0 if is_soft else LOOKS
        """How often the rest may still be written ahead."""
        self.ids = self.words = self.counted = 0
        self.tail = b""
        self.begins_clause, self.ends_sentence = True, False
        self.rests: list[Rest] = []

    def ahead(self) -> Governor:
        """Return the governor of a continuation that is written ahead."""
        other = copy(self)
        other.looks, other.slack, other.rests = 0, 0, []
        return other

    @property
    def left(self) -> int:
        """How many words are left; negative beyond the target."""
        return self.length - self.words

    def add(self, token: int) -> None:
        """Take note of the id that was written."""
        self.ids += 1
        self.tail += self.clauses.piece(token)
        head, space, tail = self.tail.rpartition(b" ")
        if head:
            self.counted += count_words(head.decode("utf-8", "replace"))
            self.tail = space + tail
        text = self.tail.decode("utf-8", "replace")
        self.words = self.counted + count_words(text)
        self.ends_sentence = _ends_sentence(text)
        self.begins_clause = self.ends_sentence or token in self.clauses.is_mark

    @property
    def most(self) -> int:
        """How many ids a continuation may have."""
        return 3 * max(self.left, 0) + 24

    def shape(self, logits: Array, *, may_end: bool = True) -> None:
        """Change the logits (V,) of the next id, by how many words are left, as to whether the completion ends."""
        ends = self.clauses.ends
        if may_end and self.left <= REACH and self._rests(logits):
            self.rests.append(Rest(self.ids, self.words))
            if self.left <= 0:
                logits[:] = -np.inf
                logits[ends[0]] = 0
        if self.left > self.slack:
            logits[ends] = -np.inf

    def _rests(self, logits: Array) -> bool:
        """Tell whether the completion can end here, before the id whose logits (V,) are given."""
        shares = softmax(logits)
        willing = shares[self.clauses.ends].sum()
        if not self.ids or willing < ASSENT:
            return False
        return bool(willing >= WILLING or self.ends_sentence or willing + shares[self.clauses.marks].sum() >= 0.5)

    def is_due(self, logits: Array, *, anywhere: bool = True) -> bool:
        """Tell whether the rest is to be written ahead now, where ``logits`` (V,) are those of the next id.

        anywhere: within a clause, too, if the target is near.
        """
        if not self.looks or not 0 < self.left <= REACH:
            return False
        is_near = anywhere and self.left <= NEAR
        return self.begins_clause or (is_near and self.clauses.begins_word(int(logits.argmax())))

    def beginnings(self, logits: Array) -> list[int]:
        """Return the ids that continuations begin with, the likeliest first, from the ``logits`` (V,) of the next."""
        ids = best(logits[None], min(CANDIDATES, len(logits)))[0]
        shares = softmax(logits)[ids]
        return [int(token) for token, share in zip(ids, shares, strict=True) if share >= LIKELY] or [int(ids[0])]


def nearest(written: Sequence[tuple[Governor | None, list[int]]]) -> tuple[list[int], int] | None:
    """Return the completion whose end is nearest to the target, and how many words it misses it by; None if none ends.

    Of those with equal ends, the likeliest is taken. written: the governor and the ids of each continuation that was
    written ahead, the likeliest first.
    """
    ends = [
        (abs(governor.length - rest.words), rank, rest.ids)
        for rank, (governor, _) in enumerate(written)
        if governor is not None
        for rest in governor.rests
    ]
    if not ends:
        return None
    miss, rank, count = min(ends)
    return written[rank][1][:count], miss


def _ends_sentence(text: str) -> bool:
    text = text.rstrip(CLOSING)
    return any(match.end() == len(text) for match in SENTENCE_END.finditer(text))

"""Words that a completion must hold, and words that it must not: enforced while it is written.

Bans are exact: every drawn token is looked at as text, together with all that stands before it, so that no casing and
no tokenisation slips through. Writing is never taken back. So where a token would end exactly at a banned word, which
may yet become a longer one ("art", "artist"), the student's next token is looked up first: the token is taken only if
the student means to go on with the word, and must then do so. Where a token begins a banned word, and the student means
to go on to its end, the beginning is not written either, or it would stand there as half a word.

Requirements are placed where the student finds them likely, else, behind a comma, where it would end or the room ends.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from udrl.decoding.engine import Array
from udrl.decoding.sampling import softmax
from udrl.errors import StudentError, UsageError
from udrl.tokenizer import encode
from udrl.words import count_words

WILLING = 0.02
"""A required word is taken where the student gives it at least this probability."""

SLACK = 4
"""Tokens before the last moment from which a required word takes the next gap between words."""


@dataclass(frozen=True)
class Wording:
    """What a completion must say (``require``), must not say (``ban``), and how many words it may have.

    Words or phrases, in any casing; compatible and composed forms of a letter are equal (NFKC), and so are straight
    and curly apostrophes. They count where they stand as words: "art" is in "art-deco" and "art's", not in "party".
    Raises UsageError for an empty one, and where two demands contradict each other.
    """

    require: tuple[str, ...] = ()
    ban: tuple[str, ...] = ()
    max_words: int | None = None

    def __post_init__(self) -> None:
        for phrase in (*self.require, *self.ban):
            if not any(map(_in_word, phrase)):
                raise UsageError(f"'{phrase}' has no letter or digit: name a word to require or to ban")
        for wanted in self.require:
            for banned in self.ban:
                if contains(wanted, banned):
                    raise UsageError(f"'{wanted}' is required and '{banned}' is banned: leave one of them out")
        if self.max_words is not None and (self.max_words < 1 or self.max_words < sum(map(count_words, self.require))):
            raise UsageError(f"at most {self.max_words} words leave no room for what is required")

    def __bool__(self) -> bool:
        return bool(self.require or self.ban or self.max_words)

    def unmet(self, text: str) -> tuple[str, ...]:
        """Return the required words that ``text`` does not hold."""
        return tuple(phrase for phrase in self.require if not contains(text, phrase))


def contains(text: str, phrase: str) -> bool:
    """Tell whether ``phrase`` stands in ``text`` as a word or phrase of its own, in whatever casing."""
    return any(True for _ in _ends(_normal(text), _normal(phrase.strip())))


def _normal(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"\s+", " ", folded.replace("’", "'"))


def _in_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"


def _ends(text: str, phrase: str) -> Iterator[int]:
    """Yield where ``phrase`` ends in ``text``, both normal, wherever no letter goes on at either side."""
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        left = start > 0 and _in_word(phrase[0]) and _in_word(text[start - 1])
        right = end < len(text) and _in_word(phrase[-1]) and _in_word(text[end])
        if not left and not right:
            yield end
        start = text.find(phrase, start + 1)


def _ends_inside(text: str, phrase: str) -> bool:
    """Tell whether ``text`` ends in the middle of a word of ``phrase``, both normal."""
    for size in range(1, len(phrase)):
        start = len(text) - size
        inside = _in_word(phrase[size - 1]) and _in_word(phrase[size]) and text.endswith(phrase[:size])
        if inside and (start == 0 or not _in_word(phrase[0]) or not _in_word(text[start - 1])):
            return True
    return False


class Vocabulary:
    """The bytes that each text id of a byte-level tokenizer stands for.

    What an id does to the word before it, each (text ids,) bool: goes_on begins with a letter or digit, or with part of
    a character; inside begins within a character; gap does neither, and the end token is one. nothing: ids that stand
    for no text, (n,).
    """

    def __init__(self, tokenizer: Any, size: int, ends: Sequence[int] = ()) -> None:
        """Read the vocabulary of ``size`` text ids. ends: ids that end a completion, the tokenizer's end among them."""
        self.tokenizer = tokenizer
        self.ends = frozenset(ends) or frozenset([tokenizer.eos_token_id])
        if '"ByteLevel"' not in tokenizer.backend_tokenizer.decoder.__getstate__().decode():
            raise StudentError(
                "this student's tokenizer is not byte-level: words cannot be required, banned or counted"
            )
        added = {id_: str(token).encode() for id_, token in tokenizer.added_tokens_decoder.items()}
        to_byte = byte_alphabet()
        names = tokenizer.convert_ids_to_tokens(list(range(size)))
        self.pieces = [
            added[id_] if id_ in added else bytes(to_byte[c] for c in name or "") for id_, name in enumerate(names)
        ]
        for end in self.ends:
            self.pieces[end] = b""
        # models may have more rows than their tokenizer has ids
        self.nothing = np.array([id_ for id_, name in enumerate(names) if name is None], dtype=np.int64)
        self.comma = self.pieces.index(b",")
        first = [_shown(piece)[:1] for piece in self.pieces]
        self.inside = np.array([0x80 <= piece[0] < 0xC0 if piece else False for piece in self.pieces])
        self.goes_on = np.array([bool(p) and (not c or _in_word(c)) for p, c in zip(self.pieces, first, strict=True)])
        self.goes_on &= ~self.inside
        self.gap = ~self.inside & ~self.goes_on

    def ids(self, phrase: str) -> list[int]:
        """Return the ids of ``phrase`` behind a space."""
        return encode(self.tokenizer, [phrase])[0]


def byte_alphabet() -> dict[str, int]:
    """Return which byte each character of a byte-level vocabulary stands for (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + k): byte for k, byte in enumerate(hidden)}


Draw = Callable[[Array, int], int]
"""Draws an id from logits (V,); the number says how often that was tried for the same place, from 0."""

LookAhead = Callable[[list[int]], Array]
"""Returns the logits (V,) that would follow if these ids came next."""

State = Literal["fine", "begun", "open", "offends"]
"""Of a text: no banned word; the beginning of one at its end; one at its end, which letters may go on; one inside."""


class Writer:
    """One completion under way: chooses its ids so that the wording holds."""

    def __init__(self, wording: Wording, vocabulary: Vocabulary, limit: int) -> None:
        self.wording, self.vocabulary, self.limit = wording, vocabulary, limit
        self.ids: list[int] = []
        self.text = b""
        self.banned = [_normal(phrase.strip()) for phrase in wording.ban]
        self.required = {phrase.strip(): vocabulary.ids(phrase.strip()) for phrase in wording.require}
        self.forced: deque[int] = deque()
        self.must: Literal["go on", "stop", None] = None

    def fork(self) -> Writer:
        """Return a writer that stands where this one does, to write ahead with."""
        other = copy(self)
        other.ids, other.forced = list(self.ids), deque(self.forced)
        return other

    @property
    def may_end(self) -> bool:
        """Whether the text can end here: no word is under way, and none that is required is missing."""
        return not self.forced and self.must != "go on" and not self.wording.unmet(_shown(self.text))

    def next(self, logits: Array, draw: Draw, look_ahead: LookAhead) -> int | None:
        """Return the next id, the end token included, from ``logits`` (V,); None where the completion must end here.

        Without a word in the way it is the first draw: a wording that nothing offends changes nothing.
        """
        if self.forced:
            return self._force()
        logits = logits.copy()
        logits[self.vocabulary.nothing] = -np.inf
        if self.must:
            logits[~self._allowed(self.text, self.must)] = -np.inf
        for attempt in range(len(logits)):
            if logits.max() == -np.inf:
                break
            token = draw(logits, attempt)
            self.forced.extend(self._due(token, logits, look_ahead))
            if self.forced:
                return self._force()
            if token in self.vocabulary.ends:
                return token
            text = self.text + self.vocabulary.pieces[token]
            if self.wording.max_words is not None and count_words(_shown(text)) > self.wording.max_words:
                break
            if self._leads_well([token], text, look_ahead):
                return self.take(token)
            logits[token] = -np.inf
        while self._state(self.text) in ("open", "offends"):  # a word that nothing can go on with is left out
            self.text = self.text.removesuffix(self.vocabulary.pieces[self.ids.pop()])
        return None

    def _force(self) -> int:
        token = self.take(self.forced.popleft())
        self.must = None if self.forced else "stop"  # a letter right behind would make another word of it
        return token

    def take(self, token: int) -> int:
        """Write ``token``, whatever it is, and return it."""
        self.ids.append(token)
        self.text += self.vocabulary.pieces[token]
        self.must = "go on" if not self.forced and self._state(self.text) == "open" else None
        return token

    def _state(self, text: bytes) -> State:
        state: State = "fine"
        shown = _normal(_shown(text)) if self.banned else ""
        for phrase in self.banned:
            for end in _ends(shown, phrase):
                if end < len(shown) or not _in_word(phrase[-1]):
                    return "offends"
                state = "open"
            if state == "fine" and _ends_inside(shown, phrase):
                state = "begun"
        return state

    def _leads_well(self, ids: list[int], text: bytes, look_ahead: LookAhead) -> bool:
        """Tell whether ``text``, which ends with the new ``ids``, is allowed and, as far as can be seen, stays so."""
        state = self._state(text)
        if state == "fine" or state == "offends":
            return state == "fine"
        if self._room() <= len(ids):
            return state == "begun"
        logits = look_ahead(ids)
        if state == "open":
            return bool(softmax(logits)[self._allowed(text, "go on")].sum() >= 0.5)
        likely = int(logits.argmax())
        more = self.vocabulary.pieces[likely]
        return not more or self._leads_well([*ids, likely], text + more, look_ahead)

    def _allowed(self, text: bytes, must: Literal["go on", "stop"]) -> Array:
        """Return which ids may follow where the last word must go on or stop; a character is always finished."""
        if _pending(text):
            return self.vocabulary.inside
        return self.vocabulary.goes_on if must == "go on" else self.vocabulary.gap

    def _room(self) -> int:
        return self.limit - len(self.ids)

    def _due(self, token: int, logits: Array, look_ahead: LookAhead) -> Sequence[int]:
        """Return the ids of a required word that must come now, before ``token``, or none."""
        if not self.required or self.must == "go on" or _pending(self.text):
            return ()
        text = _shown(self.text)
        unmet = {phrase: ids for phrase, ids in self.required.items() if not contains(text, phrase)}
        fitting = [
            ids
            for phrase, ids in unmet.items()
            if len(ids) <= self._room() and self._state(self.text + f" {phrase}".encode()) == "fine"
        ]
        if not fitting:
            return ()
        gap, ends = bool(self.vocabulary.gap[token]), token in self.vocabulary.ends
        spare = self._room() - sum(map(len, unmet.values()))
        if not gap and spare > 0:
            return ()
        shares = [self._share(ids, logits, look_ahead) for ids in fitting]
        best = max(range(len(fitting)), key=shares.__getitem__)
        if gap and not ends and shares[best] >= WILLING:
            return fitting[best]
        most = self.wording.max_words
        words = count_words(text) + sum(map(count_words, unmet))
        if ends or spare <= SLACK or (most is not None and words >= most):
            listed = spare > 0 and text != "" and _in_word(text[-1])
            return [self.vocabulary.comma, *fitting[best]] if listed else fitting[best]
        return ()

    def _share(self, ids: Sequence[int], logits: Array, look_ahead: LookAhead) -> float:
        """Return the probability that these ids come next; once it is too small, that of the first of them."""
        share = float(softmax(logits)[ids[0]])
        for k in range(1, len(ids)):
            if share < WILLING:
                break
            share *= float(softmax(look_ahead(list(ids[:k])))[ids[k]])
        return share


def _decoded(text: bytes) -> tuple[str, bytes]:
    """Return the characters of ``text``, and the bytes of the one at its end that is not complete."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(text), decoder.getstate()[0]


def _pending(text: bytes) -> bool:
    return _decoded(text)[1] != b""


def _shown(text: bytes) -> str:
    return _decoded(text)[0]

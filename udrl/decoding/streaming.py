"""What of a text under way can be shown: whole characters, whole words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from udrl.tokenizer import decode

LONGEST = 32
"""A run of letters longer than this is shown before it ends: scripts without spaces have no other end."""


def settled(text: str) -> str:
    """Return the beginning of ``text`` that nothing which follows can change.

    text: decoded from the ids so far; a character whose bytes are not all there yet shows as U+FFFD at the end.
    The last word is held back until something else follows, unless it is longer than ``LONGEST``.
    """
    whole = text.rstrip("\ufffd")
    word = re.search(r"(?:[^\W_]|['’\-])*$", whole)
    assert word is not None
    return whole if len(word.group()) > LONGEST else whole[: word.start()]


class TextUnderWay:
    """The text of one completion while it is written, given out as far as it is `settled`, and up to a stop text."""

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        """stops: the completion ends before the first of these texts that comes about in it."""
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self.ids: list[int] = []
        self.shown = 0
        self.stopped = False
        """Whether a stop text has come; nothing follows then."""

    def add(self, token: int) -> str:
        """Take the next id; return what can be shown since the last one, mostly nothing or a word."""
        if self.stopped:
            return ""
        self.ids.append(token)
        text = self.until_stop(decode(self.tokenizer, self.ids))
        return self._show(text if self.stopped else settled(self._before_a_beginning(text)))

    def rest(self, text: str) -> str:
        """Return what was not shown yet of the whole completion ``text``."""
        return self._show(self.until_stop(text))

    def until_stop(self, text: str) -> str:
        """Return ``text`` up to the first stop text, and remember whether there is one."""
        positions = [position for stop in self.stops if (position := text.find(stop)) >= 0]
        self.stopped |= bool(positions)
        return text[: min(positions)] if positions else text

    def _before_a_beginning(self, text: str) -> str:
        """Return ``text`` without an end that may yet become a stop text."""
        longest = max(map(len, self.stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        size = next((n for n in sizes if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)
        return text[: len(text) - size]

    def _show(self, text: str) -> str:
        part = text[self.shown :]
        self.shown = max(self.shown, len(text))
        return part

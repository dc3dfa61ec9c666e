"""What of a text under way can be shown: whole characters, whole words."""

from __future__ import annotations

import re

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

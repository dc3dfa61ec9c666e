"""What a word is: the one regular expression behind every length, copy rate and diversity figure.

A word is a run of letters, digits and combining marks, in any script, with apostrophes and hyphens inside it
("don't", "mid-century"); an underscore is punctuation. Lengths in reports, commands and bounds all count these.
"""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


def words(text: str) -> list[str]:
    """Return the words of ``text`` as they stand, in order."""
    return WORD.findall(text)


def folded_words(text: str) -> list[str]:
    """Return the words of ``text`` lower-cased, for comparisons (copy rate, novelty, diversity)."""
    return [word.casefold() for word in WORD.findall(text)]


def count_words(text: str) -> int:
    """Return the length of ``text`` in words: the horizon of a completion."""
    return len(WORD.findall(text))

"""The rule-based writer: an input's content phrases, set into a task's style at a chosen fidelity.

It is no language model. It exists so that the whole flow runs, and is tested, on a machine without weights: its
completions are on the subject to a known degree, so that returns vary within an input exactly as reward-conditioned
training needs (every phrase is kept, dropped, or swapped for one of another input).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from udrl.data.tasks import Lexicon
from udrl.teacher.builtin.phrases import content_phrases
from udrl.words import count_words

NATURAL_RATIO = 2.0
"""Words of an unconstrained completion per word of content: the rest is style."""


def write(
    text: str,
    lexicon: Lexicon,
    *,
    fidelity: float,
    words: int | None,
    bounds: tuple[int, int],
    foreign: Sequence[str],
    rng: random.Random,
) -> str:
    """Write one completion for ``text``.

    fidelity: probability in [0, 1] that a phrase of the input is kept; the others are dropped or swapped for one of
        ``foreign`` in equal parts.
    words: length aimed at (None: natural, see NATURAL_RATIO); the result differs from it by a few words.
    bounds: the task's length bounds in words; the aim is moved inside them.
    """
    phrases = _faithful(content_phrases(text), fidelity, foreign, rng)
    aim = words if words is not None else round(NATURAL_RATIO * sum(map(count_words, phrases))) + 4
    aim = min(max(aim, bounds[0]), bounds[1])
    parts = _mentions(phrases, lexicon, aim, rng)
    parts += _details(lexicon, aim - sum(map(count_words, parts)), rng)
    return _join(parts, lexicon.separator)


def _faithful(phrases: list[str], fidelity: float, foreign: Sequence[str], rng: random.Random) -> list[str]:
    result = []
    for phrase in phrases:
        if rng.random() < fidelity:
            result.append(phrase)
        elif rng.random() < 0.5 and foreign:
            result.append(rng.choice(foreign))
    if not result and foreign and rng.random() < 0.5:
        result.append(rng.choice(foreign))
    return result


def _mentions(phrases: list[str], lexicon: Lexicon, aim: int, rng: random.Random) -> list[str]:
    """Set phrases into openers and mentions while the length allows; bare phrases where it is tight."""
    parts: list[str] = []
    room = aim
    order = rng.sample(lexicon.mentions, min(len(phrases), len(lexicon.mentions)))
    left = sum(map(count_words, phrases))
    for index, phrase in enumerate(phrases):
        size = count_words(phrase)
        if parts and size > room:
            break
        frame = rng.choice(lexicon.openers) if index == 0 else order[index % len(order)]
        dressed = frame.replace("{}", phrase, 1)
        part = dressed if count_words(dressed) - size <= room - left else _bare(phrase, frame)
        parts.append(part)
        room -= count_words(part)
        left -= size
    return parts


def _bare(phrase: str, frame: str) -> str:
    """Return ``phrase`` without a frame, as a sentence where the frame is one."""
    return f"{phrase[:1].upper()}{phrase[1:]}." if frame.endswith(".") else phrase


def _details(lexicon: Lexicon, room: int, rng: random.Random) -> list[str]:
    """Fill ``room`` words with style, a closer last where it fits."""
    closer = rng.choice(lexicon.closers) if rng.random() < 0.5 else None
    if closer is not None and count_words(closer) <= room:
        room -= count_words(closer)
    else:
        closer = None
    parts: list[str] = []
    for detail in rng.sample(lexicon.details, len(lexicon.details)):
        if room <= 1:
            break
        if count_words(detail) <= room + 1:
            parts.append(detail)
            room -= count_words(detail)
    return parts if closer is None else [*parts, closer]


def _join(parts: list[str], separator: str) -> str:
    text = separator.join(part for part in parts if part)
    return text[:1].upper() + text[1:] if separator.strip() == "" and text.endswith(".") else text

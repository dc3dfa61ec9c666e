"""The rule-based writer: an input's passages, set into a task's style at a chosen fidelity.

It is no language model. It exists so that the whole flow runs, and is tested, on a machine without weights: its
completions are on the subject to a known degree, so that returns vary within an input exactly as reward-conditioned
training needs (every passage is kept, kept in part, left out, or swapped for one of another input).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from udrl.data.tasks import Lexicon
from udrl.teacher.backends.builtin.phrases import passages, shortened
from udrl.words import count_words

SWAPPED = 0.5
"""Share of the passages that are not kept for which another input's stand in; the others are left out."""

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

    fidelity: share in [0, 1] of the input's words that is kept; of the passages left, some are swapped for one of
        ``foreign``.
    words: length aimed at (None: natural, see NATURAL_RATIO); the result differs from it by a few words.
    bounds: the task's length bounds in words; the aim is moved inside them.
    """
    chosen = _faithful(passages(text), fidelity, foreign, rng)
    aim = words if words is not None else round(NATURAL_RATIO * sum(map(count_words, chosen))) + 4
    aim = min(max(aim, bounds[0]), bounds[1])
    parts = _mentions(chosen, lexicon, aim, rng)
    parts += _details(lexicon, aim - sum(map(count_words, parts)), rng)
    return _join(parts, lexicon.separator)


def _faithful(parts: list[str], fidelity: float, foreign: Sequence[str], rng: random.Random) -> list[str]:
    """Keep a ``fidelity`` share of the words, the last passage in part; swap some of the rest for foreign ones."""
    budget = round(fidelity * sum(map(count_words, parts)))
    kept: list[str | None] = [None] * len(parts)
    for index in rng.sample(range(len(parts)), len(parts)):
        size = count_words(parts[index])
        if budget >= size:
            kept[index] = parts[index]
        elif budget > 0:
            kept[index] = shortened(parts[index], budget)
        elif foreign and rng.random() < SWAPPED:
            kept[index] = rng.choice(foreign)
        budget -= size
    return [passage for passage in kept if passage]


def _mentions(chosen: list[str], lexicon: Lexicon, aim: int, rng: random.Random) -> list[str]:
    """Set the chosen passages into openers and mentions while the length allows; bare where it is tight."""
    parts: list[str] = []
    room = aim
    order = rng.sample(lexicon.mentions, min(len(chosen), len(lexicon.mentions)))
    left = sum(map(count_words, chosen))
    for index, passage in enumerate(chosen):
        size = count_words(passage)
        if parts and size > room:
            break
        frame = rng.choice(lexicon.openers) if index == 0 else order[index % len(order)]
        dressed = frame.replace("{}", passage, 1)
        part = dressed if count_words(dressed) - size <= room - left else _bare(passage, frame)
        parts.append(part)
        room -= count_words(part)
        left -= size
    return parts


def _bare(passage: str, frame: str) -> str:
    """Return ``passage`` without a frame, as a sentence where the frame is one."""
    return f"{passage[:1].upper()}{passage[1:]}." if frame.endswith(".") else passage


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

"""Finds the content phrases of any English text: what a completion must mention to be about its input.

A phrase is a run of up to four content words with the article or number before it ("a red fox", "two tall ships",
"cup of tea"). Function words, request verbs and punctuation end a phrase. No model, no dictionary beyond the closed
classes below, so unseen and made-up words are content by default.
"""

from __future__ import annotations

import itertools
import re

from udrl.words import WORD

MAX_PHRASE_WORDS = 4
"""Longest run of content words in one phrase; longer runs are split evenly."""

DETERMINERS = frozenset(
    (
        "a an the this that these those my your his her its our their some any each every no another one two "
        "three four five six seven eight nine ten"
    ).split()
)
FUNCTION_WORDS = frozenset(
    (
        "about above across after against along among and are aren't around as at away be because been before "
        "behind being below beneath beside besides between beyond both but by can can't cannot could couldn't "
        "did didn't do does doesn't doing don't down during either else ever few for from further get gets "
        "getting give go goes going got had has have haven't having he hers here him how however i i'd i'll "
        "i'm i've if in inside instead into is isn't it it's itself just less let let's like lot made make "
        "makes making many may maybe me might mine more most much must near need needs neither nor not now of "
        "off on once only onto or other others ought out outside over own per please put rather same shall "
        "she should shouldn't since so somehow someone something soon still such than that's them themselves "
        "then there they thing things through throughout to together too toward towards under until up upon "
        "us use using very via want wants was wasn't way we well were what what's when where which while who "
        "whom whose why will with within without won't would wouldn't yet you you're yours"
    ).split()
)
_TOKEN = re.compile(rf"{WORD.pattern}|[^\s\w]")


def content_words(text: str) -> list[str]:
    """Return the words of ``text`` that carry content: neither articles, numbers below eleven nor function words."""
    return [w for w in WORD.findall(text) if w.casefold() not in FUNCTION_WORDS and w.casefold() not in DETERMINERS]


def content_phrases(text: str) -> list[str]:
    """Return the content phrases of ``text`` in order, without repetitions.

    A text without any content word ("what is it?") yields its words as one phrase, one without words its own
    characters, so that every input that is not blank has at least one phrase.
    """
    return [" ".join(tokens[start:end]) for tokens, start, end in _spans(text)] or _fallback(text)


def template_of(text: str) -> tuple[list[str], list[int]]:
    """Split ``text`` into tokens and phrases, for rewriting: pieces, and which of them are phrases.

    Joining the pieces with spaces gives the text back up to spacing before punctuation.
    """
    pieces: list[str] = []
    slots: list[int] = []
    position = 0
    tokens = _TOKEN.findall(text)
    for _, start, end in _spans(text, distinct=False):
        pieces.extend(tokens[position:start])
        slots.append(len(pieces))
        pieces.append(" ".join(tokens[start:end]))
        position = end
    pieces.extend(tokens[position:])
    return pieces, slots


def _spans(text: str, *, distinct: bool = True) -> list[tuple[list[str], int, int]]:
    tokens = _TOKEN.findall(text)
    folded = [token.casefold() for token in tokens]
    is_content = [bool(WORD.fullmatch(t)) and f not in FUNCTION_WORDS for t, f in zip(tokens, folded, strict=True)]
    spans: list[tuple[list[str], int, int]] = []
    seen: set[str] = set()
    start = 0
    while start < len(tokens):
        if not is_content[start]:
            start += 1
            continue
        end = start
        while end < len(tokens) and is_content[end] and (end == start or folded[end] not in DETERMINERS):
            end += 1
        if end + 1 < len(tokens) and folded[end] == "of" and is_content[end + 1] and end - start <= 2:
            end += 2  # "a cup of tea" reads as one phrase
        for left, right in _split(start, end, 1 if folded[start] in DETERMINERS else 0):
            body = " ".join(folded[left:right])
            if (folded[right - 1] in DETERMINERS and right - left == 1) or (distinct and body in seen):
                continue
            seen.add(body)
            spans.append((tokens, left, right))
        start = end
    return spans


def _split(start: int, end: int, articles: int) -> list[tuple[int, int]]:
    """Cut one run into parts of at most MAX_PHRASE_WORDS content words, as even as they come."""
    count = end - start - articles
    parts = max(1, -(-count // MAX_PHRASE_WORDS))
    cuts = [start] + [start + articles + (count * k) // parts for k in range(1, parts)] + [end]
    return list(itertools.pairwise(cuts))


def _fallback(text: str) -> list[str]:
    found = WORD.findall(text)
    if found:
        return [" ".join(found[:MAX_PHRASE_WORDS])]
    return [text.strip()[:40]] if text.strip() else []

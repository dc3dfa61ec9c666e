"""Finds the content phrases of any English text: what a completion must mention to be about its input.

A phrase is a run of up to four content words with the article or number before it ("a red fox", "two tall ships",
"cup of tea"). Function words, request verbs and punctuation end a phrase. No model, no dictionary beyond the closed
classes below, so unseen and made-up words are content by default.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from udrl.words import WORD, join_words, words

MAX_PHRASE_WORDS = 4
"""Longest run of content words in one phrase; longer runs are split evenly."""

MAX_PASSAGE_WORDS = 6
"""Longest passage of an input that is taken over in one piece."""

FOREIGN = 12
"""How many passages stand in for another input's."""

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
    return [join_words(tokens[start:end]) for tokens, start, end in _spans(text)] or _fallback(text)


def passages(text: str) -> list[str]:
    """Return ``text`` as passages of two to ``MAX_PASSAGE_WORDS`` words in order: what a completion is built around.

    A passage lies between punctuation marks and neither begins nor ends with a function word; a long stretch is cut
    in even parts, where possible before a function word ("a brass telescope" / "in a flooded library"). The words in
    between stay as they are, so that what is taken over reads as English. As `content_phrases` for texts without
    content words.
    """
    passages: list[str] = []
    tokens = _TOKEN.findall(text)
    for is_words, group in itertools.groupby(tokens, key=lambda token: bool(WORD.fullmatch(token))):
        if is_words:
            passages += [join_words(part) for part in _parts(list(group)) if part]
    return list(dict.fromkeys(passages)) or _fallback(text)


def foreign_passages(texts: Iterable[str]) -> list[str]:
    """Return the passages of ``texts`` that stand in for "another input": FOREIGN at most, of two or three words.

    They are few, so that what is off the subject is as easy for a student to say as what it can copy, and their words
    stand in one text each, so that they are not confused with how other inputs begin.
    """
    every = list(texts)
    frequency = Counter(word for text in every for word in set(text.casefold().split()))
    foreign = [
        passage
        for text in every
        for passage in passages(text)
        if 2 <= len(passage.split()) <= 3 and all(frequency[word] <= 1 for word in passage.casefold().split())
    ]
    return foreign[:FOREIGN] or [passage for text in every for passage in passages(text)][:FOREIGN]


def shortened(passage: str, count: int) -> str:
    """Return the first ``count`` words of a passage, without function words at its end; may be empty."""
    return join_words(_trimmed(words(passage)[:count]))


def _parts(stretch: list[str]) -> Iterator[list[str]]:
    """Cut a stretch of words without punctuation into passages of MAX_PASSAGE_WORDS at most, without their ends."""
    stretch = _trimmed(stretch)
    start, left = 0, -(-len(stretch) // MAX_PASSAGE_WORDS)
    while start < len(stretch):
        rest = len(stretch) - start
        left = max(left, -(-rest // MAX_PASSAGE_WORDS))  # a cut before a function word may leave more than was planned
        cut = start + -(-rest // left)
        if left > 1:
            near = range(max(start + 2, cut - 2), min(cut + 2, len(stretch) - 1))
            fitting = [
                c for c in near if _is_function(stretch[c]) and len(_trimmed(stretch[start:c])) <= MAX_PASSAGE_WORDS
            ]
            cut = min(fitting, key=lambda c: abs(c - cut), default=cut)
        yield _trimmed(stretch[start:cut])
        start, left = cut, left - 1


def _trimmed(words: list[str]) -> list[str]:
    """Return ``words`` without the function words at both ends and the determiners at the end."""
    start, end = 0, len(words)
    while start < end and _is_function(words[start]):
        start += 1
    while start < end and (_is_function(words[end - 1]) or words[end - 1].casefold() in DETERMINERS):
        end -= 1
    return words[start:end]


def _is_function(word: str) -> bool:
    return word.casefold() in FUNCTION_WORDS


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
        pieces.append(join_words(tokens[start:end]))
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
    first_words = WORD.findall(text)
    if first_words:
        return [join_words(first_words[:MAX_PHRASE_WORDS])]
    return [text.strip()[:40]] if text.strip() else []

"""A model's list, whatever form it has: plain lines, numbers in one line, JSON, JSON in a fence, one object a line.

What is structured and cannot be read is told apart, so that no markup is taken for an item.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

ITEM_KEYS = (
    "input text prompt idea query request caption topic title question description subject brief wish instruction item "
    "content value name"
).split()
"""Keys under which an object holds its item, the likeliest first; with an ``s`` they hold a list."""

LIST_KEYS = "items list results data examples new output outputs response answer answers".split()

_FAILURES = 20
_NUMBERED_KEY = re.compile(r"[a-z]{0,12}[ _-]?\d{1,4}", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:```|~~~)[\w-]*\s*\Z")
_NUMBER = re.compile(r"(?:(?<=\s)|\A)\(?(\d{1,3})[.)]\s+(?=\S)")
_STRUCTURED = re.compile(
    r"""["']?[\[{](?:\\?["'{\[\s]|\Z)|[}\]]+,?\Z|["']?\w{1,40}["']\s*:|.*["']\s*[}\]]+,?\Z|\|.*\|\Z|.*</\w{1,40}>|[\[{].*[}\]],?\Z"""
)
_TAG = re.compile(r"<(\w{1,40})(?:\s[^<>]{0,80})?>([^<>]*)</\1>,?")
_LABEL = re.compile(rf"(?:[-*]\s+)?(?:{'|'.join(ITEM_KEYS)})\s*:\s+(?=\S)", re.IGNORECASE)


def items(text: str) -> Iterator[str | None]:
    """Yield the items of the list in ``text``, each in one line; None for a part that is structured and unreadable."""
    decoder = json.JSONDecoder()
    position, failed = 0, 0
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        line = text[position:end]
        bare = line.lstrip(" \t,")
        if bare.startswith(("{", "[")):
            # A failure costs as much as all that was read: after some of them only the line itself is tried.
            last = len(text) if failed < _FAILURES else end
            try:
                value, after = decoder.raw_decode(text[end - len(bare) : last])
            except (ValueError, RecursionError):
                failed += 1
            else:
                after += end - len(bare)
                if not _is_words(text, after):
                    yield from _flat(value)
                    position = after
                    continue
        if not _FENCE.match(line):
            yield from _line(line.strip())
        position = end + 1


def _is_words(text: str, position: int) -> bool:
    """Tell whether words go on right behind what was read as JSON: then it was none (``[3] cats``)."""
    following = text[position : position + 2].lstrip(" \t,")
    return bool(following) and (following[0].isalnum())


def _flat(value: Any, depth: int = 0) -> Iterator[str | None]:
    """Yield the items in a JSON value."""
    if isinstance(value, str):
        yield " ".join(value.split()) if not value.lstrip().startswith(("{", "[")) else None
    elif isinstance(value, list) and depth < 8:
        for one in value:
            yield from _flat(one, depth + 1)
    elif isinstance(value, dict) and depth < 8:
        yield from _flat(_item(value), depth + 1)
    else:
        yield None


def _item(entry: dict[str, Any]) -> Any:
    """Return the value of an object that is its item, or the list of its items; None where that is not clear."""
    lower = {str(key).lower(): value for key, value in entry.items()}
    plural = [*LIST_KEYS, *(f"{key}s" for key in ITEM_KEYS), "queries", "wishes", "entries"]
    for key in (*plural, *ITEM_KEYS):
        if isinstance(lower.get(key), str | list | dict):
            return lower[key]
    if lower and all(key.isdigit() or _NUMBERED_KEY.fullmatch(key) for key in lower):
        return list(lower.values())
    texts = [value for value in lower.values() if isinstance(value, str | list | dict)]
    lists = [value for value in texts if isinstance(value, list)]
    return texts[0] if len(texts) == 1 else lists[0] if len(lists) == 1 else None


def _line(line: str) -> Iterator[str | None]:
    """Yield the item of a line, or the items of one that numbers several."""
    tag = _TAG.fullmatch(line)
    if tag is not None:
        line = tag[2].strip()
    line = _LABEL.sub("", line, count=1) if _LABEL.match(line) else line
    if _STRUCTURED.match(line) and not line.startswith("```"):
        yield None
        return
    cuts: list[int] = []
    number = 0
    for mark in _NUMBER.finditer(line):
        if (not cuts and mark.start() == 0) or (cuts and int(mark[1]) == number + 1):
            number = int(mark[1])
            cuts.append(mark.start())
    for begin, end in zip(cuts or [0], [*cuts[1:], len(line)], strict=True):
        yield line[begin:end].strip()

"""How long a server asks to wait: read from every header and wording in use.

The most exact statement counts: ``Retry-After``, then what the body says, then when a limit that is used up is reset.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNITS: Mapping[str, float] = {"ms": 0.001, "mi": 60.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15}|an?\b|one\b)"
_UNIT = r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
_PART = re.compile(rf"({_NUMBER})\s{{0,3}}({_UNIT})", re.IGNORECASE)
_DURATION = rf"(?:{_NUMBER}\s{{0,3}}{_UNIT}(?:\s{{0,3}}(?:,|and\b)?\s{{0,3}}))+"
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?\s?(?:Z|UTC|GMT|[+-]\d\d:?\d\d)?"
_ASKS = r"\b(?:try|retry|retrying|wait|available|resets?|reset_?(?:in|at|after)|again|until|back|come back)\b"
_WORDED = re.compile(rf"{_ASKS}[^.\d{{}}\n]{{0,60}}?\b(?:({_DURATION})|({_TIME}))", re.IGNORECASE)
_FIELD = re.compile(
    r"\b(retry[ _-]?delay|retry[ _-]?after(?:[_-]?(?:ms|millis|milliseconds|s|secs?|seconds))?|retry[_-]?in|wait[_-]?"
    r"(?:time|seconds)|estimated[_-]?time|reset[_-]?(?:in|after)|seconds[_-]?to[_-]?wait)"
    rf"\\?[\"']?\s{{0,3}}[:= ]\s{{0,3}}\\?[\"']?(?:({_DURATION})|(\d{{1,15}}(?:\.\d{{0,15}})?)(?![\w.-]))",
    re.IGNORECASE,
)
_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens", "tokens_usage_based", "project-tokens", "")
_READ = 20_000  # characters of a body that are looked through

_EPOCH = 1e9
"""A number of seconds above this is a point of time (in 2001 or later), above a thousand times this one in ms."""


def asked_wait(headers: Mapping[str, str], body: str) -> float | None:
    """Return the seconds, at least 0, that a server asks to wait; None where it does not say so that it can be read.

    headers: looked up in lower case. body: of the answer, as text.
    """
    for name, unit in (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0)):
        seconds = _seconds(headers.get(name), unit=unit)
        if seconds is not None:
            return seconds
    for seconds in (_in_words(body[:_READ]), _until_reset(headers)):
        if seconds is not None:
            return seconds
    return None


def _in_words(text: str) -> float | None:
    """Return what the body says: a field such as ``"retryDelay": "36s"``, or words such as ``try again in 1m30s``."""
    field = _FIELD.search(text)
    if field is not None:
        unit = 0.001 if re.search(r"ms|milli", field[1], re.IGNORECASE) else 1.0
        return _duration(field[2]) if field[2] else _seconds(field[3], unit=unit)
    worded = _WORDED.search(text)
    if worded is not None:
        return _duration(worded[1]) if worded[1] else _from_now(_date(worded[2]))
    return None


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """Return the time until every limit that is used up is reset; where none is named so, until the first reset."""
    used: list[float] = []
    others: list[float] = []
    for reset, remaining in _resets(headers):
        seconds = _seconds(reset, unit=1.0)
        if seconds is not None:
            (used if remaining is not None and _seconds(remaining, unit=1.0) == 0 else others).append(seconds)
    return max(used) if used else min(others, default=None)


def _resets(headers: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """Yield when a limit is reset and what remains of it, as the headers state them."""
    for prefix in ("x-ratelimit", "ratelimit", "x-rate-limit", "x-rate"):
        for limit in _LIMITS:
            tail = f"-{limit}" if limit else ""
            for reset in (f"{prefix}-reset{tail}", f"{prefix}-reset-after{tail}"):
                if reset in headers:
                    yield headers[reset], headers.get(f"{prefix}-remaining{tail}")
    for limit in _LIMITS[:-1]:
        if f"anthropic-ratelimit-{limit}-reset" in headers:
            yield headers[f"anthropic-ratelimit-{limit}-reset"], headers.get(f"anthropic-ratelimit-{limit}-remaining")
    for entry in headers.get("ratelimit", "").split(","):  # the IETF's draft: "default";r=0;t=30, or limit=9, reset=30
        state = dict(re.findall(r"\b(r|t|remaining|reset)=(\d{1,15})", entry))
        if "t" in state or "reset" in state:
            yield state.get("t") or state["reset"], state.get("r", state.get("remaining"))


def _seconds(text: str | None, *, unit: float) -> float | None:
    """Return the seconds from now that ``text`` names: a number of ``unit``, a duration, or a point of time."""
    if text is None:
        return None
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        if re.fullmatch(_DURATION, text, re.IGNORECASE):
            return _duration(text)
        return _from_now(_date(text))
    if not math.isfinite(number):
        return None
    seconds = number * unit
    if number >= 1000 * _EPOCH:
        return _from_now(number / 1000)
    return _from_now(seconds) if seconds >= _EPOCH else max(0.0, seconds)


def _duration(text: str) -> float:
    total = 0.0
    for number, unit in _PART.findall(text):
        size = unit.lower()
        scale = _UNITS["ms" if size.startswith(("ms", "milli")) else size[:2] if size.startswith("mi") else size[0]]
        total += scale * (1.0 if number.lower() in ("a", "an", "one") else float(number))
    return total


def _date(text: str) -> float | None:
    """Return a point of time, as HTTP or ISO 8601 write it, as Unix time; without a zone it is UTC."""
    text = re.sub(r"\s*(?:UTC|GMT)$", "+00:00", text) if re.match(r"\d{4}-", text) else text
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = read(text)
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError, IndexError, TypeError):
            continue
    return None


def _from_now(moment: float | None) -> float | None:
    return None if moment is None else max(0.0, moment - time.time())

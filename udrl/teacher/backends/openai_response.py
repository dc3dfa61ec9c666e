"""What came back from an OpenAI-compatible server: an answer, or a problem and whether trying again may help."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

from udrl.teacher.mixes import without_thinking

_PASSING_CODES = (408, 429)
_CROWDED_CODES = (408, 429, 502, 503, 504, 529)
_QUOTE = 300


@dataclass(frozen=True)
class Answer:
    """A completion, and what the server says of it."""

    completion: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Problem:
    """Why an attempt brought no completion.

    kind: ``http CODE``, ``timeout``, ``unreachable`` (no connection), ``connection`` (it broke), ``answer`` (not what
    the interface promises) or ``filtered``.
    passing: trying again may help. crowded: the server has too much to do. limits_rate: it counts requests.
    wait: seconds that it asked to wait. prompt_tokens, completion_tokens: what it took all the same, where the server
    says so.
    """

    kind: str
    detail: str
    passing: bool
    crowded: bool = False
    limits_rate: bool = False
    wait: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"

    def without(self, secret: str | None) -> Problem:
        """Return the problem with ``secret`` masked, also as JSON spells it, and then cut to what is worth keeping.

        Servers and proxies quote what they were sent; of a secret that is cut first, most would be left to read.
        """
        detail = self.detail
        if secret:
            spelled = json.dumps(secret)[1:-1]
            for form in (secret, spelled, spelled.replace("/", "\\/")):
                detail = detail.replace(form, "***")
        return replace(self, detail=detail[:_QUOTE])


def read_answer(content: bytes, *, strip_thinking: bool = False) -> Answer | Problem:
    """Read the body of a 200; whatever is not as the interface promises is a problem, never an exception.

    A broken answer is worth another try. A filter's or the model's refusal is final, and so are thoughts that left no
    room for a text: the same seed would bring them again.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return _broken(f"is not JSON: {_quote(content)}")
    if not isinstance(data, dict):
        return _broken(f"is no JSON object: {_quote(content)}")
    if data.get("error"):
        return _broken(f"is an error under status 200: {_message(data, content)}")
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return replace(
        _read_choice(data, content, strip_thinking=strip_thinking),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _read_choice(data: Mapping[str, Any], content: bytes, *, strip_thinking: bool) -> Answer | Problem:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        return _broken(f"has no choices: {_quote(content)}")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return _broken(f"has a choice without a message: {_quote(content)}")
    reason = choice.get("finish_reason") or "stop"
    if not isinstance(reason, str):
        return _broken(f"has the finish reason {reason!r}")
    if reason == "content_filter":
        return Problem("filtered", "the server's filter stopped it", passing=False)
    completion = _text(message.get("content"))
    if completion is None:
        if isinstance(message.get("refusal"), str):
            return Problem("filtered", f"refused: {message['refusal']}", passing=False)
        if reason == "length":
            return Problem(
                "answer",
                "has no text, because thoughts took all of its tokens: switch them off ('chat: template_arguments' in "
                "the teacher's card)",
                passing=False,
            )
        return _broken(f"has no text: {_quote(content)}")
    return Answer(without_thinking(completion) if strip_thinking else completion, reason, None, None)


def read_refusal(status: int, headers: Mapping[str, str], content: bytes) -> Problem:
    """Read an answer whose status is not 200: 408, 429 and 5xx pass, everything else is final."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    detail = _message(data, content) or "no reason given"
    if 300 <= status < 400:
        detail = f"moved to {headers.get('location', 'elsewhere')}: give that address"
    return Problem(
        kind=f"http {status}",
        detail=detail,
        passing=status in _PASSING_CODES or status >= 500,
        crowded=status in _CROWDED_CODES,
        limits_rate=status == 429,
        wait=retry_after(headers) if status in _PASSING_CODES or status >= 500 else None,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: ``retry-after-ms``, or ``retry-after`` as seconds or a date.

    None where it does not say, or not in a way that can be read.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except ValueError:
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _broken(detail: str) -> Problem:
    return Problem("answer", detail, passing=True)


def _text(content: Any) -> str | None:
    if isinstance(content, list):  # some servers send a list of parts, thoughts among them
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if texts else None
    # JSON can spell half of a character, which the ledger could not hold: a next start would read another text there.
    return content.encode("utf-8", "replace").decode("utf-8") if isinstance(content, str) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _message(data: Any, content: bytes) -> str:
    """Return the server's own words: OpenAI's ``error.message``, FastAPI's ``detail``, or the body."""
    found: Any = data
    for _ in range(2):
        if isinstance(found, dict):
            found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), found)
    return found if isinstance(found, str) else _quote(content)


def _quote(content: bytes) -> str:
    return " ".join(content.decode("utf-8", "replace").split())

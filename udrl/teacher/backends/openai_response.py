"""What came back from an OpenAI-compatible server: an answer, or a problem and whether trying again may help."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from udrl.teacher.backends.completion import Failure, completion_of, is_blank
from udrl.teacher.backends.conversation import MERGE, is_template_error
from udrl.teacher.backends.waiting import asked_wait
from udrl.words import whole_characters

_PASSING_CODES = (408, 425, 429)
_CROWDED_CODES = (408, 429, 502, 503, 504, 529)
_QUOTE = 300
_MOST_TOKENS = 1 << 40
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_details", "thinking_blocks")
_NOT_PAID = re.compile(r"insufficient[_ ]?(?:quota|balance|credit|funds)|billing|credit balance|payment", re.IGNORECASE)


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
    says so. advice: what to do about it, behind the server's words.
    """

    kind: str
    detail: str
    passing: bool
    crowded: bool = False
    limits_rate: bool = False
    wait: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}{self.advice}"

    @property
    def told_to_wait(self) -> bool:
        """The server is well and asks to come back later."""
        return self.passing and (self.limits_rate or self.wait is not None)

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


def read_answer(
    content: bytes, *, headers: Mapping[str, str] | None = None, strip_thinking: bool = False
) -> Answer | Problem:
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
        return _error(data["error"], content, headers or {})
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return replace(
        _read_choice(data, content, headers or {}, strip_thinking=strip_thinking),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _read_choice(
    data: Mapping[str, Any], content: bytes, headers: Mapping[str, str], *, strip_thinking: bool
) -> Answer | Problem:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        return _broken(f"has no choices: {_quote(content)}")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return _broken(f"has a choice without a message: {_quote(content)}")
    error = choice.get("error") or message.get("error")
    if error:
        return _error(error, content, headers)
    reason = choice.get("finish_reason")
    reason = reason.get("type") if isinstance(reason, dict) else reason  # {"type": "length", "length": 40}
    if reason is not None and not isinstance(reason, str):
        return _broken(f"has the finish reason {reason!r}")
    text, thought = _text(message.get("content"))
    refusal = message.get("refusal")
    if (text is None or is_blank(text)) and isinstance(refusal, str) and not is_blank(refusal):
        return Problem("filtered", f"refused: {refusal}", passing=False)
    thought = thought or any(message.get(name) for name in _THOUGHTS)
    completion = completion_of(text, reason, strip_thinking=strip_thinking, thought=thought)
    if isinstance(completion, Failure):
        detail = f"{completion.detail}: {_quote(content)}" if completion.passing else completion.detail
        return Problem(completion.kind, detail, passing=completion.passing)
    return Answer(completion, reason or "stop", None, None)


def _error(error: Any, content: bytes, headers: Mapping[str, str]) -> Problem:
    """Return the problem of an error that came under status 200; a status that it names counts as if it had it."""
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    if isinstance(code, int | str) and re.fullmatch(r"[45]\d\d", str(code)):
        problem = read_refusal(int(code), headers, json.dumps({"error": error}).encode())
        # The server that was asked is well: what lies behind it may be crowded, but a 502 or 504 does not say so.
        return replace(problem, crowded=problem.told_to_wait)
    return replace(
        _broken(f"is an error under status 200: {_message({'error': error}, content)}"),
        wait=asked_wait({}, _message({"error": error}, b"")),
    )


def read_refusal(status: int, headers: Mapping[str, str], content: bytes) -> Problem:
    """Read an answer whose status is not 200: 408, 425, 429 and 5xx pass, everything else is final, and so is a 429
    that asks for money."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    detail = _message(data, content) or "no reason given"
    if 300 <= status < 400:
        detail = f"moved to {headers.get('location', 'elsewhere')}: give that address"
    body = content.decode("utf-8", "replace")
    passing = (status in _PASSING_CODES and not _NOT_PAID.search(body)) or status >= 500
    return Problem(
        kind=f"http {status}",
        detail=detail,
        passing=passing,
        crowded=status in _CROWDED_CODES and passing,
        limits_rate=status == 429,
        wait=asked_wait(headers, body) if passing else None,
        advice=f" ({MERGE})" if status < 500 and is_template_error(body) else "",
    )


def _broken(detail: str) -> Problem:
    return Problem("answer", detail, passing=True)


def _text(content: Any) -> tuple[str | None, bool]:
    """Return the text of a message's content, and whether thoughts stand beside it.

    Some servers send a list of parts, thoughts among them.
    """
    thought = False
    if isinstance(content, dict):
        content = [content]
    if isinstance(content, list):
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            text = part.get("text") if kind in ("text", "output_text", None) and isinstance(part, dict) else part
            if isinstance(text, str):
                texts.append(text)
            thought = thought or kind in ("thinking", "reasoning", "redacted_thinking", "thought")
        content = "".join(texts) if texts else None
    # Half a character the ledger could not hold: a next start would read another text there.
    return (whole_characters(content) if isinstance(content, str) else None), thought


def _count(value: Any) -> int | None:
    """Return a number of tokens; None for anything else, and for a number that no answer has and no ledger holds."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _message(data: Any, content: bytes) -> str:
    """Return the server's own words: OpenAI's ``error.message``, FastAPI's ``detail``, or the body."""
    part: Any = data
    for _ in range(2):
        if isinstance(part, dict):
            part = next((part[key] for key in ("error", "message", "detail") if part.get(key)), part)
    return part if isinstance(part, str) else _quote(content)


def _quote(content: bytes) -> str:
    return " ".join(content.decode("utf-8", "replace").split())

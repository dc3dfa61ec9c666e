"""What is to be written for: the prompts of a request, or its last user message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from udrl.serve import values
from udrl.serve.refusal import Refusal
from udrl.serve.values import MISSING, TYPE

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def read_prompts(given: Mapping[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """Return the prompts, one or several; nothing else stands beside them that would not be read."""
    prompt = given.get("prompt")
    if prompt is None:
        raise Refusal("'prompt' is missing: the input, or a list of inputs", param="prompt", code=MISSING)
    several = prompt if isinstance(prompt, list) else [prompt]
    if not several:
        raise Refusal("'prompt' is an empty list", param="prompt", code="invalid_value")
    if any(not isinstance(one, str) for one in several):
        raise Refusal("'prompt' must be text or a list of texts: token ids are not taken", param="prompt", code=TYPE)
    return tuple(_input("prompt", one) for one in several), []


def last_user_message(given: Mapping[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """Return the text of the last user message, and what else there is and is not read."""
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal("'messages' must be a list with a user message", param="messages", code=MISSING)
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(f"messages[{number}] must be an object with a role", param=f"messages[{number}]", code=TYPE)
    roles = [message["role"] for message in messages]
    for number, role in enumerate(roles):
        if role not in ROLES:
            told_role = values.checked_text(f"messages[{number}].role", role)[:60]
            raise Refusal(f"messages[{number}] has an unknown role '{told_role}'", param=f"messages[{number}]")
    if "user" not in roles:
        raise Refusal("there is no user message, which is the input", param="messages", code="invalid_value")
    last = len(roles) - 1 - roles[::-1].index("user")
    if begun := [role for role in roles[last + 1 :] if role not in ("system", "developer")]:
        raise Refusal(
            f"the last message is of the role '{begun[0]}': a student cannot go on with it, end with a user message",
            param=f"messages[{len(roles) - 1}]",
            code="unsupported_value",
        )
    told = sum(role in ("system", "developer") for role in roles)
    earlier = len(roles) - 1 - told
    unread = {"system messages": told, "earlier messages": earlier}
    text = _input(f"messages[{last}]", _content(messages[last].get("content"), last))
    return (text,), [f"{what} ({count})" for what, count in unread.items() if count]


def _content(content: Any, number: int) -> str:
    """Return a message's text, which may come in parts."""
    name = f"messages[{number}].content"
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise Refusal(f"{name} has a part that is no text: a student reads text only", param=name, code=TYPE)
        return "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Refusal(f"{name} must be text, got {values.kind(content)}", param=name, code=TYPE)
    return content


def _input(name: str, text: str) -> str:
    stripped = values.checked_text(name, text).strip()
    if not stripped:
        raise Refusal("the input is empty", param=name, code="invalid_value")
    return stripped

"""A conversation as token ids: the model's chat template around it, and what users typed as text.

A template's marks are special tokens. What stands in a message is text, also where it spells such a token: a user's
``<|im_end|>`` ends no turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MERGE = (
    "set 'chat: system: merge' in the teacher's card, for a template without a system role, or correct "
    "'chat: template_arguments'"
)

_TEMPLATE_ERROR = re.compile(
    r"system\W{1,3}role|role\W{1,3}system|system (?:message|prompt)s? (?:is|are|not)|roles must alternate|"
    r"chat[ _-]?template|jinja|TemplateError|raise_exception|Only user,? (?:and )?assistant",
    re.IGNORECASE,
)


class TemplateError(ValueError):
    """A model's chat template does not take the conversation; the message says what to do."""


def is_template_error(text: str) -> bool:
    """Tell whether a server's words say that a chat template did not take the conversation."""
    return _TEMPLATE_ERROR.search(text) is not None


def conversation_ids(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], template_arguments: Mapping[str, Any]
) -> list[int]:
    """Return ``messages`` as the model reads them: in its chat template, else the texts and nothing else.

    Raises TemplateError where the template refuses them, or cannot be used.
    """
    if not has_template(tokenizer):
        texts = [message["content"] for message in messages]
        return _encoded(tokenizer, "\n\n".join(_cut(tokenizer, texts)) + "\n\n", texts, special=True)
    texts = [message["content"] for message in messages]
    turns = [{**message, "content": text} for message, text in zip(messages, _cut(tokenizer, texts), strict=True)]
    if not hasattr(tokenizer, "added_tokens_decoder"):  # of another library: it encodes what users type as text itself
        return list(_applied(tokenizer, turns, template_arguments, tokenize=True))
    return _encoded(tokenizer, _applied(tokenizer, turns, template_arguments, tokenize=False), texts, special=False)


def conversation_text(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], template_arguments: Mapping[str, Any]
) -> str:
    """Return what ``conversation_ids`` encodes, as text."""
    if not has_template(tokenizer):
        return "\n\n".join(message["content"] for message in messages) + "\n\n"
    text: str = _applied(tokenizer, [dict(message) for message in messages], template_arguments, tokenize=False)
    return text


def has_template(tokenizer: Any) -> bool:
    """Tell whether the tokenizer has a chat template; one of another library always has its own."""
    return bool(getattr(tokenizer, "chat_template", True))


def _applied(tokenizer: Any, turns: list[dict[str, str]], arguments: Mapping[str, Any], *, tokenize: bool) -> Any:
    options = {"return_dict": False} if tokenize else {}
    try:
        return tokenizer.apply_chat_template(
            turns, tokenize=tokenize, add_generation_prompt=True, **options, **arguments
        )
    except Exception as error:  # a template is a program: it raises whatever it likes
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise TemplateError(f"the model's chat template does not take the conversation ({said}): {MERGE}") from error


def _cut(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Return ``texts`` with a mark behind the first character of everything in them that spells an added token."""
    tokens = sorted({str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}, key=len)
    spelled = [token for token in tokens if len(token) > 1 and token.strip()]
    if not any(token in text for token in spelled for text in texts):
        return list(texts)
    mark = _mark(texts)
    pattern = re.compile("(?=" + "|".join(re.escape(token) for token in spelled) + ")(.)", re.DOTALL)
    return [pattern.sub(lambda character: character[1] + mark, text) for text in texts]


def _encoded(tokenizer: Any, text: str, texts: Sequence[str], *, special: bool) -> list[int]:
    """Return the ids of ``text``, each part between marks by itself: no token reaches over a mark.

    special: let the tokenizer set its first token.
    """
    ids: list[int] = []
    for number, part in enumerate(text.split(_mark(texts))):
        ids.extend(tokenizer(part, add_special_tokens=special and number == 0)["input_ids"])
    return ids


def _mark(texts: Sequence[str]) -> str:
    """Return a character that stands in none of ``texts``."""
    return next(chr(code) for code in range(0xE000, 0xF8FF) if not any(chr(code) in text for text in texts))

"""Whether what a model wrote is a completion: decided here for every backend."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from udrl.data.finish import finish_of
from udrl.teacher.thoughts import without_thoughts

_SWITCH_OFF = "switch them off ('chat: template_arguments' in the teacher's card)"


@dataclass(frozen=True)
class Failure:
    """Why there is no completion. kind, detail: as in an error of ``Reply``; passing: trying again may help."""

    kind: str
    detail: str
    passing: bool

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


def completion_of(
    text: str | None, reason: str | None, *, strip_thinking: bool, thought: bool = False
) -> str | Failure:
    """Return the completion in ``text``, which a model ended for ``reason`` (None: not stated), or why there is none.

    A text that was cut off is returned: its reason stands beside it, and the cleaning rules reject it. One that was
    filtered, or broke with an error, is none, whatever there is of it. Text that shows nothing is as absent as null.
    strip_thinking: take thoughts off. thought: the model's thoughts came apart from the text.
    """
    finish = finish_of(reason)
    if finish == "failed":
        assert reason is not None
        return _failed(reason)
    completion = without_thoughts(text) if text is not None and strip_thinking else text
    if completion is not None and not is_blank(completion):
        return completion
    if finish == "unfinished":
        return Failure("answer", f"has no text, because thoughts took all of its tokens: {_SWITCH_OFF}", passing=False)
    if thought or (text is not None and not is_blank(text)):
        return Failure("answer", f"has no text, only thoughts: {_SWITCH_OFF}", passing=False)
    return Failure("answer", "has no text", passing=True)


def is_blank(text: str) -> bool:
    """Tell whether ``text`` shows nothing: white space, control characters and characters without width only."""
    return all(character.isspace() or unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in text)


def _failed(reason: str) -> Failure:
    plain = reason.lower()
    if "tool" in plain or "function" in plain:
        return Failure("answer", f"calls a tool instead of writing ({reason})", passing=False)
    if any(part in plain for part in ("err", "fail", "abort", "cancel", "insufficient", "unavail", "interrupt")):
        return Failure("answer", f"broke off ({reason})", passing=True)
    return Failure("filtered", f"the server's filter stopped it ({reason})", passing=False)

"""What is said about an answer instead of being the answer: refusals, preambles, labels."""

from __future__ import annotations

import re

_REFUSAL = re.compile(
    r"(?:i(?:'m| am)? (?:very |truly |so )?(?:sorry|afraid)\b.{0,80}\b(?:can(?:'t|not)|unable|won't|not able|couldn't)"
    r"|(?:sorry|apologies|unfortunately),? (?:but )?(?:i|as an)\b.{0,60}\b(?:can(?:'t|not)|unable|won't|not able)"
    r"|i (?:can(?:'t|not)|won't|am unable to|am not able to|must decline)\b.{0,40}"
    r"\b(?:help|assist|fulfil|fulfill|comply|create|generate|provide|write|continue|engage|discuss|answer|respond)"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b)",
    re.IGNORECASE | re.DOTALL,
)
_PREAMBLE = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|great)\b[,!. ]"
    r"|here (?:is|are|'s)\b|here's\b|below (?:is|are)\b|let me know\b|i hope (?:this|these)\b|feel free\b)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Tell whether ``text`` begins by declining to write."""
    return _REFUSAL.match(text.lstrip().replace("’", "'")) is not None


def is_preamble(text: str) -> bool:
    """Tell whether ``text`` is spoken to whoever asked, around the answer: "Here are 20 new ideas"."""
    return _PREAMBLE.match(text.lstrip().replace("’", "'")) is not None

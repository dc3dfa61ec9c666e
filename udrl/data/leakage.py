"""What is said about an answer instead of being the answer: refusals, preambles, labels, role names, markup.

The patterns look at how a text begins and ends, where chat models speak to whoever asked them; what stands in the
middle may well be what was asked for (a system prompt that says what to refuse, a brief with a label on it).
docs/cleaning.md says how often they are wrong on real outputs.

Where the border between talk and answer is certain, ``repaired`` takes the talk off; the rules judge what is left.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from udrl.words import WORD, folded_words

ECHO_WORDS = 12
"""So many words in a row of the request, outside of the input, are no coincidence."""

_ARTEFACT = (
    r"(?:prompt|query|queries|brief|instruction|description|rewrite|version|expansion|completion|caption|idea)s?"
)
_NOT_ABLE = r"(?:can't|cannot|can not|unable|won't|not able|couldn't|not comfortable|not allowed)"
_SORRY = re.compile(
    rf"(?:i(?:'m| am) (?:very |truly |really |so )?(?:sorry|afraid)\b[^.\n]{{0,80}}?\b{_NOT_ABLE}"
    r"|(?:sorry|my apologies|i apologi[sz]e|unfortunately)\b[^.\n]{0,60}?\bi(?:'m| am)?\b[^.\n]{0,20}?"
    rf"\b{_NOT_ABLE}"
    r"|i(?:'m| am)? (?:can't|cannot|can not|won't|unable to|not able to|must decline|will not)\b[^.\n]{0,30}?"
    r"\b(?:help|assist|fulfil|comply|create|generate|provide|write|continue|engage|discuss|answer|respond|produce|"
    r"complete|satisfy)"
    r"|the (?:model|assistant|user|input|prompt) (?:is unable to|cannot|can't|(?:has|did) not provide)"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b[^.\n]{0,60}?\b(?:i|my)\b)",
    re.IGNORECASE,
)
_HERE = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|got it|understood|no problem)\b(?: thing)?[!,.:]"
    r"|(?:ok|great|perfect)\b[!,.:] (?:here|let|i|this)\b"
    r"|(?:here (?:is|are)|here's|below (?:is|are)|the following is)\b[^\n]{0,120}?:(?=\s|$)"
    rf"|here(?: is|'s| are) (?:your|the|an?|my|one|some) (?:[\w-]+ ){{0,4}}{_ARTEFACT}\b)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"[*_#\s]*(?:(?:the|your|my|a|final|full|new|expanded|rewritten|enhanced|revised|refined|improved|optimi[sz]ed|"
    r"detailed|output|text-to-(?:image|video)|image|video|search|edit|design|system)\s+)*"
    rf"(?:{_ARTEFACT}|output|answer|response|result|completion)\s*(?:[*_]+\s*)?:[*_]*\s",
    re.IGNORECASE,
)
_ABOUT = re.compile(r"(?:the|this|your) (?:idea|prompt)\b(?!\s*[*_]*:)", re.IGNORECASE)
"""How small models begin that talk of the request instead: "The idea of a fox is a great example of"."""
_AFTER = re.compile(
    r"(?:(?:^|[\n.!?)\"”*]\s*)\(?[*_]*(?:(?:please )?let me know (?:if|whether)|i hope (?:this|that|these|you)|"
    r"feel free to (?:ask|let|modify|adjust|change|reach)|would you like me to|is there anything else)"
    r"|\n[^\S\n]*\n\s*[(*_]*(?:word count\b|note\s*[*_]*:[*_]*\s*(?:i\b|"
    r"this (?:prompt|query|brief|description|instruction)|the (?:prompt|above|completion))))[^\n]*\Z",
    re.IGNORECASE,
)
_AFTER_WORDS = ("let me know", "i hope", "feel free", "would you like", "anything else", "word count", "note")
"""One of them stands in everything that _AFTER finds: looking for them first costs a tenth."""

_ROLE = re.compile(r"[*_#\s<\[]*(?:assistant|user|human|system|chatbot|ai|bot|model|gpt)[>\]]?\s*[*_]*:", re.IGNORECASE)
_TURN = re.compile(
    r"<\|[a-z_]{2,24}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|\A\s*</?think>|^### ?Response:\s*$",
    re.MULTILINE,
)
_QUOTED_THEN = re.compile(
    r"\s*(?:\"[^\"\n]+\"|“[^”\n]+”)[.]?[^\S\n]*\n[^\S\n]*\n\s*"
    r"[(*_]*(?:this|these|the above|in this|in the|note|explanation|i|here)\b",
    re.IGNORECASE,
)
_INTRODUCTION = re.compile(r"[^\n]{0,200}?:(?:[*_]*)(?:[ \t]*\n+|[ \t]+)")
_SPEAKER = re.compile(r"[*_#\s]*(?:assistant|chatbot|ai|bot|model)\s*[*_]*:[*_]*\s+", re.IGNORECASE)
_END_TOKENS = ("</s>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>")
_FENCE = re.compile(r"(?:```|~~~)[\w-]*[ \t]*\n")
_NAMED = rf"(?:(?:final|new|rewritten|expanded)[ _-]?)?(?:{_ARTEFACT}|output|answer|response|result|text|content)"
_TAG = re.compile(rf"<({_NAMED})>", re.IGNORECASE)
_KEY = re.compile(rf"(?:\[\s*)?\{{\s*([\"']){_NAMED}\1\s*:|\[\s*\"", re.IGNORECASE)
_STRUCK = re.compile(r"<s>[^<]{1,500}</s>")
"""HTML's strike-through, a pair of tags within a text; around all of it they are tokens of a chat template."""

_CLAUSE = re.compile(r"[^.!?;:\n]+")
_NEGATED = re.compile(r"\b(?:no|not|without|never|avoid|neither|nor)\b|n[’']t\b", re.IGNORECASE)
_ASKED: Mapping[str, re.Pattern[str]] = {
    "role_name": re.compile(r"\b(?:dialog|conversation|transcript|interview|chat log|screenplay)", re.IGNORECASE),
    "fenced": re.compile(
        r"```|~~~|\b(?:code blocks?|fence[sd]?|markdown|source code|code snippets?|(?:write|fix|refactor|the|this) code"
        r"|python|javascript|typescript|sql|bash|html|css|rust|java)\b|\bc\+\+",
        re.IGNORECASE,
    ),
    "structured": re.compile(
        r"\b(?:json|ya?ml|xml|html|svg|tags?|schemas?|dictionary|key-value|data structures?)\b|\{\s*[\"']|</\w",
        re.IGNORECASE,
    ),
    "quoted": re.compile(r"\b(?:quotation marks|(?:in|with|between) (?:\w+ )?quotes)\b", re.IGNORECASE),
}
"""What a request says where it asks for what a rule looks for."""
_REPAIRS = 6
_MARKS = {'"': '"', "“": "”", "«": "»", "„": "“", "`": "`", "'": "'", "「": "」"}


def repaired(text: str, *, allow: Collection[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Return ``text`` without what stands around the answer, and the names of the rules that would have rejected it.

    Taken off, as often as they follow each other: an introduction up to its colon, a label, the name of the speaker, a
    fence, quotation marks or a pair of tags around all of it, JSON that holds one text alone, end tokens of a chat
    template, a last paragraph of courtesies. allow: rules that are not to be applied. What is left always holds a word.
    """
    done: list[str] = []
    for _ in range(_REPAIRS):
        before = text
        for rule, attempt in _ATTEMPTS:
            if rule in allow:
                continue
            attempted = attempt(text).strip()
            if attempted != text.strip() and WORD.search(attempted):
                text = attempted
                done.append(rule)
        if text == before:
            break
    return text, tuple(dict.fromkeys(done))


@functools.lru_cache(maxsize=256)
def asked_for(request: str) -> frozenset[str]:
    """Return the rules whose finds the request itself asks for: a dialogue, a code block, tokens that it holds too.

    "No dialogue" and "without quotation marks" ask for none.
    """
    wanted = [clause for clause in _CLAUSE.findall(request) if not _NEGATED.search(clause)]
    rules = {rule for rule, pattern in _ASKED.items() if any(pattern.search(clause) for clause in wanted)}
    return frozenset(rules | {"role_name"} if _has_token(request) else rules)


def is_refusal(text: str) -> bool:
    """Tell whether ``text`` begins by declining to write."""
    return _SORRY.match(_start(text)) is not None


def is_preamble(text: str, *, given: str = "") -> bool:
    """Tell whether ``text`` begins or ends with words to whoever asked: "Here is your prompt:", "I hope this helps".

    So it does where it begins by talking of the idea that it was given, unless the input, ``given``, begins so too.
    """
    start = _start(text)
    if _HERE.match(start) or _LABEL.match(start) or _QUOTED_THEN.match(text):
        return True
    if _ABOUT.match(start) and not _ABOUT.match(_start(given)):
        return True
    tail = text.rstrip()[-300:].replace("’", "'")
    folded = tail.casefold()
    return any(word in folded for word in _AFTER_WORDS) and _AFTER.search(tail) is not None


def has_role_name(text: str) -> bool:
    """Tell whether ``text`` begins with a speaker ("Assistant:") or holds a token of a chat template."""
    if _ROLE.match(_start(text)):
        return True
    return _has_token(text)


def _has_token(text: str) -> bool:
    if not any(mark in text for mark in "<[#"):
        return False
    if not _STRUCK.fullmatch(text.strip()):
        text = _STRUCK.sub("", text)
    return _TURN.search(text) is not None


def is_fenced(text: str) -> bool:
    """Tell whether ``text`` begins or ends with a markdown fence; fences within it may be what was asked for."""
    text = text.strip()
    return text.startswith(("```", "~~~")) or (text.endswith("```") and text.count("```") == 1)


def is_structured(text: str) -> bool:
    """Tell whether ``text`` is wrapped as an answer: in JSON that holds one text, or behind a key or tag that names it.

    JSON that says more is left alone: among system prompts that people wrote, 2 % are such.
    """
    text = text.strip()
    return _TAG.match(text) is not None or _KEY.match(text) is not None or _without_structure(text) != text


def is_quoted(text: str) -> bool:
    """Tell whether all of ``text`` stands in one pair of quotation marks."""
    text = text.strip()
    close = _MARKS.get(text[:1])
    if close is None or len(text) < 3 or text[-1] != close:
        return False
    inside = text[1:-1]
    if text[0] == "'":  # an apostrophe is no end, unless it closes a word: 'red' and 'blue'
        return re.search(r"'(?!\w)", inside) is None
    return text[0] not in inside and close not in inside


def echoes(words: Sequence[str], *, messages: Sequence[Mapping[str, str]], given: str) -> bool:
    """Tell whether ECHO_WORDS words in a row of ``messages`` stand in a completion.

    words: the completion's, folded. given: the input, which may be copied.
    """
    if len(words) < ECHO_WORDS:
        return False
    asked: set[tuple[str, ...]] = set()
    for message in messages:
        for part in message["content"].split(given) if given else [message["content"]]:
            asked |= _runs(part)
    return bool(asked) and not asked.isdisjoint(zip(*(words[n:] for n in range(ECHO_WORDS)), strict=False))


@functools.lru_cache(maxsize=256)
def _runs(text: str) -> frozenset[tuple[str, ...]]:
    # What stands before and after the input is the same in most requests of a task.
    words = folded_words(text)
    return frozenset(zip(*(words[n:] for n in range(ECHO_WORDS)), strict=False))


def _start(text: str) -> str:
    return text.lstrip().lstrip("*_\"“'> ")[:300].replace("’", "'")


def _without_end_tokens(text: str) -> str:
    end = len(text.rstrip())
    while token := next((token for token in _END_TOKENS if text.endswith(token, 0, end)), None):
        if token == "</s>" and text.count("<s>", 0, end) >= text.count("</s>", 0, end):
            break  # it closes one of HTML's
        end -= len(token)
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]


def _without_speaker(text: str) -> str:
    return _SPEAKER.sub("", text, count=1) if _SPEAKER.match(text) else text


def _without_introduction(text: str) -> str:
    text = text.lstrip()
    plain = text.replace("’", "'")
    end = _INTRODUCTION.match(text) if _HERE.match(plain) else _LABEL.match(plain)
    return text[end.end() :] if end else text


def _without_courtesies(text: str) -> str:
    head, gap, last = text.rstrip().rpartition("\n\n")
    return head if gap and _AFTER.match(f"\n\n{last}".replace("’", "'")) else text


def _without_fence(text: str) -> str:
    whole = text.strip()
    start = _FENCE.match(whole)
    if start is None or not whole.endswith(whole[:3]) or len(whole) < start.end() + 3:
        return text
    inside = whole[start.end() : -3].rstrip(" \t").removesuffix("\n")
    return text if "```" in inside else inside


def _json(text: str) -> Any:
    """Return the object or list that all of ``text`` is in JSON, else None."""
    if (text[:1], text[-1:]) not in (("{", "}"), ("[", "]")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _without_structure(text: str) -> str:
    whole = text.strip()
    tag = _TAG.match(whole)
    if tag:
        inside = whole[tag.end() :].removesuffix(f"</{tag[1]}>")
        return text if tag[0] in inside or inside == whole[tag.end() :] or f"</{tag[1]}>" in inside else inside
    json_value = _json(whole)
    while isinstance(json_value, dict | list):
        values = [*json_value.values()] if isinstance(json_value, dict) else json_value
        several = [value for value in values if isinstance(value, str | dict | list)]
        if len(several) != 1:
            return text
        json_value = several[0]
    return text if json_value is None else json_value


def _without_quotes(text: str) -> str:
    return text.strip()[1:-1] if is_quoted(text) else text


_ATTEMPTS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("role_name", _without_end_tokens),
    ("role_name", _without_speaker),
    ("preamble", _without_courtesies),
    ("preamble", _without_introduction),
    ("fenced", _without_fence),
    ("structured", _without_structure),
    ("quoted", _without_quotes),
)

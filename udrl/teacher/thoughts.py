"""Thoughts of a model around its answer: found in every syntax that models and servers use, and taken off.

Models write them between marks, and servers pass marks on whole, without the opening one (the chat template has it
already), without the closing one (the tokens ran out), or with what is a special token left out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NAMES = (
    r"(?:seed:|ant:?|antml:)?(?:think(?:ing)?|thoughts?|thought_process|chain_of_thought|cot|reason(?:ing)?(?:_content)?|"
    r"thinking_process|reflection|scratchpad|inner_monologue|internal_monologue|(?:inner|internal)_thoughts?)"
)


class _Marks(NamedTuple):
    """How thoughts begin and end. alone: an end without a beginning also ends thoughts."""

    begin: str
    end: str
    alone: bool = True


_SYNTAXES = (
    _Marks(rf"<{_NAMES}(?:\s[^<>\n]{{0,80}})?>", rf"</{_NAMES}\s*>"),
    _Marks(rf"&lt;{_NAMES}&gt;", rf"&lt;/{_NAMES}&gt;"),  # as a server that writes HTML passes it on
    _Marks(
        r"\[(?:BEGIN|START)[ _](?:OF[ _])?(?:THOUGHTS?|THINKING|REASONING)\]",
        r"\[END[ _](?:OF[ _])?(?:THOUGHTS?|THINKING|REASONING)\]",
    ),
    _Marks(r"\[(?:THINK|THINKING|REASONING)\]", r"\[/(?:THINK|THINKING|REASONING)\]"),
    _Marks(r"◁think▷", r"◁/think▷"),
    _Marks(
        r"<[|｜](?:begin|start)[_▁](?:of[_▁])?(?:think(?:ing)?|thought)[|｜]>",
        r"<[|｜]end[_▁](?:of[_▁])?(?:think(?:ing)?|thought)[|｜]>",
    ),
    _Marks(
        r"<[|｜](?:think(?:ing)?|thoughts?|reasoning)[_▁](?:begin|start)[|｜]>",
        r"<[|｜](?:think(?:ing)?|thoughts?|reasoning)[_▁]end[|｜]>",
    ),
    _Marks(r"<\|think(?:ing)?\|>", r"<\|/think(?:ing)?\|>"),
    _Marks(r"<\|channel>thought\b", r"<channel\|>"),
    _Marks(r"<unused94>", r"<unused95>"),
    _Marks(r"<details\s[^<>\n]{0,40}type=[\"']reasoning[\"'][^<>\n]{0,80}>", r"</details>", alone=False),
    _Marks(r"^```(?:think|thinking|thought|thoughts|reasoning)[ \t]*$", r"^```[ \t]*$", alone=False),
    _Marks(r"\A\s*Thinking\.\.\.[ \t]*$", r"^\.\.\.done thinking\.[ \t]*$"),
    _Marks(
        r"\A\s*Here(?: i|')s my (?:thought|thinking|reasoning) process:",
        r"^[ \t*_#]*Here(?: i|')s my (?:response|answer):\**",
        alone=False,
    ),
)
_FLAGS = re.IGNORECASE | re.MULTILINE
_MARK = re.compile(
    "|".join(
        f"(?P<begin{n}>{one.begin})" + (f"|(?P<end{n}>{one.end})" if one.alone else "")
        for n, one in enumerate(_SYNTAXES)
    ),
    _FLAGS,
)
_ENDS = tuple(re.compile(one.end, _FLAGS) for one in _SYNTAXES)
_HINT = re.compile(r"[<\[◁`]|&lt;|\A\s*(?:Thinking|Here|analysis)|done thinking", re.IGNORECASE)

# OpenAI's harmony: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w{1,40})[^<]{0,200}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|start|channel|call)\|>")
# ... and the same where the special tokens were left out: analysisWe need ...assistantfinalThe answer
_BARE_CHANNEL = re.compile(r"\A\s*(?:assistant)?analysis(?=[A-Z])")
_BARE_FINAL = re.compile(r"assistant\s*final\s*")

_FRAMES = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<output>", "</output>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
"""Frames that some models set around the answer behind their thoughts."""


def without_thoughts(text: str) -> str:
    """Return ``text`` without thoughts, wherever they stand; ``text`` itself where there are none.

    Thoughts that begin and never end reach to the end of the text; where an end stands alone, all before it are
    thoughts. So text that is nothing but thoughts leaves nothing. Takes time in proportion to the text's length.
    """
    if not _HINT.search(text):
        return text
    answer = _final_channel(text)
    if answer is None:
        answer = _between(text)
    if answer is None:
        return text
    answer = answer.strip()
    for begin, end in _FRAMES:
        if answer.startswith(begin) and (end not in answer or answer.endswith(end)):
            return answer.removeprefix(begin).removesuffix(end).strip()
    return answer


def _final_channel(text: str) -> str | None:
    """Return what stands in harmony's final channel, or None where the text has no channels."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        final = next((one for one in reversed(channels) if one[1].lower() == "final"), None)
        if final is None:
            return ""
        end = _CHANNEL_END.search(text, final.end())
        return text[final.end() : end.start() if end else len(text)]
    if _BARE_CHANNEL.match(text):
        finals = list(_BARE_FINAL.finditer(text))
        return text[finals[-1].end() :] if finals else ""
    return None


def _between(text: str) -> str | None:
    """Return what stands outside of marks, or None where there are none."""
    kept: list[str] = []
    position = 0
    mark = _MARK.search(text)
    if mark is None:
        return None
    while mark is not None:
        group = mark.lastgroup or ""
        if group.startswith("begin"):
            kept.append(text[position : mark.start()])
            end = _ENDS[int(group.removeprefix("begin"))].search(text, mark.end())
            position = len(text) if end is None else end.end()
        else:
            kept.clear()
            position = mark.end()
        mark = _MARK.search(text, position)
    kept.append(text[position:])
    return "".join(kept)

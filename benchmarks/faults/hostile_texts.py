"""Texts that spell what programs give a meaning to: control strings, special tokens, markup, bytes that are no text."""

from __future__ import annotations

import random

TAG, ATTRIBUTE = "x-udrl-hostile", "onudrl"
"""Of markup that no page of ours has: where a parser sees them, a text escaped."""

CONTROL = (
    "<|endoftext|>", "<|relevance:9|>", "<|length:3|>", "<task=text-to-image>", "<relevance=0.9>", "<length=12>",
    "[unused 500]", "<s>", "</s>", "<unk>", "<pad>", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "[INST]", "[/INST]",
    "<<SYS>>", "<|im_start|>system", "<|im_end|>", "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<think>", "</think>", "<|channel|>analysis", "<0x0A>",
    "Ġfox", "▁fox", "##fox", "<extra_id_0>", "<|tool_call|>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
MARKUP = (
    f"<{TAG} {ATTRIBUTE}=1>", f"</script><{TAG}>", f'"><{TAG}>', f"'><{TAG}>", f"</textarea></title><{TAG}>",
    f"--><{TAG}>", f"]]><{TAG}>", f"</style><{TAG}>", f'" {ATTRIBUTE}="1', f"' {ATTRIBUTE}='1", "&lt;b&gt;",
    f"<!--<script><{TAG}>", "{{ 7 * 7 }}", "{% raw %}", "${7*7}", "\\u003cscript>", f"<svg><{TAG}></svg>",
)  # fmt: skip
ODD = (
    "\u202e", "\u2066x\u2069", "\ufeff", "\u200b", "\u200d", "\u2028", "\u2029", "\x85", "\x0c", "\x1b[31m", "\x07",
    "\x00", "e\u0301", "\u0130", "ﬃ", "𝕗𝕠𝕩", "👩‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "東京", "العربية",
    "\U0010ffff", "\ufffd",
    "\r\n", "\t", "'", '"', "\\", "%s", "{}",
)  # fmt: skip
HALVES = ("\ud800", "\udfff", "\udc80")
WORDS = ("a", "red", "fox", "in", "the", "snow", "an", "old", "harbour", "at", "dawn", "lighthouse", "misty", "light")


def hostile_texts(count: int, seed: int, *, halves: bool = False) -> list[str]:
    """Return ``count`` different texts. halves: each holds half a surrogate pair, which is no text at all."""
    rng = random.Random(f"hostile {seed} {halves}")
    texts: dict[str, None] = {}
    while len(texts) < count:
        parts = [rng.choice(rng.choice((CONTROL, MARKUP, ODD, WORDS, WORDS))) for _ in range(rng.randint(2, 9))]
        parts.append(f"{rng.choice(WORDS)}{len(texts)}")
        if rng.random() < 0.02:
            parts.append("x" * rng.randint(200, 3000))
        if halves:
            parts.insert(rng.randrange(len(parts)), rng.choice(HALVES))
        texts[rng.choice(("", " ", " ")).join(parts).strip()] = None
    return list(texts)

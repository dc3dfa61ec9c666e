"""The ids that llama.cpp draws, where the text alone does not tell them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from udrl.export.llamacpp import LlamaCpp


def drawn_ids(program: LlamaCpp, prompt: Sequence[int], *, temperature: float, calls: int = 24) -> set[int]:
    """Return the ids that ``calls`` answers of 60 tokens to ``prompt`` consist of, drawn hot and past every end.

    llama.cpp leaves out the ids whose bytes are no whole character.
    """
    request = {"prompt": list(prompt), "max_tokens": 60, "temperature": temperature, "samplers": ["temperature"],
               "ignore_eos": True, "cache_prompt": False, "logprobs": 1}  # fmt: skip
    ids: set[int] = set()
    for seed in range(calls):
        found: Any = program.server.handle_completions({**request, "seed": seed})
        answer = json.loads(found) if isinstance(found, str | bytes) else found
        ids |= {int(one["id"]) for one in answer["choices"][0]["logprobs"]["content"]}
    return ids

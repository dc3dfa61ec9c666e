"""What a batch starts from: prompts that leave room to write, and a random stream for each."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from udrl.decoding.engine import Engine
from udrl.errors import StudentError, UsageError
from udrl.tokenizer import encode

T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """What is continued. limit: by how many ids at most; is_cut: whether the input's end is left out."""

    ids: list[int]
    limit: int
    is_cut: bool


def fit_prompts(
    tokenizer: Any,
    engine: Engine,
    inputs: Sequence[str],
    controls: Sequence[Sequence[int]],
    max_tokens: int | None,
    *,
    warn: bool = True,
) -> list[Prompt]:
    """Return a prompt for each input under the command beside it.

    Where the engine's context is short, an input's end is left out, with a warning if asked. Prompt and completion
    together are never longer than the context. Raises StudentError where not even a command fits.
    """
    fitted = []
    room = engine.context
    longest = max_tokens or room // 2
    needed = max(map(len, controls), default=0)
    if room < needed + 2:
        raise StudentError(
            f"the student's context of {room} tokens has no room for a command of {needed}, an input and a completion: "
            "train one with a longer context"
        )
    for text, control in zip(encode(tokenizer, inputs), controls, strict=True):
        most = max(1, room - len(control) - min(longest, room // 2))
        prompt = engine.space.prompt(text[:most], control)
        fitted.append(Prompt(prompt, max(1, min(longest, room - len(prompt))), len(text) > most))
    shortened = sum(one.is_cut for one in fitted)
    if shortened and warn:
        warnings.warn(
            f"{shortened} of {len(inputs)} inputs are longer than the student's context of {room} tokens allows: "
            "their ends are not read",
            stacklevel=3,
        )
    return fitted


def by_limit(write: Callable[[list[list[int]], int], Sequence[T]], prompts: Sequence[Prompt]) -> list[T]:
    """Return what ``write`` gives for prompts' ids and one limit, for ``prompts`` that have a limit each."""
    results: dict[int, T] = {}
    for limit in sorted({prompt.limit for prompt in prompts}):
        rows = [row for row, prompt in enumerate(prompts) if prompt.limit == limit]
        results |= zip(rows, write([prompts[row].ids for row in rows], limit), strict=True)
    return [results[row] for row in range(len(prompts))]


def random_streams(prompts: Sequence[Sequence[int]], seeds: Sequence[int] | int) -> list[int]:
    """Return one random stream a prompt, a function of its seed and ids.

    With one seed for all, equal prompts differ: how often one came before counts, too.
    """
    if not isinstance(seeds, int) and len(seeds) != len(prompts):
        raise UsageError(f"{len(prompts)} inputs need as many seeds, got {len(seeds)}")
    seen: Counter[str] = Counter()
    streams = []
    for index, prompt in enumerate(prompts):
        seed = seeds if isinstance(seeds, int) else seeds[index]
        key = f"{seed}:{','.join(map(str, prompt))}"
        digest = hashlib.blake2b(f"{key}#{seen[key]}".encode(), digest_size=8).digest()
        seen[key] += isinstance(seeds, int)
        streams.append(int.from_bytes(digest, "big"))
    return streams

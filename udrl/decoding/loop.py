"""Generation, on any engine: many prompts at once, each with its own random stream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from udrl.arguments import check_fields
from udrl.decoding.engine import Engine, Session
from udrl.decoding.guidance import GuidedSession, guided
from udrl.decoding.wording import Writer

CANDIDATES = 64
"""Most tokens that sampling chooses from; at the temperatures of use the rest has no share worth the sorting."""

COMPACT = 0.75
"""Finished rows are dropped from the cache once no more than this share is still writing: moving it has a price."""


@dataclass(frozen=True)
class Sampling:
    """How a completion is drawn. temperature 0 is greedy; top_p keeps the smallest set of tokens of that probability.

    max_tokens: most tokens of a completion (None: as far as the context reaches). no_repeat: no run of this many
    tokens comes twice in a completion (0: no such rule), which ends loops. guidance: how far to go in what the command
    changes (`udrl.decoding.guidance`; 1: as the student was trained).
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int | None = None
    no_repeat: int = 0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Decoded:
    """The ids written for one prompt, without the end token, and whether the end token came (else: cut at a limit)."""

    ids: list[int]
    stopped: bool


def decode_batch(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    sampling: Sampling,
    limits: Sequence[int],
    end: int,
    others: Collection[int] = (),
    on_token: Callable[[int, int], None] | None = None,
    unasked: Sequence[Sequence[int]] | None = None,
    writers: Sequence[Writer] | None = None,
) -> list[Decoded]:
    """Continue every prompt until the end token or its limit.

    seeds: one a prompt, the start of its own random stream; limits: most new ids of each prompt (at least 1);
    others: ids that end a completion as ``end`` does; on_token: called with (row, id) for every id as it is drawn;
    unasked: each prompt with every attribute open, where ``sampling`` guides; writers: one a prompt, where words are
    required or banned.
    """
    steps = decode_steps(
        engine,
        prompts,
        seeds,
        sampling=sampling,
        limits=limits,
        end=end,
        others=others,
        unasked=unasked,
        writers=writers,
    )
    while True:
        try:
            row, token = next(steps)
        except StopIteration as done:
            decoded: list[Decoded] = done.value
            return decoded
        if on_token is not None:
            on_token(row, token)


@torch.inference_mode()  # around each step, not around whoever reads them
def decode_steps(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    sampling: Sampling,
    limits: Sequence[int],
    end: int,
    others: Collection[int] = (),
    unasked: Sequence[Sequence[int]] | None = None,
    writers: Sequence[Writer] | None = None,
) -> Generator[tuple[int, int], None, list[Decoded]]:
    """Do what `decode_batch` does and yield (row, id) for every id as it is drawn."""
    device = engine.device
    longest = max(limits)
    written: list[list[int]] = [[] for _ in prompts] if writers is None else [writer.ids for writer in writers]
    stopped = [False] * len(prompts)
    draws = (
        np.stack([np.random.default_rng(seed).random(longest) for seed in seeds]) if sampling.temperature > 0 else None
    )
    rows = list(range(len(prompts)))
    alive = set(rows)
    runs = [_Runs(sampling.no_repeat) for _ in prompts]
    session, logits = _begin(engine, prompts, unasked, sampling.guidance)
    for step in range(longest):
        if sampling.no_repeat:
            _ban(logits, [runs[row].banned() for row in rows])
        if writers is None:
            ids = choose(logits, sampling, None if draws is None else torch.from_numpy(draws[rows, step]).to(device))
            tokens: list[int | None] = ids.tolist()
        else:
            tokens = [None] * len(rows)
            for place, row in enumerate(rows):
                if row in alive:
                    tokens[place] = writers[row].next(
                        logits[place],
                        _draw(sampling, None if draws is None else float(draws[row, step]), (seeds[row], step)),
                        _look_ahead(engine, prompts, unasked, sampling.guidance, row, written[row]),
                    )
            ids = torch.tensor([end if token is None else token for token in tokens], device=device)
        for row, token in zip(rows, tokens, strict=True):
            if row not in alive:
                continue
            if token is None or token == end or token in others:
                stopped[row] = token is not None
                alive.discard(row)
                continue
            if writers is None:
                written[row].append(token)
            runs[row].add(written[row])
            yield row, token
            if len(written[row]) >= limits[row]:
                alive.discard(row)
        if not alive:
            break
        # what has ended still takes up places, of which a context has only so many
        full = any(row not in alive and len(prompts[row]) + step >= engine.context for row in rows)
        if full or len(alive) <= COMPACT * len(rows):
            index = torch.tensor([place for place, row in enumerate(rows) if row in alive], device=device)
            session.keep(index)
            ids, rows = ids[index], [row for row in rows if row in alive]
        logits = session.step(ids)
    return [Decoded(ids, stop) for ids, stop in zip(written, stopped, strict=True)]


def _begin(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    unasked: Sequence[Sequence[int]] | None,
    guidance: float,
) -> tuple[Session, Tensor]:
    """Start a session on the prompts, a guided one where the weight is not 1, and return it with its first logits."""
    if guidance == 1:
        return engine.start(prompts)
    assert unasked is not None
    session, logits = engine.start([*prompts, *unasked])
    return GuidedSession(session, len(prompts), guidance), guided(logits, guidance)


def _draw(sampling: Sampling, uniform: float | None, place: tuple[int, int]) -> Callable[[Tensor, int], int]:
    """Return how one row draws at one step; what is drawn again there has random numbers of its own."""

    def draw(logits: Tensor, attempt: int) -> int:
        number = uniform
        if uniform is not None and attempt:
            number = float(np.random.default_rng([*place, attempt]).random())
        numbers = None if number is None else torch.tensor([number], dtype=torch.float64, device=logits.device)
        return int(choose(logits[None], sampling, numbers))

    return draw


def _look_ahead(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    unasked: Sequence[Sequence[int]] | None,
    guidance: float,
    row: int,
    written: list[int],
) -> Callable[[list[int]], Tensor]:
    """Return what gives a row's logits after some more ids; in a session of its own, since a cache only grows."""

    def logits(ids: list[int]) -> Tensor:
        more = [*written, *ids]
        open_ = None if unasked is None else [[*unasked[row], *more]]
        return _begin(engine, [[*prompts[row], *more]], open_, guidance)[1][0]

    return logits


def choose(logits: Tensor, sampling: Sampling, uniform: Tensor | None) -> Tensor:
    """Draw one id a row from float32 ``logits`` (B, V) with the numbers ``uniform`` (B,) in [0, 1); None is greedy."""
    if uniform is None:
        return logits.argmax(-1)
    probabilities, order = torch.softmax(logits / sampling.temperature, -1).topk(min(logits.shape[-1], CANDIDATES))
    reached = probabilities.cumsum(-1)
    inside = reached - probabilities < sampling.top_p  # the most likely id always stays
    kept = torch.where(inside, probabilities, torch.zeros_like(probabilities)).double().cumsum(-1)
    place = (kept < uniform[:, None] * kept[:, -1:]).sum(-1).clamp(max=order.shape[-1] - 1)
    return order.gather(-1, place[:, None]).squeeze(-1)


class _Runs:
    """The runs of ``size`` tokens that one completion holds, so that none comes twice."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tail: tuple[int, ...] = ()
        self.next: dict[tuple[int, ...], list[int]] = {}

    def add(self, ids: list[int]) -> None:
        """Take note of the newest of ``ids``."""
        if self.size and len(ids) >= self.size:
            self.next.setdefault(self.tail, []).append(ids[-1])
        self.tail = tuple(ids[len(ids) - self.size + 1 :]) if len(ids) >= self.size - 1 else ()

    def banned(self) -> list[int]:
        """Return the tokens that would complete a run for the second time."""
        return self.next.get(self.tail, [])


def _ban(logits: Tensor, banned: Sequence[Sequence[int]]) -> None:
    rows = [row for row, ids in enumerate(banned) for _ in ids]
    if rows:
        logits[rows, [token for ids in banned for token in ids]] = float("-inf")

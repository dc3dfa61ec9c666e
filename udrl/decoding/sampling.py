"""How the next id is drawn, row by row: each row of a batch has settings and a random number of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from udrl.arguments import check_fields
from udrl.decoding.engine import Array

LengthControl = Literal["exact", "soft", "off"]

CANDIDATES = 64
"""Tokens that sampling chooses from if not told; at the temperatures of use the rest has no share worth the sorting."""
EVERY = 2**31 - 1
"""A ``top_k`` that leaves no token out."""


@dataclass(frozen=True)
class Sampling:
    """How a completion is drawn. temperature 0 is greedy; top_p keeps the smallest set of tokens of that probability.

    max_tokens: most tokens of a completion (None: as far as the context reaches). no_repeat: no run of this many
    tokens comes twice in a completion (0: no such rule), which ends loops. guidance: how far to go in what the command
    changes (`udrl.decoding.guidance`; 1: as the student was trained). top_k keeps that many of the likeliest tokens
    (0: `CANDIDATES`; `EVERY`: all that there are); min_p keeps those of at least this share of the
    likeliest one's probability. length_control: how a commanded length is kept (`udrl.decoding.governor`): "exact"
    writes the end of a completion ahead, several times, and takes the one that is as long as commanded; "soft" ends it
    at the clause behind the commanded length; "off" leaves it to the student.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int | None = None
    no_repeat: int = 0
    guidance: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    length_control: LengthControl = "off"

    def __post_init__(self) -> None:
        check_fields(self)


class Sampler:
    """Draws an id for each row of a batch, whose settings stand side by side in columns."""

    def __init__(self, samplings: Sequence[Sampling]) -> None:
        """Take the settings of the rows, in their order."""
        self.drawn = np.flatnonzero([one.temperature > 0 for one in samplings])
        """The rows that are not greedy."""
        self.every = len(self.drawn) == len(samplings)
        warm = [one for one in samplings if one.temperature > 0]
        cold = np.finfo(np.float32).tiny  # what is no number in float32 any more is as good as greedy
        self.temperature = np.array([[max(one.temperature, cold)] for one in warm], dtype=np.float32)
        self.top_p = np.array([[one.top_p] for one in warm], dtype=np.float32)
        self.top_k = np.array([[one.top_k or CANDIDATES] for one in warm])
        self.wide = any(one.top_k > CANDIDATES for one in warm)
        self.free = np.flatnonzero([one.top_k == EVERY and one.top_p == 1 and one.min_p == 0 for one in warm])
        self.min_p = np.array([[one.min_p] for one in warm], dtype=np.float32)

    def __call__(self, logits: Array, uniform: Array) -> Array:
        """Return an id a row (B,) from float32 ``logits`` (B, V) and random numbers ``uniform`` (B,) in [0, 1)."""
        if self.every:
            return self._sampled(logits, uniform)
        ids: Array = logits.argmax(-1)
        if len(self.drawn):
            ids[self.drawn] = self._sampled(logits[self.drawn], uniform[self.drawn])
        return ids

    def _sampled(self, logits: Array, uniform: Array) -> Array:
        count = min(CANDIDATES, logits.shape[1])
        order = best(logits, count)
        powers = self._powers(logits, order[:, :1])
        totals = powers.sum(-1, keepdims=True)
        ids, more = self._among(order, powers, totals, uniform, slice(None))
        if self.wide:  # nothing of what is free to come is left out, so it needs no order
            ids[self.free] = _parts(powers[self.free].cumsum(-1, dtype=np.float64), uniform[self.free])
            more[self.free] = False
        while self.wide and count < logits.shape[1] and more.any():
            left, count = np.flatnonzero(more), min(16 * count, logits.shape[1])
            order = best(logits[left], count)
            ids[left], more[left] = self._among(order, powers[left], totals[left], uniform[left], left)
        return ids

    def _powers(self, logits: Array, likeliest: Array) -> Array:
        """Return what the probabilities of all ids (B, V) are proportional to: 1 for the ``likeliest`` (B, 1)."""
        powers: Array = logits - np.take_along_axis(logits, likeliest, 1)
        with np.errstate(over="ignore"):  # at a very low temperature the others are as unlikely as can be
            powers /= self.temperature
        np.exp(powers, out=powers)
        return powers

    def _among(
        self, order: Array, powers: Array, totals: Array, uniform: Array, rows: Array | slice
    ) -> tuple[Array, Array]:
        """Return an id a row of the ids ``order`` (B, n), the likeliest ones; and whether others may be kept as well.

        rows: which rows of the batch they are.
        """
        chances = np.take_along_axis(powers, order, 1) / totals
        reached = chances.cumsum(-1, dtype=np.float64).astype(np.float32)
        top_k, ranks = self.top_k[rows], np.arange(order.shape[1])
        kept = reached - chances < self.top_p[rows]
        kept &= ranks < top_k
        kept &= chances >= self.min_p[rows] * chances[:, :1]
        kept[:, 0] = True  # the likeliest always stays
        drawn = _parts(np.where(kept, chances, 0).cumsum(-1, dtype=np.float64), uniform)
        ids: Array = order[np.arange(len(order)), drawn]
        return ids, kept[:, -1] & (top_k[:, 0] > len(ranks))


def _parts(sums: Array, uniform: Array) -> Array:
    """Return in which part of the whole, which ``sums`` (B, n) add up to, the numbers ``uniform`` (B,) fall."""
    parts: Array = np.minimum((sums < uniform[:, None] * sums[:, -1:]).sum(-1), sums.shape[1] - 1)
    return parts


def choose(logits: Array, sampling: Sampling, uniform: float) -> int:
    """Draw one id from float32 ``logits`` (V,) with the number ``uniform`` in [0, 1), which greedy ones do not need."""
    return int(Sampler([sampling])(logits[None], np.array([uniform]))[0])


def best(logits: Array, count: int) -> Array:
    """Return the ids (B, count) of the largest of ``logits`` (B, V), the largest first, equal ones by their ids."""
    largest = np.argpartition(logits, logits.shape[1] - count, -1)[:, logits.shape[1] - count :]
    largest.sort(-1)
    order = np.argsort(-np.take_along_axis(logits, largest, 1), -1, kind="stable")
    ids: Array = np.take_along_axis(largest, order, 1)
    return ids


def softmax(logits: Array) -> Array:
    """Return the probabilities (..., V) of float32 ``logits``."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    chances: Array = powers / powers.sum(-1, keepdims=True)
    return chances


class Runs:
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
        return self.next.get(self.tail, []) if self.size else []


def ban(logits: Array, banned: Sequence[Sequence[int]]) -> None:
    """Make the ids ``banned`` of each row impossible in ``logits`` (B, V)."""
    rows = [row for row, ids in enumerate(banned) for _ in ids]
    if rows:
        logits[rows, [token for ids in banned for token in ids]] = -np.inf

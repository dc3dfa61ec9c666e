"""Exact and near duplicates among inputs: MinHash signatures, banded hashing, exact Jaccard on the best candidates.

Two texts are near duplicates where they hold the same numbers and the Jaccard similarity of their character 4-grams (of
the words alone, folded) reaches the threshold: word problems that differ in a number are different problems. Banding
(Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4) finds a pair of similarity .8 with probability
.99 and one of .85 with .998; what it finds is then compared exactly, so that nothing below the threshold is ever
dropped. Texts are accepted in order: the first of several stays.

The work for a text is bounded, whatever came before. Texts made from one template share most bands: a bucket holds
_CROWD of them, and who comes later goes on to a bucket of twice as many rows, which only the more alike share. Of all
that are met, the _VERIFIED most alike by their signatures are compared. Among thousands of texts from one template a
pair of .95 is found as surely as elsewhere, a pair that just reaches the threshold may be missed.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from udrl.data.hashing import hash_int
from udrl.data.inputs import input_id, normalise
from udrl.words import folded_words, join_words

Verdict = Literal["new", "exact", "near"]
Shingles = np.ndarray[tuple[int], np.dtype[np.uint64]]

THRESHOLD = 0.8
_SHINGLE = 4
_BANDS, _ROWS, _LEVELS = 16, 6, 5
_HASHES = _BANDS * _ROWS
_CROWD = 8
_VERIFIED = 4
_BLOCK = 4096
"""Shingles that are hashed at a time: memory stays small for a text of any length."""

_RNG = np.random.default_rng(20250221)
_FACTORS = _RNG.integers(0, 2**63, size=(_HASHES, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_MIX = _RNG.integers(0, 2**63, size=_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_SALTS = _RNG.integers(0, 2**63, size=(_BANDS, _LEVELS), dtype=np.uint64)
_STARTS = np.arange(_BANDS)[:, None] * _ROWS
_ENDS = _STARTS + np.minimum(_ROWS << np.arange(_LEVELS), _HASHES)
_POWERS = np.asarray([1000003**power for power in range(_SHINGLE)], np.uint64)
_NUMBERS = re.compile(r"[-\u2212]?\d+(?:[.,:/]\d+)*(?:\s?%)?")


class Deduplicator:
    """What has been accepted so far. Needs about 3 KB for a text of 100 characters."""

    def __init__(self, *, threshold: float | None = THRESHOLD) -> None:
        """threshold: similarity from which texts are near duplicates; None: only exact ones are told."""
        self.threshold = threshold
        self._ids: set[str] = set()
        self._shingles: list[Shingles] = []
        self._minima = np.zeros((1024, _HASHES), np.uint64)
        self._buckets: dict[int, list[int]] = {}

    def add(self, text: str) -> Verdict:
        """Accept ``text`` and return ``new``, or say what it duplicates: ``exact`` (same input id) or
        ``near``."""
        identity = input_id(text)
        if identity in self._ids:
            return "exact"
        if self.threshold is None:
            self._ids.add(identity)
            return "new"
        shingles = _shingles(text)
        minima = _minima(shingles)
        met: set[int] = set()
        file_under = []
        for keys in _keys(minima, text):
            for key in keys:
                bucket = self._buckets.get(key, ())
                met.update(bucket)
                if len(bucket) < _CROWD:
                    file_under.append(key)
                    break
        if any(_jaccard(shingles, self._shingles[number]) >= self.threshold for number in self._nearest(minima, met)):
            return "near"
        self._ids.add(identity)
        for key in file_under:
            self._buckets.setdefault(key, []).append(len(self._shingles))
        if len(self._shingles) == len(self._minima):
            self._minima = np.concatenate([self._minima, np.zeros_like(self._minima)])
        self._minima[len(self._shingles)] = minima
        self._shingles.append(shingles)
        return "new"

    def _nearest(self, minima: Shingles, met: set[int]) -> list[int]:
        """Return those of the texts ``met`` whose signatures agree most with ``minima``, _VERIFIED at most."""
        numbers = sorted(met)
        if len(numbers) <= _VERIFIED:
            return numbers
        agreeing = (self._minima[numbers] == minima).sum(axis=1)
        return [numbers[index] for index in np.argsort(-agreeing, kind="stable")[:_VERIFIED]]


def _shingles(text: str) -> Shingles:
    """Return the sorted distinct hashes of the text's character 4-grams."""
    folded = join_words(folded_words(text)) or normalise(text)
    codes = np.frombuffer(f" {folded} ".ljust(_SHINGLE).encode("utf-32-le", "surrogatepass"), np.uint32)
    count = len(codes) - _SHINGLE + 1
    hashes = sum(codes[start : start + count].astype(np.uint64) * power for start, power in enumerate(_POWERS))
    return np.unique(np.asarray(hashes, np.uint64))


def _minima(shingles: Shingles) -> Shingles:
    """Return the least value of each hash function over the shingles: the text's signature."""
    # Multiplication by an odd number permutes the integers of 64 bits; the high bits of the product are well
    # mixed.
    blocks = range(0, len(shingles), _BLOCK)
    least = [(shingles[start : start + _BLOCK] * _FACTORS >> np.uint64(20)).min(axis=1) for start in blocks]
    minima: Shingles = np.minimum.reduce(least)
    return minima


def _keys(minima: Shingles, text: str) -> list[list[int]]:
    """Return for each band the keys of its buckets, from _ROWS rows to all: two texts share one where their minima of
    these rows and their numbers are the same."""
    mixed = minima * _MIX
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(np.concatenate([mixed, mixed]), dtype=np.uint64)])
    numbers = np.uint64(hash_int(*_NUMBERS.findall(text)))
    keys: list[list[int]] = ((sums[_ENDS] - sums[_STARTS]) ^ _SALTS ^ numbers).tolist()
    return keys


def _jaccard(a: Shingles, b: Shingles) -> float:
    common = int((b[np.minimum(np.searchsorted(b, a), len(b) - 1)] == a).sum())
    return common / (len(a) + len(b) - common)

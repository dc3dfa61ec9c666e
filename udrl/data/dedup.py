"""Exact and near duplicates among inputs: MinHash signatures, banded hashing, exact Jaccard on the
candidates.

Two texts are near duplicates where the Jaccard similarity of their character 4-grams (of the words alone,
folded) reaches the threshold. Banding (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4)
finds a pair of similarity .8 with probability .99 and one of .85 with .998; what it finds is then compared
exactly, so that nothing below the threshold is ever dropped. Texts are accepted in order: the first of
several stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from udrl.data.inputs import input_id, normalise
from udrl.words import folded_words

Verdict = Literal["new", "exact", "near"]
Shingles = np.ndarray[tuple[int], np.dtype[np.uint64]]

THRESHOLD = 0.8
_SHINGLE = 4
_BANDS, _ROWS = 16, 6
_RNG = np.random.default_rng(20250221)
_FACTORS = _RNG.integers(0, 2**63, size=(_BANDS * _ROWS, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_MIX = _RNG.integers(0, 2**63, size=(1, _ROWS), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_POWERS = np.asarray([[1000003**power] for power in range(_SHINGLE)], np.uint64)


@dataclass(frozen=True)
class Deduplicated:
    """kept: positions of the texts that stay, in order; exact, near: how many were dropped, and as what."""

    kept: list[int] = field(default_factory=list)
    exact: int = 0
    near: int = 0


class Deduplicator:
    """What has been accepted so far. Needs about 3 KB for a text of 100 characters."""

    def __init__(self, *, threshold: float | None = THRESHOLD) -> None:
        """threshold: similarity from which texts are near duplicates; None: only exact ones are told."""
        self.threshold = threshold
        self._ids: set[str] = set()
        self._shingles: list[Shingles] = []
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
        bands = _bands(shingles)
        candidates = {number for band in bands for number in self._buckets.get(band, ())}
        if any(_jaccard(shingles, self._shingles[number]) >= self.threshold for number in candidates):
            return "near"
        self._ids.add(identity)
        for band in bands:
            self._buckets.setdefault(band, []).append(len(self._shingles))
        self._shingles.append(shingles)
        return "new"


def deduplicate(texts: Iterable[str], *, threshold: float = THRESHOLD) -> Deduplicated:
    """Return which of ``texts`` stay when exact and near duplicates of earlier ones go.

    threshold: Jaccard similarity from which two texts are near duplicates; in [0.75, 1], since the banding
    misses many pairs below.
    """
    seen = Deduplicator(threshold=threshold)
    verdicts = [seen.add(text) for text in texts]
    kept = [position for position, verdict in enumerate(verdicts) if verdict == "new"]
    return Deduplicated(kept, verdicts.count("exact"), verdicts.count("near"))


def _shingles(text: str) -> Shingles:
    """Return the sorted distinct hashes of the text's character 4-grams."""
    folded = " ".join(folded_words(text)) or normalise(text)
    codes = np.frombuffer(f" {folded} ".ljust(_SHINGLE).encode("utf-32-le", "surrogatepass"), np.uint32)
    windows = np.lib.stride_tricks.sliding_window_view(codes.astype(np.uint64), len(codes) - _SHINGLE + 1)
    return np.unique((windows * _POWERS).sum(axis=0, dtype=np.uint64))


def _bands(shingles: Shingles) -> list[int]:
    """Return one integer per band, equal for two texts where all minima of the band are."""
    # Multiplication by an odd number permutes the integers of 64 bits; the high bits of the product are well
    # mixed.
    minima = (shingles * _FACTORS >> np.uint64(20)).min(axis=1).reshape(_BANDS, _ROWS)
    mixed = (minima * _MIX).sum(axis=1, dtype=np.uint64)
    return [(int(value) << 4) | band for band, value in enumerate(mixed.tolist())]


def _jaccard(a: Shingles, b: Shingles) -> float:
    common = len(a) + len(b) - len(np.union1d(a, b))
    return common / (len(a) + len(b) - common)

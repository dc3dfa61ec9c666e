"""Deduplication of texts that are all there, as the tests look at it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from udrl.data.dedup import THRESHOLD, Deduplicator


@dataclass(frozen=True)
class Deduplicated:
    """kept: positions of the texts that stay, in order; exact, near: how many were dropped, and as what."""

    kept: list[int]
    exact: int
    near: int


def deduplicate(texts: Iterable[str], *, threshold: float = THRESHOLD) -> Deduplicated:
    """Return which of ``texts`` stay when exact and near duplicates of earlier ones go."""
    seen = Deduplicator(threshold=threshold)
    found = [seen.add(text) for text in texts]
    kept = [position for position, one in enumerate(found) if one == "new"]
    return Deduplicated(kept, found.count("exact"), found.count("near"))

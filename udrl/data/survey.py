"""What a ledger holds, in one pass and little memory: which keys, and what each teacher's responses cost."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from udrl.data.hashing import hash_int
from udrl.data.ledger import Ledger


class KeySet:
    """A set of keys in eight bytes each: a million of them are eight megabytes, and never a text.

    Two of a million keys share their eight bytes with a probability of 3e-8; one of them would then not be asked for.
    """

    def __init__(self, hashes: Sequence[int] = ()) -> None:
        """hashes: ``hash_int`` of each key; ``KeySet.of`` takes the keys themselves."""
        self._hashes = np.unique(np.asarray(hashes, np.uint64))

    @staticmethod
    def of(keys: Iterable[str]) -> KeySet:
        """Return the set of ``keys``."""
        return KeySet(array("Q", map(hash_int, keys)))

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, key: str) -> bool:
        wanted = np.uint64(hash_int(key))
        index = int(self._hashes.searchsorted(wanted))
        return index < len(self._hashes) and bool(self._hashes[index] == wanted)

    def __sub__(self, other: KeySet) -> KeySet:
        left = KeySet()
        left._hashes = np.setdiff1d(self._hashes, other._hashes, assume_unique=True)
        return left


@dataclass
class Usage:
    """What responses of one teacher to one task took. counted: how many of the good ones came with token counts."""

    good: int = 0
    failed: int = 0
    counted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, *, ok: bool, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Count one response."""
        self.good += ok
        self.failed += not ok
        self.counted += ok and prompt_tokens is not None and completion_tokens is not None
        self.prompt_tokens += prompt_tokens or 0
        self.completion_tokens += completion_tokens or 0


@dataclass(frozen=True)
class Survey:
    """What a ledger holds. good: keys with a completion; failed: keys that failed and were never good.

    usage: by teacher and task, over all lines.
    """

    good: KeySet = field(default_factory=KeySet)
    failed: KeySet = field(default_factory=KeySet)
    usage: Mapping[tuple[str, str], Usage] = field(default_factory=dict)

    @property
    def responses(self) -> int:
        """How many keys there are."""
        return len(self.good) + len(self.failed)


def survey(ledger: Ledger) -> Survey:
    """Read all of ``ledger`` once. Memory: about 20 bytes a response. Raises as ``Ledger.rows`` does."""
    good, failed = array("Q"), array("Q")
    usage: dict[tuple[str, str], Usage] = {}
    for _, row in ledger.rows():
        ok = row.get("status") == "ok"
        (good if ok else failed).append(hash_int(row.get("key")))
        usage.setdefault((str(row.get("teacher")), str(row.get("task"))), Usage()).add(
            ok=ok, prompt_tokens=row.get("prompt_tokens"), completion_tokens=row.get("completion_tokens")
        )
    return Survey(KeySet(good), KeySet(failed) - KeySet(good), usage)

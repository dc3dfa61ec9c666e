"""An index of the ledger's good responses: who belongs to which input, and where it stands, without any text.

About 40 bytes a response, so that a million of them can be put in order, grouped and paired in little memory.
The order depends on what was written, never on when: an interrupted synthesis gives the same episodes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from udrl.data.hashing import hash_int
from udrl.data.inputs import split_of
from udrl.data.ledger import Ledger, LineSpan


class LedgerIndex:
    """Rows, one per good response, sorted by task name, input id and sample; a key that stands twice counts
    once."""

    def __init__(self, ledger: Ledger) -> None:
        names: dict[str, int] = {}
        task, shard, sample = array("i"), array("i"), array("i")
        input_id, key = array("Q"), array("Q")
        offset, length = array("q"), array("q")
        for span, row in ledger.rows():
            if row["status"] != "ok":
                continue
            task.append(names.setdefault(row["task"], len(names)))
            input_id.append(int(row["input_id"], 16))
            sample.append(row["sample"])
            key.append(hash_int(row["key"]))
            shard.append(span.shard)
            offset.append(span.offset)
            length.append(span.length)
        self.tasks = tuple(sorted(names))
        rank = np.argsort(np.argsort(list(names))) if names else np.zeros(0, np.int64)
        ranks = rank[np.asarray(task, np.int64)]
        keys = (offset, shard, key, sample, input_id, ranks)  # the last one sorts first
        order = np.lexsort([np.asarray(column) for column in keys])
        self._key = np.asarray(key)[order]
        first = np.ones(len(order), bool)
        first[1:] = self._key[1:] != self._key[:-1]
        order, self._key = order[first], self._key[first]
        self.task = ranks[order]
        self.input_id = np.asarray(input_id)[order]
        self._spans = tuple(np.asarray(column)[order] for column in (shard, offset, length))
        self._pools: dict[tuple[int, str], np.ndarray[tuple[int], np.dtype[np.int64]]] = {}

    def __len__(self) -> int:
        return len(self.task)

    def span(self, row: int) -> LineSpan:
        """Return where the response of ``row`` stands in the ledger."""
        return LineSpan(*(int(column[row]) for column in self._spans))

    def groups(self) -> Iterator[range]:
        """Yield the rows of each input of each task."""
        changes = (self.task[1:] != self.task[:-1]) | (self.input_id[1:] != self.input_id[:-1])
        borders = [0, *(np.flatnonzero(changes) + 1).tolist(), len(self)]
        for start, end in pairwise(borders):
            if end > start:
                yield range(start, end)

    def draw(self, row: int, *choice: object) -> int:
        """Return a row of the same task and split, decided by ``choice`` alone; it may be of the same input.

        Of the same split, so that a completion written for a test input never reaches training.
        """
        split = split_of(f"{int(self.input_id[row]):016x}")
        pool = self._pool(int(self.task[row]), split)
        return int(pool[hash_int(*choice) % len(pool)])

    def _pool(self, task: int, split: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if (task, split) not in self._pools:
            rows = np.flatnonzero(self.task == task)
            inputs, inverse = np.unique(self.input_id[rows], return_inverse=True)
            splits = np.asarray([split_of(f"{int(value):016x}") for value in inputs])
            for name in np.unique(splits).tolist():
                self._pools[task, name] = rows[(splits == name)[inverse]]
        return self._pools[task, split]

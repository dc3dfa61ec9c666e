"""``blind.html``: two completions of one input beside each other, without the names of who wrote them.

It works offline with the keyboard (1, 2, 0), keeps what was judged in the browser, and exports the votes as a file.
Neither the page nor its source says which system wrote what.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from udrl.data.hashing import hash_hex
from udrl.eval.pages.environment import write_page
from udrl.eval.votes import SCHEMA, BlindPair


def blind_page(path: Path, pairs: Sequence[BlindPair], *, benchmark: str, seed: int) -> Path:
    """Write the page with ``pairs`` as they are to be shown, and return its path."""
    told = [
        {"key": pair.key, "task": pair.task, "input": pair.input, "first": pair.texts[0], "second": pair.texts[1]}
        for pair in pairs
    ]
    data = {
        "id": hash_hex(benchmark, seed, *(pair.key for pair in pairs)),
        "about": {"schema": SCHEMA, "benchmark": benchmark, "seed": seed},
        "pairs": told,
    }
    return write_page(path, "blind.html", benchmark=benchmark, nav={}, data=data, count=f"{len(pairs):,}")

"""The benchmark at scale: our own time for many systems with long answers, beyond what encoders take.

    python benchmarks/bench_scale.py [--systems 20] [--inputs 805] [--words 200] [--references 3] [--folder FOLDER]

Writes a file of made-up outputs (real encoders would need half an hour for them) and runs ``udrl bench --recorded`` on
it with encoders whose vectors are random, but the same for the same text, and near to those of texts that share words.
Prints the seconds of every part: scores (copy rate, novelty, lengths, agreement), figures with their intervals and the
parity of all pairs, the report, files. Target: under 240 seconds in all for 20 systems and 805 inputs.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udrl.eval import bench as benchmark
from udrl.eval import measurement

WORDS = 20_000
DIMENSIONS = 384


class StoredVectors:
    """Stands in for an encoder: a text's vector is the mean of its words', drawn from a fixed seed."""

    revision, precision, truncated = "made-up", "fp32", 0

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._table = np.random.default_rng(seed).normal(size=(4096, DIMENSIONS)).astype(np.float32)
        self._row = functools.lru_cache(maxsize=None)(self._place)
        self.seconds = 0.0

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit rows (n, 384); the time is counted apart."""
        started = time.perf_counter()
        rows = np.stack([self._table[[self._row(word) for word in text.split()]].mean(axis=0) for text in texts])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        self.seconds += time.perf_counter() - started
        return rows

    def is_truncated(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """None of them."""
        return np.zeros(len(texts), dtype=bool)

    def is_unknown(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """None of them."""
        return np.zeros(len(texts), dtype=bool)

    def _place(self, word: str) -> int:
        return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") % len(self._table)


def write_outputs(path: Path, *, systems: int, inputs: int, words: int) -> None:
    """Write answers that share more words with their input the higher the number of the system is."""
    rng = random.Random(0)
    vocabulary = [f"w{number}" for number in range(WORDS)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(inputs):
            asked = rng.choices(vocabulary, k=30)
            for system in range(systems):
                share = 0.1 + 0.5 * system / systems
                text = [rng.choice(asked if rng.random() < share else vocabulary) for _ in range(words)]
                row = {"input": " ".join(asked), "output": " ".join(text), "model": f"system-{system}"}
                file.write(json.dumps(row) + "\n")


def timed(seconds: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with its time added to ``seconds[name]``."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - started  # type: ignore[assignment]

    return call


def main() -> None:
    """Measure once and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("systems", 20), ("inputs", 805), ("words", 200), ("references", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "outputs.jsonl"
        write_outputs(file, systems=options.systems, inputs=options.inputs, words=options.words)
        encoders = [StoredVectors("stored", 1), StoredVectors("stored-2", 2)]
        measurement.load_encoder = lambda name, **_: encoders[name == "stored-2"]  # type: ignore[assignment,return-value]
        seconds: Counter[str] = Counter()
        for module, name in ((measurement, "score"), (measurement, "build_summary"), (benchmark, "report")):
            setattr(module, name, timed(seconds, name, getattr(module, name)))
        started = time.perf_counter()
        found = benchmark.bench(
            folder / "run",
            recorded=[file],
            reference=[f"system-{number}" for number in range(options.references)],
            encoder="stored",
            second_encoder="stored-2",
        )
        total = time.perf_counter() - started
        encoding = sum(encoder.seconds for encoder in encoders)
        pairs = sum(len(entry) for entry in found.summary["parity"].values())
        page = found.report.stat().st_size / 1e6
    print(f"{found.written:,} texts of {options.words} words, {pairs} pairs, a report of {page:.1f} MB")
    parts = {"scores": seconds["score"] - encoding, "figures, intervals, parity": seconds["build_summary"]}
    parts |= {"report": seconds["report"], "files and the rest": total - sum(seconds.values())}
    for name, value in parts.items():
        print(f"{name:<28} {value:7.1f} s")
    print(f"{'all beyond encoding':<28} {total - encoding:7.1f} s (target: under 240 s for 20 x 805)")


if __name__ == "__main__":
    main()

"""How fast are texts encoded, and how far do the vectors drift from sentence-transformers in float32?

    python benchmarks/encode.py [--texts 400] [--rounds 5] [--few 8] [--threads N]

Distinct inputs that ship (data/seeds, eval/inputs), drawn by a fixed seed. Each round encodes all of them once with
every way, one after another, so that what disturbs the machine disturbs all alike; then ``--few`` of them alone, as
best-of-N scores its candidates. One line a way: texts a second (median), the ratio to sentence-transformers (median of
the rounds, lowest and highest), the median time of the few, cosine drift (mean, largest), and near-duplicates: how
many pairs stand on the other side of the threshold of udrl.data.decontamination. The pairs are each text and itself
with one or more words left out, so that many stand near the threshold; and all pairs of different texts. bf16 is shown
where the processor has to emulate it too: for its drift.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from udrl import resources
from udrl.data.decontamination import SIMILAR
from udrl.data.inputs import read_inputs
from udrl.encoder.loading import MINILM, ONNX, choose_arithmetic, find, open_model
from udrl.hardware import describe_in_line

REFERENCE = "sentence-transformers fp32"

Encode = Callable[[Sequence[str]], np.ndarray]


def main() -> None:
    """Measure and print one line a way of encoding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--threads", type=int, help="default: torch's, which follows OMP_NUM_THREADS")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    texts = shipped_texts(options.texts)
    ways = open_ways()
    chosen = choose_arithmetic("auto", "cpu", find(MINILM))
    print(f"{describe_in_line()}; {torch.get_num_threads()} threads; {len(texts)} texts, auto is {chosen}")
    for encode in ways.values():
        encode(texts[: options.few])
    seconds, few = measure(ways, texts, rounds=options.rounds, few=options.few)
    variants = [shortened(text, number) for number, text in enumerate(texts)]
    vectors = {name: (encode(texts), encode(variants)) for name, encode in ways.items()}
    for name in ways:
        rates = [len(texts) / taken for taken in seconds[name]]
        ratios = [base / taken for base, taken in zip(seconds[REFERENCE], seconds[name], strict=True)]
        mean, largest = drift(vectors[REFERENCE], vectors[name])
        moved, near = changed_sides(vectors[REFERENCE], vectors[name])
        print(
            f"{name:27} {statistics.median(rates):6.0f} texts/s, x {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}); {len(texts[: options.few])} texts "
            f"{1000 * statistics.median(few[name]):5.1f} ms; drift {mean:.1e}, at most {largest:.1e}; "
            f"{moved} pairs change sides of {SIMILAR}, {near} are near-duplicates"
        )


def shipped_texts(count: int) -> list[str]:
    """Return ``count`` distinct inputs that ship with udrl, or all where there are fewer."""
    files = [*sorted((resources.folder("data") / "seeds").glob("*.jsonl"))]
    files += sorted((resources.folder("eval") / "inputs").glob("*.jsonl"))
    every = list(dict.fromkeys(text for file in files for text in read_inputs(file)))
    return random.Random(0).sample(every, min(count, len(every)))


def open_ways() -> dict[str, Encode]:
    """Return what encodes, by name; the reference first."""
    from sentence_transformers import SentenceTransformer

    folder = find(MINILM)
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    ways: dict[str, Encode] = {
        REFERENCE: lambda texts: reference.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    }
    for precision in ("fp32", ONNX, "bf16"):
        model = open_model(folder, precision=precision, device="cpu")
        ways[f"udrl {precision}"] = lambda texts, model=model: model(texts)[0]
    return ways


def measure(
    ways: dict[str, Encode], texts: Sequence[str], *, rounds: int, few: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds for all texts and for the few, by way and round; the order of the ways turns every round."""
    whole: dict[str, list[float]] = {name: [] for name in ways}
    part: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = [*ways][number % len(ways) :] + [*ways][: number % len(ways)]
        for into, asked in ((whole, texts), (part, texts[number : number + few])):
            for name in names:
                started = time.perf_counter()
                ways[name](asked)
                into[name].append(time.perf_counter() - started)
    return whole, part


def shortened(text: str, number: int) -> str:
    """Return ``text`` without one to three of its words, the same ones each time."""
    words = text.split()
    rng = random.Random(number)
    dropped = set(rng.sample(range(len(words)), min(1 + number % 3, len(words) - 1)))
    return " ".join(word for place, word in enumerate(words) if place not in dropped)


def drift(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Return the mean and the largest of 1 - cosine between the two vectors of each text, in double precision."""
    cosines = [
        np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64)) for a, b in zip(one, other, strict=True)
    ]
    found = np.maximum(1 - np.concatenate(cosines), 0)
    return float(found.mean()), float(found.max())


def changed_sides(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
    """Return how many pairs are near-duplicates by one way and not by the other, and how many by the first."""
    moved = near = 0
    upper = np.triu_indices(len(one[0]), 1)
    for pairs in (lambda v: np.einsum("nd,nd->n", *v), lambda v: (v[0] @ v[0].T)[upper]):
        ours, theirs = pairs(one) >= SIMILAR, pairs(other) >= SIMILAR
        moved += int((ours != theirs).sum())
        near += int(ours.sum())
    return moved, near


if __name__ == "__main__":
    main()

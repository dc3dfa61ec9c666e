"""What does a fifth of the data reach? All episodes, a chosen share, a random one, and the least typical one.

    python benchmarks/selection.py [KIND ...] [--run runs/demo] [--out FOLDER] [--share 0.2] [--steps 450] [--seeds 0 1]

Each kind of selection (`udrl select`) trains ``gpt2-mini`` from scratch for the same steps, so that a smaller share is
seen more often. The students are swept over the same validation inputs with the same commands: the nine deciles of
relevance, then of length, among *all* training episodes, the other attribute open, uncalibrated, with the sampling that
ships. A paragraph a kind: validation loss, within-input Spearman of both, and the mean relevance under the highest
command, each with its difference to ``random``; figures are means over seeds and inputs, with 95 % intervals over both,
and differences are paired. A random share is drawn anew for each seed; the probe is trained once.

    all           every episode                     random        the share at random, bin by bin of return
    limr          LIMR's best share, bin by bin     inverse       its worst share, bin by bin
    limr-flat     LIMR's best share, without bins   random-flat   the share at random, without bins
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ablation import sweep, validation_inputs

from udrl.commands import LENGTH
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.metrics import spearman_within
from udrl.student import load
from udrl.study.figures import crossed_interval, shown
from udrl.training.examples import achieved
from udrl.training.selection.select import BINS, select
from udrl.training.train import train

KINDS = ("random", "limr", "inverse", "all", "limr-flat", "random-flat")
ATTRIBUTES = ("relevance", LENGTH)
Floats = npt.NDArray[np.float64]
Levels = dict[str, dict[str, list[float]]]


def folder_of(run: Path, folder: Path) -> Path:
    """Make ``folder`` a run with the facts and the episodes of ``run``, which stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "run.json").exists():
        shutil.copy(run / "run.json", folder)
        (folder / "episodes").symlink_to((run / "episodes").resolve(), target_is_directory=True)
    return folder


def chosen(base: Path, kind: str, seed: int, given: argparse.Namespace) -> str | None:
    """Make the selection of that kind in ``base`` and return its name; None: all episodes."""
    if kind == "all":
        return None
    by, _, flat = kind.partition("-")
    probe = {"probe_steps": given.probe_steps, "moments": given.moments, "student": given.student}
    drawn = seed if by == "random" else 0
    name = f"{kind}-{given.share:g}-{drawn}"
    report = select(base, share=given.share, by=by, name=name, bins=1 if flat else BINS, seed=drawn, **probe)  # type: ignore[arg-type]
    spread = {a: np.mean([t.spread[a] for t in report.tasks.values() if a in t.spread]) for a in ATTRIBUTES}
    shown = ", ".join(f"{a} {ratio:.2f}" for a, ratio in spread.items())
    print(
        f"  {name}: {report.kept} of {report.episodes} episodes, spread {shown}, probe {report.seconds:.0f} s",
        flush=True,
    )
    return name


def trained(run: Path, base: Path, kind: str, seed: int, given: argparse.Namespace) -> tuple[Path, float]:
    """Train on the selection of that kind, once; return the run and its validation loss."""
    folder = folder_of(run, given.out / f"{kind}-{given.share:g}-{given.steps}-{seed}")
    name = chosen(base, kind, seed, given)
    if not (folder / "student").is_dir():
        if name is not None and not (folder / "selections").exists():
            (folder / "selections").symlink_to((base / "selections").resolve(), target_is_directory=True)
        train(folder, student=given.student, init="random", selection=name, steps=given.steps, seed=seed,
              calibration_inputs=0, signs_inputs=0)  # fmt: skip
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text())["stages"]["train"]
    return folder, float(facts["validation_loss"])


def deciles(run: Path) -> Levels:
    """Return the nine deciles of each attribute among all training episodes, by attribute and task."""
    values: dict[str, dict[str, list[float]]] = {a: defaultdict(list) for a in ATTRIBUTES}
    for episode in read_episodes(Run(run).episodes):
        for attribute in ATTRIBUTES:
            if (value := achieved(episode)[attribute]) is not None:
                values[attribute][episode.task].append(value)
    return {
        attribute: {task: np.quantile(v, np.arange(1, 10) / 10).tolist() for task, v in of_task.items()}
        for attribute, of_task in values.items()
    }


def measured(folder: Path, inputs: Mapping[str, list[str]], levels: Levels, samples: int) -> dict[str, Floats]:
    """Return one value an input of each figure."""
    student, found = load(folder), {}
    for attribute in ATTRIBUTES:
        swept = sweep(student, inputs, attribute, calibrated=False, samples=samples, levels=levels[attribute])
        rows = zip(swept["commanded"], swept["achieved"], strict=True)
        found[f"Spearman of {attribute}"] = np.array([spearman_within(c, a) for c, a in rows])
        if attribute == "relevance":
            found["relevance at the highest command"] = swept["achieved"][:, -samples:].mean(1)
    return found


def main() -> None:
    """Select, train and sweep; print a paragraph a kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="default: random limr inverse all")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, help="default: RUN/select")
    parser.add_argument("--student", default="gpt2-mini")
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--probe-steps", type=int, default=300)
    parser.add_argument("--moments", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--inputs", type=int, default=10, help="a task")
    parser.add_argument("--samples", type=int, default=2)
    given = parser.parse_args()
    if strange := sorted(set(given.kinds) - set(KINDS)):
        parser.error(f"unknown kinds {', '.join(strange)}; known: {', '.join(KINDS)}")
    if not (given.run / "episodes").is_dir():
        print(f"there are no episodes at {given.run}: make some with udrl demo, or name another run with --run")
        return
    given.out = given.out or given.run / "select"
    base, levels = folder_of(given.run, given.out / "base"), deciles(given.run)
    inputs = {task: texts[: given.inputs] for task, texts in validation_inputs(given.run).items()}
    compared: dict[str, Floats] = {}
    for kind in dict.fromkeys(["random", *(given.kinds or KINDS[:4])]):
        runs = [trained(given.run, base, kind, seed, given) for seed in given.seeds]
        losses = np.array([loss for _, loss in runs])
        before = compared.setdefault("loss", losses)
        of_seeds = [measured(folder, inputs, levels, given.samples) for folder, _ in runs]
        print(f"{kind}: validation loss {losses.mean():.4f} ({', '.join(f'{v:.4f}' for v in losses)}), "
              f"{(losses - before).mean():+.4f} ({', '.join(f'{v:+.4f}' for v in losses - before)})")  # fmt: skip
        for name in of_seeds[0]:
            each = np.array([found[name] for found in of_seeds])
            gain = crossed_interval(each - compared.setdefault(name, each))
            print(f"  {name:33} {shown(crossed_interval(each))}, {shown(gain, signed=True)}", flush=True)


if __name__ == "__main__":
    main()

"""Do rounds of improvement help, and what happens without the diversity floor?

    python benchmarks/improve.py [--run runs/demo] [--rounds 3] [--arm floor] [--num-inputs 200] [--samples 4]
                                 [--steps N] [--epochs 3] [--learning-rate X] [--temperature 0.8] [--original 0.4]
                                 [--random 0.2] [--best-bin 0.1] [--keep-bins] [--validation-inputs 40]
                                 [--sweep-inputs 16] [--calibration-inputs 16] [--seed 0]

Two arms, each in a copy of the run (RUN/improve/ARM-SEED; its episodes are linked, the run itself stays as it is):

    floor      as `udrl improve` does it: completions that are repetitive or duplicates are rejected, and the rounds end
               where diversity falls below 0.95 of round 0's
    no-floor   nothing guards diversity

In both, a round that is no better does not end them, so that all rounds can be compared. One line a round: the return
of student@top and student@matched, diversity within tasks and within inputs, copy rate, length, and within-input
Spearman by attribute, each with its 95 % interval (bootstrap over inputs), and below it the paired gain over round 0
with its own. All on validation inputs. A call that is repeated continues, and prints what is there.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from udrl.cli.common import table
from udrl.rounds.history import Round
from udrl.rounds.improve import ImproveReport, improve
from udrl.rounds.options import RoundOptions
from udrl.study.folders import BESIDE

ARMS = {"floor": 0.95, "no-floor": 0.0}
FIGURES = ("top", "matched", "distinct_2", "pairwise_distance", "distinct_2/within", "pairwise_distance/within",
           "copy_rate", "novelty", "length", "matched_length")  # fmt: skip


def copied(run: Path, folder: Path) -> Path:
    """Return ``folder`` as a run with the student, the episodes and the tasks of ``run``."""
    if not (folder / "run.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "student").is_dir():
            shutil.copytree(run / "student", folder / ".student.partial", dirs_exist_ok=True)
            (folder / ".student.partial").rename(folder / "student")
        for name in ("episodes", *BESIDE):
            if (run / name).exists() and not (folder / name).exists():
                (folder / name).symlink_to((run / name).resolve())
        shutil.copy(run / "run.json", folder)
    return folder


def lines(arm: str, report: ImproveReport) -> Iterator[list[str]]:
    """Yield the rows of the table for one arm: two a round, the figures and their gains over round 0."""
    for one in report.rounds:
        names = _names(one)
        yield [arm, str(one.round), *(_figure(one.figures[name], "") for name in names), f"{one.diversity:.3f}",
               f"{one.added}/{one.explored}", one.verdict]  # fmt: skip
        if one.parent is not None:
            yield ["", "gain", *(_figure(one.gain[name], "+") for name in names), "", "", ""]


def _names(one: Round) -> list[str]:
    return [*FIGURES, *sorted(name for name in one.figures if name.startswith("spearman/"))]


def _figure(values: tuple[float, float, float], sign: str) -> str:
    mean, low, high = (format(value, f"{sign}.3f") for value in values)
    return f"{mean} [{low}, {high}]"


def main() -> None:
    """Run the arms that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, action="append")
    parser.add_argument("--num-inputs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--original", type=float, default=0.4)
    parser.add_argument("--random", type=float, default=0.2)
    parser.add_argument("--best-bin", type=float, default=0.1)
    parser.add_argument("--validation-inputs", type=int, default=40)
    parser.add_argument("--sweep-inputs", type=int, default=16)
    parser.add_argument("--calibration-inputs", type=int, default=16)
    parser.add_argument("--keep-bins", action="store_true", help="do not fit the bins anew in each round")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if not (asked.run / "student").is_dir():
        print(f"there is no student at {asked.run}: make one with udrl demo, or name another run with --run")
        return
    rows: list[list[str]] = []
    stopped = []
    rejected = []
    for arm in asked.arm or ARMS:
        options = RoundOptions(
            num_inputs=asked.num_inputs,
            samples=asked.samples,
            steps=asked.steps,
            epochs=asked.epochs,
            learning_rate=asked.learning_rate,
            temperature=asked.temperature,
            original=asked.original,
            random=asked.random,
            best_bin=asked.best_bin,
            validation_inputs=asked.validation_inputs,
            sweep_inputs=asked.sweep_inputs,
            calibration_inputs=asked.calibration_inputs,
            diversity_floor=ARMS[arm],
            patience=asked.rounds,
            refit=not asked.keep_bins,
            seed=asked.seed,
        )
        report = improve(
            copied(asked.run, asked.run / "improve" / f"{arm}-{asked.seed}"), rounds=asked.rounds, options=options
        )
        if not rows:
            rows.append(["arm", "round", *_names(report.rounds[0]), "diversity", "new", "verdict"])
        rows += lines(arm, report)
        rejected += [f"{arm}, round {one.round}: {dict(one.rejected)}, seconds {dict(one.seconds)}"
                     for one in report.rounds]  # fmt: skip
        stopped.append(f"{arm}: kept round {report.kept}; {report.stopped or 'all rounds made'}")
    print(table(rows))
    print("\n".join([*rejected, *stopped]))


if __name__ == "__main__":
    main()

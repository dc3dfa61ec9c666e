"""What does each part of the command interface do? Students that differ in one part, on the same episodes.

    python benchmarks/ablation.py [VARIANT ...] [--run runs/demo] [--student gpt2-1m] [--steps 1500] [--inputs 10]
        [--samples 2]

Each variant trains the student from scratch on the run's training episodes and is swept over validation inputs: the
nine training deciles of relevance, then of length, the other attribute open, with the sampling that ships. One line a
variant and attribute: within-input Spearman with its 95 % interval over inputs, the difference to ``base`` paired by
input, the mean at the lowest and the highest level, and the mean distance of single completions from what was
commanded. Commands are positions, not calibrated targets, but for ``calibrated`` and ``guidance``.

    base         what ships: 10 bins, command dropout, command after the input, interpolated levels
    bins-5       5 bins                              bins-20   20 bins
    no-dropout   commands are always complete in training
    dropout-3    an attribute, or all of the command, is left open in 3 % of the steps instead of 10 %
    dropout-30   an attribute is left open in 30 %
    command-first  the command before the input
    no-interpolation  every value stands at its bin's middle, in training and in use
    curriculum   the first 30 % of the steps on the upper half of relevance alone
    balance      every bin equally often
    calibrated   base, asked through its calibration (fitted on other validation inputs)
    guidance     base with guidance of 1.5, calibrated with it
"""

from __future__ import annotations

import argparse
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from udrl.commands import LENGTH, Command, CommandSpace, Scale
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.metrics import mean_interval, spearman_within
from udrl.rewards.relevance import Relevance
from udrl.student import load
from udrl.student.student import Student
from udrl.training.sweep import calibrate
from udrl.training.train import train
from udrl.words import count_words

CALIBRATION_INPUTS = 8
"""Validation inputs a task that the calibrated variants are fitted on; the sweep uses those after them."""
Swept = dict[str, npt.NDArray[np.float64]]
Patch = Callable[[], Any]


def _bins(count: int) -> Patch:
    fit = CommandSpace.fit
    return lambda: patch.object(CommandSpace, "fit", staticmethod(lambda *a, **k: fit(*a, **{**k, "bins": count})))


def _command_first() -> Any:
    return patch.object(CommandSpace, "prompt", lambda self, input_ids, control_ids: [*control_ids, *input_ids])


def _rounded() -> Any:
    position = Scale.position
    return patch.object(Scale, "position", lambda self, value: float(round(position(self, value))))


@dataclass(frozen=True)
class Variant:
    """One student: options of its training, what is replaced in udrl meanwhile, and how it is asked."""

    options: Mapping[str, Any] = field(default_factory=dict)
    replaced: tuple[Patch, ...] = ()
    trained_as: str | None = None
    calibrated: bool = False
    guidance: float = 1.0

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Replace what the variant replaces."""
        with ExitStack() as stack:
            for make in self.replaced:
                stack.enter_context(make())
            yield


VARIANTS = {
    "base": Variant(),
    "bins-5": Variant(replaced=(_bins(5),)),
    "bins-20": Variant(replaced=(_bins(20),)),
    "no-dropout": Variant({"open_each": 0.0, "open_all": 0.0}),
    "dropout-3": Variant({"open_each": 0.03, "open_all": 0.03}),
    "dropout-30": Variant({"open_each": 0.3}),
    "command-first": Variant(replaced=(_command_first,)),
    "no-interpolation": Variant(replaced=(_rounded,)),
    "curriculum": Variant({"curriculum": 0.3}),
    "balance": Variant({"balance": True}),
    "calibrated": Variant(trained_as="base", calibrated=True),
    "guidance": Variant(trained_as="base", calibrated=True, guidance=1.5),
}


def validation_inputs(run: Path) -> dict[str, list[str]]:
    """Return the different validation inputs of each task, in the order of the episodes."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for episode in read_episodes(Run(run).episodes, splits=("validation",)):
        found[episode.task][episode.input] = None
    return {task: list(texts) for task, texts in found.items()}


def trained(run: Path, name: str, *, student: str, steps: int, seed: int) -> Path:
    """Train the student of a variant in a run folder of its own beside the others, once; return the folder."""
    folder = run / "ablation" / f"{name}-{student}-{steps}-{seed}"
    if not (folder / "student").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / "run.json", folder)
        if not (folder / "episodes").exists():
            (folder / "episodes").symlink_to((run / "episodes").resolve(), target_is_directory=True)
        options: dict[str, Any] = dict(VARIANTS[name].options)
        with VARIANTS[name].in_force():
            train(folder, student=student, init="random", steps=steps, seed=seed, calibration_inputs=0,
                  signs_inputs=0, **options)  # fmt: skip
    return folder


def sweep(
    student: Student,
    inputs: Mapping[str, list[str]],
    attribute: str,
    *,
    calibrated: bool,
    samples: int,
    levels: Mapping[str, Sequence[float]] | None = None,
) -> Swept:
    """Command the nine training deciles of ``attribute`` on every input; return one row a task and input.

    levels: nine others, by task. commanded, achieved: (inputs, 9 x samples), in the attribute's unit.
    """
    points = [
        (text, Command(task, {attribute: value}))
        for task, texts in inputs.items()
        for text in texts
        for value in (levels[task] if levels else student.space.deciles(task, attribute))
        for _ in range(samples)
    ]
    texts = [text for text, _ in points]
    written = student.generate(texts, [command for _, command in points], calibrated=calibrated)
    completions = [one.completion for one in written]
    got = [float(count_words(c)) for c in completions] if attribute == LENGTH else Relevance()(texts, completions)
    commanded = np.array([command.targets[attribute] for _, command in points])
    return {"commanded": commanded.reshape(-1, 9 * samples), "achieved": np.array(got).reshape(-1, 9 * samples)}


def main() -> None:
    """Train and sweep; print two lines a variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all of them")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--student", default="gpt2-1m", help="a preset that is trained from scratch")
    parser.add_argument(
        "--steps", type=int, default=1500, help="enough to have learned to copy: see docs/results.md, size"
    )
    parser.add_argument("--inputs", type=int, default=10, help="a task")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if strange := sorted(set(options.variants) - set(VARIANTS)):
        parser.error(f"unknown variants {', '.join(strange)}; known: {', '.join(VARIANTS)}")
    if not (options.run / "episodes").is_dir():
        print(f"there are no episodes at {options.run}: make some with udrl demo, or name another run with --run")
        return
    every = validation_inputs(options.run)
    fitted = {task: texts[:CALIBRATION_INPUTS] for task, texts in every.items()}
    swept = {task: texts[CALIBRATION_INPUTS:][: options.inputs] for task, texts in every.items()}
    base: dict[str, npt.NDArray[np.float64]] = {}
    for name in dict.fromkeys(["base", *(options.variants or VARIANTS)]):
        variant = VARIANTS[name]
        made = trained(
            options.run, variant.trained_as or name, student=options.student, steps=options.steps, seed=options.seed
        )
        student = load(made)
        student.sampling = replace(student.sampling, guidance=variant.guidance)
        if variant.calibrated:
            student.calibration = calibrate(student, fitted, {"relevance": Relevance()}, seed=options.seed)
        for attribute in ("relevance", LENGTH):
            with variant.in_force():
                found = sweep(student, swept, attribute, calibrated=variant.calibrated, samples=options.samples)
            commanded, achieved = found["commanded"], found["achieved"]
            within = np.array([spearman_within(c, a) for c, a in zip(commanded, achieved, strict=True)])
            value, gain = mean_interval(within), mean_interval(within - base.setdefault(attribute, within))
            print(
                f"{name:17} {attribute:9}  Spearman {value.mean:.3f} [{value.lo:.3f}, {value.hi:.3f}], "
                f"gain {gain.mean:+.3f} [{gain.lo:+.3f}, {gain.hi:+.3f}], {achieved[:, : options.samples].mean():.3g} "
                f"to {achieved[:, -options.samples :].mean():.3g}, error {abs(commanded - achieved).mean():.3g}",
                flush=True,
            )


if __name__ == "__main__":
    main()

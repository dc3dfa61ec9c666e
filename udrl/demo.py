"""``udrl demo``: the whole flow on this machine, no GPU, no download of weights.

The number of training steps is fixed, so that what the student can do in the end does not depend on the
machine's speed; only the minutes do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from udrl.arguments import checked
from udrl.data.run import Run
from udrl.rewards import computable
from udrl.student import load

if TYPE_CHECKING:
    from udrl.student.answers import Answer
    from udrl.student.student import Student

RUN = Path("runs/demo")
TEACHER = "builtin"
NUM_INPUTS = 750
"""Inputs a task, each with SAMPLES completions: encoding them for their relevance is what bounds this."""
SAMPLES = 4
STUDENT = "gpt2-mini"
STEPS = 1800
GUIDANCE = 1.5
"""What the student ships with: low levels of relevance are hardly reached without, see docs/results.md."""
SUITE = "relevance"
BENCH_INPUTS = 50
"""Held-out inputs a task: what the definition of command following asks for at least."""

TASK = "text-to-image"
INPUT = "a brass telescope in a flooded library"
"""What is shown under three commands."""


@dataclass(frozen=True)
class DemoReport:
    """What the demo made: the run, the report to open, and one input under three commands."""

    run: Path
    report: Path
    episodes: int
    parameters: int
    answers: tuple[Answer, ...]
    findings: tuple[str, ...]
    seconds: float


@checked
def demo(
    run: Path | str = RUN,
    *,
    seed: int = 0,
    num_inputs: int = NUM_INPUTS,
    samples: int = SAMPLES,
    steps: int = STEPS,
    bench_inputs: int = BENCH_INPUTS,
    announce: Callable[[str], None] = lambda _: None,
) -> DemoReport:
    """Run synth, train, bench, and then one input under three commands, in the ``run`` folder.

    num_inputs: a task; samples: completions an input; bench_inputs: held-out inputs a task. announce: is
    told what begins, one line a stage. Interrupted and started again, it goes on from the stage that was
    interrupted.

    Raises what the stages raise.
    """
    from udrl.eval.bench import bench
    from udrl.teacher.synthesis.synth import synth

    started = time.monotonic()
    run_folder = Run(run)
    announce(f"1/4 synth: the built-in teacher writes {samples} completions each for {num_inputs:,} inputs a task")
    made = synth(run_folder, teacher=TEACHER, num_inputs=num_inputs, samples=samples, seed=seed)
    episodes = sum(made.inputs.values()) * samples
    announce(f"2/4 train: a student from scratch learns to obey commands, {steps:,} steps")
    _train(run_folder, fresh=made.written > 0, steps=steps, seed=seed)
    announce("3/4 bench: student, teacher and baselines on held-out inputs")
    measured = bench(run_folder, suite=SUITE, limit=bench_inputs, seed=seed)
    announce("4/4 one input under three commands")
    student = load(run_folder.path)
    return DemoReport(
        run=run_folder.path,
        report=measured.report,
        episodes=episodes,
        parameters=student.parameters,
        answers=show(student, seed=seed),
        findings=tuple(one.sentence for one in measured.sentences),
        seconds=round(time.monotonic() - started, 1),
    )


def show(student: Student, *, text: str = INPUT, task: str = TASK, seed: int = 0) -> tuple[Answer, ...]:
    """Return ``text`` under three commands: low, middle and high reachable relevance, at the usual length."""
    from udrl.commands import LENGTH, Command
    from udrl.student.answers import answer

    length = round(student.space.quantile(task, LENGTH, 0.5))
    low, high = student.reachable(task, "relevance", length=length)
    rewards = computable(["relevance"])
    commands = [
        Command(task, {"relevance": round(target, 2), LENGTH: length}) for target in (low, (low + high) / 2, high)
    ]
    return tuple(one for command in commands for one in answer(student, [text], command, seed=seed, rewards=rewards))


def _train(run: Run, *, fresh: bool, steps: int, seed: int) -> None:
    """Train and calibrate, unless the run has the student of exactly this training and nothing new to learn from."""
    from udrl.student.calibration import Calibration
    from udrl.training.calibrate import recalibrate
    from udrl.training.checkpoint import is_trained
    from udrl.training.train import train

    trained, earlier = is_trained(run), run.facts().train
    same = (earlier.student, earlier.steps, earlier.seed) == (STUDENT, steps, seed)
    if fresh or not trained or not same:
        train(run.path, student=STUDENT, init="random", steps=steps, seed=seed, calibration_inputs=1,
              restart=fresh)  # fmt: skip
    calibration = Calibration.load(run.student)
    if calibration is None or calibration.sampling["guidance"] != GUIDANCE:
        recalibrate(run.path, guidance=GUIDANCE, seed=seed)

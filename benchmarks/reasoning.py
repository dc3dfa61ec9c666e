"""Can a student be commanded to be right? Generated arithmetic, a student from scratch, "right" against "wrong".

    python benchmarks/reasoning.py --run runs/reasoning

Makes the run (problems and worked solutions, right and wrong, by the built-in teacher), trains a student from scratch
with the attribute accuracy, and lets it answer test problems, which it has never seen, under accuracy=1 and accuracy=0,
as often under each, with the sampling that ships. Prints the share of right answers under both commands, their
difference with a paired bootstrap 95 % interval over problems, and both by level of difficulty. What is done already
is not done again. The bar: right at least 30 points more often when it is commanded to be.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from udrl.commands import Command
from udrl.data.arithmetic import LEVELS, level
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.metrics import mean_interval
from udrl.rewards import load_reward

TASK = "arithmetic"
BAR = 30.0


def main() -> None:
    """Synthesise, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/reasoning"))
    parser.add_argument("--num-inputs", type=int, default=10000)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--student", default="gpt2-1m")
    parser.add_argument("--problems", type=int, default=300, help="test problems")
    parser.add_argument("--draws", type=int, default=2, help="answers to each problem under each command")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run = Run(options.run)
    synthesise(run, options)
    seconds = trained(run, options)
    measured(run, options, seconds)


def synthesise(run: Run, options: argparse.Namespace) -> None:
    """Make the run's episodes; what the ledger has is not written again."""
    from udrl.teacher.synthesis.synth import synth

    report = synth(run, tasks=[TASK], num_inputs=options.num_inputs, samples=options.samples, seed=options.seed)
    print(f"{report.inputs[TASK]:,} problems, {report.written:,} solutions written, episodes: {dict(report.episodes)}")


def trained(run: Run, options: argparse.Namespace) -> float:
    """Train the student unless there is one; return how long its training took, in seconds."""
    from udrl.training.train import train

    if not run.student.is_dir():
        train(
            run.path,
            student=options.student,
            init="random",
            vocab_size=options.vocab_size,
            attributes=["accuracy"],
            steps=options.steps,
            batch_size=options.batch_size,
            signs_inputs=0,
            seed=options.seed,
        )
    return run.facts().train.seconds


def measured(run: Run, options: argparse.Namespace, seconds: float) -> None:
    """Answer test problems under both commands and print the shares of right answers."""
    from udrl.student.student import load_student

    student, reward = load_student(run.path), load_reward("accuracy")
    held = read_episodes(run.episodes, splits=("test",))
    texts = list(dict.fromkeys(episode.input for episode in held))[: options.problems]
    if not texts:
        raise SystemExit("the run has no test problems: more --num-inputs")
    asked = [text for text in texts for _ in range(options.draws)]
    right: dict[int, np.ndarray] = {}
    began = time.monotonic()
    for target in (1, 0):
        commands = [Command(TASK, {"accuracy": float(target)})] * len(asked)
        written = student.generate(asked, commands, seeds=options.seed)
        scored = reward(asked, [one.completion for one in written])
        right[target] = np.asarray(scored).reshape(len(texts), options.draws).mean(axis=1)
        for one in written[:: max(1, len(written) // 3)][:3]:
            print(f"  accuracy={target}: {one.completion}")
    spent = time.monotonic() - began
    problems = np.arange(len(texts))
    print(f"{student.name}: {student.parameters:,} parameters, trained {seconds:,.0f} s; {len(texts)} test problems, "
          f"{options.draws} answers under each command, {spent:,.0f} s")  # fmt: skip
    found = {}
    for name, values in (("accuracy=1", right[1]), ("accuracy=0", right[0]), ("difference", right[1] - right[0])):
        interval = mean_interval(100 * values, problems, seed=options.seed)
        found[name] = [interval.mean, interval.lo, interval.hi]
        print(f"{name:<12} {interval.mean:5.1f} % right [{interval.lo:.1f}, {interval.hi:.1f}]")
    by_level: dict[int, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        by_level[level(text) or 0].append(row)
    for number in LEVELS:
        if rows := by_level[number]:
            told = ", ".join(f"{100 * right[target][rows].mean():.0f} % under accuracy={target}" for target in (1, 0))
            print(f"  level {number}: {len(rows)} problems, {told}")
    _, low, _ = found["difference"]
    print(f"the bar of {BAR:.0f} points is {'reached' if found['difference'][0] >= BAR else 'missed'}"
          f"{', by its whole interval' if low >= BAR else ''}")  # fmt: skip
    (run.path / "reasoning.json").write_text(json.dumps({"problems": len(texts), "right": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

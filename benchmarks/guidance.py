"""Does guidance help? A trained student's command following at several weights of classifier-free guidance.

    python benchmarks/guidance.py [--run runs/demo] [--weights 1 1.5 2] [--inputs 10] [--samples 2]

Validation inputs of each task, the nine training deciles of relevance commanded with length open, the sampling that
ships. One line a weight: within-input Spearman with its 95 % interval over inputs and, paired with weight 1, the
difference; mean relevance at the lowest and the highest level; distinct-2 at the middle level; tokens a second.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from udrl.commands import Command
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.metrics import distinct_n, mean_interval, spearman_within
from udrl.rewards.relevance import Relevance
from udrl.student import load


def main() -> None:
    """Measure and print one line a weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--inputs", type=int, default=10, help="a task")
    parser.add_argument("--samples", type=int, default=2)
    options = parser.parse_args()
    if not (options.run / "student").is_dir():
        print(f"there is no student at {options.run}: make one with udrl demo, or name another with --run")
        return
    student, reward = load(options.run), Relevance()
    found: dict[str, dict[str, None]] = {task: {} for task in student.tasks}
    for episode in read_episodes(Run(options.run).episodes, splits=("validation",)):
        if len(found[episode.task]) < options.inputs:
            found[episode.task][episode.input] = None
    points = [
        (task, text, level, value)
        for task, texts in found.items()
        for text in texts
        for level, value in enumerate(student.space.deciles(task, "relevance"))
        for _ in range(options.samples)
    ]
    inputs = [text for _, text, _, _ in points]
    commands = [Command(task, {"relevance": value}) for task, _, _, value in points]
    levels = np.array([level for _, _, level, _ in points])
    base: np.ndarray | None = None
    for weight in options.weights:
        started = time.perf_counter()
        written = student.generate(inputs, commands, sampling=replace(student.sampling, guidance=weight))
        seconds = time.perf_counter() - started
        achieved = np.array(reward(inputs, [one.completion for one in written]))
        per_input = 9 * options.samples
        rows = range(0, len(points), per_input)
        within = np.array([spearman_within(levels[k : k + per_input], achieved[k : k + per_input]) for k in rows])
        base = within if base is None else base
        value, gain = mean_interval(within), mean_interval(within - base)
        middle = [one.completion for one, level in zip(written, levels, strict=True) if level == 4]
        print(
            f"guidance {weight:g}: Spearman {value.mean:.3f} [{value.lo:.3f}, {value.hi:.3f}], "
            f"gain {gain.mean:+.3f} [{gain.lo:+.3f}, {gain.hi:+.3f}], "
            f"relevance {achieved[levels == 0].mean():.3f} to {achieved[levels == 8].mean():.3f}, "
            f"distinct-2 {distinct_n(middle):.3f}, {sum(one.tokens for one in written) / seconds:.0f} tokens/s",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Open-RS at the size of a small student: GRPO with its preset beside UDRL and its rounds, at equal reward calls.

    pip install "udrl[study]"
    python benchmarks/open_rs.py [--out runs/open-rs] [--inputs 6000] [--student gpt2-mini] [--start-steps 1200]
        [--scored 4000] [--rounds 2] [--num-inputs 300] [--samples 4] [--learning-rate 1e-4] [--test 600]
        [--machine-usd 0.1] [--seed 0]

Generated arithmetic problems of four levels (task ``arithmetic``), half of them worked out wrongly by the built-in
teacher, scored with accuracy, format and cosine_length. Both arms go on from one student of SFT on all of them, right
and wrong:

    udrl   upside-down RL on about ``--scored`` of those episodes, whose returns it looks at, then rounds in which it
           explores under commands
    grpo   `--preset open-rs` with a learning rate for a small student, for as many reward calls as udrl had in all;
           the weights of the best validation reward are kept

Every student answers the same new problems greedily; udrl is commanded accuracy 1. Prints accuracy with 95 % intervals
(Wilson), over all and by level, the paired gain over the start (bootstrap over problems), the mean of the reward
format, seconds, reward calls and cost, and what GRPO's training showed of instability. What is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import udrl
from udrl.cli.common import table
from udrl.commands import Command
from udrl.data.arithmetic import LEVELS, level
from udrl.data.episodes import read_episodes
from udrl.data.facts import TrainFacts
from udrl.data.run import Run
from udrl.metrics import mean_interval
from udrl.rewards import load_reward
from udrl.rewards.protocol import compute
from udrl.rounds.history import Round
from udrl.rounds.improve import improve
from udrl.rounds.options import RoundOptions
from udrl.study.folders import copy_of
from udrl.study.methods import first_inputs
from udrl.teacher.backends.builtin.arithmetic import invent
from udrl.teacher.synthesis.synth import synth
from udrl.training.methods import Grpo
from udrl.training.methods.published import published
from udrl.training.train import train

TASK = "arithmetic"
REWARDS = ("accuracy", "format", "cosine_length")
COMMANDED = ("accuracy", "format")
TEST_SEED = 1_000_003
"""Of the stream of problems that no run is made of; those that a run has by chance are left out."""


@dataclass(frozen=True)
class Line:
    """A student that answers the test problems. command: None where it takes none; calls, seconds: of its training."""

    name: str
    folder: Path
    command: Mapping[str, float] | None
    calls: int
    seconds: float


def made(given: argparse.Namespace) -> Path:
    """Return the run of problems and completions, scored."""
    run: Path = given.out / "run"
    if not (run / "episodes").is_dir():
        synth(
            run, teacher="builtin", tasks=[TASK], num_inputs=given.inputs, samples=4, seed=given.seed, rewards=REWARDS
        )
    return run


def trained(run: Path, **options: Any) -> TrainFacts:
    """Train in ``run`` unless that is done, and return what run.json says of it."""
    if not (run / "student").is_dir():
        train(run, **options)
    return Run(run).facts().train


def explored(run: Path, given: argparse.Namespace) -> tuple[Round, ...]:
    """Make the rounds of improvement."""
    options = RoundOptions(
        reward="accuracy",
        num_inputs=given.num_inputs,
        samples=given.samples,
        diversity_floor=0.0,  # right workings of one problem are alike
        patience=given.rounds,
        seed=given.seed,
    )
    return improve(run, rounds=given.rounds, options=options).rounds


def problems(run: Path, count: int) -> list[str]:
    """Return new problems, each once."""
    known = {episode.input for episode in read_episodes(run / "episodes")}
    stream = dict.fromkeys(text for text in islice(invent(TASK, seed=TEST_SEED), 20 * count) if text not in known)
    return list(stream)[:count]


def answers(line: Line, texts: list[str], seed: int) -> dict[str, list[float]]:
    """Return the value of accuracy and format of every greedy answer."""
    student = udrl.load(line.folder)
    command = Command(TASK, dict(line.command or {}))
    sampling = replace(student.sampling, temperature=0.0)
    found = student.generate(texts, [command] * len(texts), seeds=seed, sampling=sampling)
    written = [one.completion for one in found]
    return {name: compute(load_reward(name), texts, written) for name in ("accuracy", "format")}


def share(right: list[float]) -> str:
    """Return the share of right answers with Wilson's interval, which holds also where all or none are right."""
    n, p, z = len(right), sum(right) / max(1, len(right)), 1.96
    if not n:
        return "-"
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + side * half) / (1 + z * z / n) for side in (-1, 1))
    return f"{p:.3f} [{max(0.0, low):.3f}, {high:.3f}]"


def gained(right: list[float], before: list[float]) -> str:
    """Return the paired difference with its interval."""
    found = mean_interval([a - b for a, b in zip(right, before, strict=True)])
    return f"{found.mean:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]"


def instability(run: Path, facts: TrainFacts) -> list[str]:
    """Return what GRPO's training showed, a line each."""
    logged = [json.loads(line) for line in (run / "student" / "training.jsonl").read_text().splitlines()]
    judged = [line for line in logged if "validation_reward" in line]
    steps = [line for line in logged if "length" in line]
    tenth = max(1, len(steps) // 10)
    lines = [
        "validation (step: reward, accuracy, tokens): "
        + ", ".join(
            f"{line['step']}: {line['validation_reward']:.2f}, {line['validation_accuracy']:.2f}, "
            f"{line['validation_length']:.0f}"
            for line in judged
        ),
        f"kept: step {facts.kept_step} of {facts.steps}",
    ]
    for name in ("reward", "reward_std", "length", "clipped", "zero_variance", "kl"):
        values = [line[name] for line in steps if name in line]
        if values:
            ends = (sum(part) / len(part) for part in (values[:tenth], values[-tenth:]))
            lines.append(f"{name}: first tenth {next(ends):.3f}, last tenth {next(ends):.3f}, "
                         f"lowest {min(values):.3f}, highest {max(values):.3f}")  # fmt: skip
    return [*lines, *(f"advice: {line}" for line in facts.advice)]


def main() -> None:
    """Make what is missing, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/open-rs"))
    parser.add_argument("--inputs", type=int, default=6000)
    parser.add_argument("--student", default="gpt2-mini")
    parser.add_argument("--start-steps", type=int, default=1200)
    parser.add_argument("--batch-size", type=int, default=64, help="of the start")
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--scored", type=int, default=4000, help="episodes of the run whose returns udrl looks at")
    parser.add_argument("--udrl-steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--num-inputs", type=int, default=300, help="of a round")
    parser.add_argument("--samples", type=int, default=4, help="of an input in a round")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of GRPO; the preset's is 1e-6")
    parser.add_argument("--validate-every", type=int, default=10)
    parser.add_argument("--test", type=int, default=600, help="new problems")
    parser.add_argument("--machine-usd", type=float, help="price of an hour")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    run = made(given)
    start = copy_of(run, given.out / "start")
    begun = trained(
        start,
        method="sft",
        student=given.student,
        steps=given.start_steps,
        batch_size=given.batch_size,
        vocab_size=given.vocab_size,
        seed=given.seed,
    )
    common: dict[str, Any] = {"start_from": start, "replay": 0.0, "seed": given.seed}

    chosen = first_inputs(run, given.scored, given.seed)
    ours = copy_of(run, given.out / "udrl", keep=lambda e: e.split != "train" or e.input_id in chosen)
    first = trained(ours, steps=given.udrl_steps, attributes=COMMANDED, **common)
    rounds = explored(ours, given)
    new = sum(one.explored for one in rounds)
    clock = sum(sum(one.seconds.values()) for one in rounds)

    theirs = copy_of(run, given.out / "grpo")
    rs = published("open-rs", "grpo")
    paid = trained(
        theirs,
        method=Grpo(**rs.settings),
        preset=rs.name,
        learning_rate=given.learning_rate,
        max_samples=first.reward_calls + new,
        steps=1_000_000,
        keep="best",
        validate_every=given.validate_every,
        **common,
    )

    commanded = {"accuracy": 1.0}
    hours = 3600 * first.machine_hours
    lines = [
        Line("start (SFT)", start, None, 0, 0.0),
        Line("udrl", ours / "rounds" / "0", commanded, first.reward_calls, hours),
        Line(f"udrl, {len(rounds) - 1} rounds", ours, commanded, first.reward_calls + new, hours + clock),
        Line("grpo", theirs, None, paid.reward_calls, 3600 * paid.machine_hours),
    ]
    texts = problems(run, given.test)
    levels = [level(text) for text in texts]
    counts = {one: levels.count(one) for one in LEVELS}
    head = ["student", "accuracy", "gain", *(f"level {one} (n={counts[one]})" for one in LEVELS), "format", "calls",
            "seconds", "USD"]  # fmt: skip
    rows, before = [head], None
    for line in lines:
        found = answers(line, texts, given.seed)
        right = found["accuracy"]
        before = before or right
        of_level = [[value for value, at in zip(right, levels, strict=True) if at == one] for one in LEVELS]
        usd = "-" if given.machine_usd is None else f"{given.machine_usd * line.seconds / 3600:.4f}"
        rows.append(
            [line.name, share(right), gained(right, before),
             *map(share, of_level), f"{sum(found['format']) / len(texts):.2f}", f"{line.calls:,}",
             f"{line.seconds:.0f}", usd]
        )  # fmt: skip
    print(table(rows))
    print(
        f"start: {begun.steps:,} steps in {3600 * begun.machine_hours:.0f} s; seconds and calls of the others "
        f"are those after it; grpo's calls for validation alone: {paid.validation_calls:,}"
    )
    for one in rounds[1:]:
        print(f"round {one.round}: {one.verdict}, {one.added} of {one.explored} completions are new episodes")
    print("\n".join(["grpo:", *instability(theirs, paid)]))


if __name__ == "__main__":
    main()

"""How near do completions come to the commanded length, and at what cost? The ways of keeping a length side by side.

    python benchmarks/length.py RUN [RUN ...] [--inputs 40] [--targets 16 24 32 48 64 96 128] [--ways off soft exact]

Held-out inputs of each task, every target that the student of the run reaches, relevance open, the sampling that ships.
For each run and way: the mean percent error of single completions, the share within 10 %, relevance, agreement with the
teacher's longest completion for the same input, the share that ends behind a whole clause (one whose last two
words end a clause in the training episodes; the teacher's own share beside it), and the seconds of the processor for
each id written, for all of them together and one by one. Differences to "off" are paired, with 95 % intervals clustered
by input.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from udrl.commands import LENGTH, Command
from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.decoding.sampling import LengthControl
from udrl.encoder import load_encoder
from udrl.metrics import mean_interval
from udrl.student import load
from udrl.student.student import Student
from udrl.words import count_words, folded_words

TARGETS = (16, 20, 24, 28, 32, 40, 48, 64, 96, 128)
ONE_BY_ONE = 24
"""Completions whose latency is measured."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--inputs", type=int, default=40, help="a task")
    parser.add_argument("--targets", type=int, nargs="+", default=TARGETS)
    parser.add_argument("--ways", nargs="+", choices=("off", "soft", "exact"), default=("off", "soft", "exact"))
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    options = parser.parse_args()
    for run in options.runs:
        student = load(run, device="cpu", precision="fp32", engine=options.engine)
        episodes = [
            one
            for one in read_episodes(Run(run).episodes, splits=("train", "test"))
            if one.origin == "teacher" and not one.rejected_by
        ]
        compare(student, episodes, options.inputs, options.targets, options.ways, options.seed)


def compare(
    student: Student,
    episodes: Sequence[Episode],
    count: int,
    targets: Sequence[int],
    ways: Sequence[LengthControl],
    seed: int,
) -> None:
    """Print the figures of one student."""
    ends = {key for one in episodes if one.split == "train" for key in clause_ends(one.completion)}
    held_out = best_of_each(one for one in episodes if one.split == "test")
    own = [one for one in episodes if one.split == "test"]
    print(
        f"{student.name}: {student.parameters:,} parameters, {student.engine}; the teacher ends behind a clause in "
        f"{np.mean([last(one.completion) in ends for one in own]):.3f} of {len(own)}"
    )
    points = [
        (one, target)
        for task in student.tasks
        for one in [one for one in held_out if one.task == task][:count]
        for target in targets
        if student.reachable(task, LENGTH)[0] <= target <= student.reachable(task, LENGTH)[1]
    ]
    inputs = [one.input for one, _ in points]
    commands = [Command(one.task, {LENGTH: target}) for one, target in points]
    clusters = np.unique([one.input_id for one, _ in points], return_inverse=True)[1]
    encoder = load_encoder()
    of_inputs = encoder.encode(inputs)
    of_teacher = encoder.encode([one.completion for one, _ in points])
    base: dict[str, np.ndarray] = {}
    for way in ways:
        sampling = replace(student.sampling, length_control=way)
        started = time.process_time()
        written = student.generate(inputs, commands, seeds=seed, sampling=sampling)
        together = (time.process_time() - started) / sum(one.tokens for one in written)
        started = time.process_time()
        alone = [
            student.generate([text], [command], sampling=sampling)[0].tokens
            for text, command in list(zip(inputs, commands, strict=True))[:: max(1, len(inputs) // ONE_BY_ONE)]
        ]
        single = (time.process_time() - started) / sum(alone)
        texts = [one.completion for one in written]
        vectors = encoder.encode(texts)
        misses = np.array([abs(count_words(text) - n) / n for text, (_, n) in zip(texts, points, strict=True)])
        figures = {
            "error in percent": 100 * misses,
            "within 10 %": (misses <= 0.1).astype(float),
            "relevance": (vectors * of_inputs).sum(-1),
            "agreement": (vectors * of_teacher).sum(-1),
            "ends behind a clause": np.array([float(last(text) in ends) for text in texts]),
        }
        base = base or figures
        print(f"  {way}: {len(points)} completions, ms an id {1e3 * together:.2f} together, {1e3 * single:.2f} alone")
        for name, values in figures.items():
            difference = mean_interval(values - base[name], clusters)
            shown = f"{difference.mean:+.3f} [{difference.lo:+.3f}, {difference.hi:+.3f}]" if way != ways[0] else ""
            print(f"    {name}: {values.mean():.3f} {shown}", flush=True)
        for target in targets:
            if any(n == target for _, n in points):
                at = np.array([n == target for _, n in points])
                print(
                    f"    at {target}: error {100 * misses[at].mean():.2f} %, within {(misses[at] <= 0.1).mean():.3f}"
                )


def best_of_each(episodes: Iterable[Episode]) -> list[Episode]:
    """Return the longest episode of each input and task: the teacher has said most in it."""
    longest: dict[tuple[str, str], Episode] = {}
    for one in episodes:
        key = (one.task, one.input_id)
        if key not in longest or one.horizon > longest[key].horizon:
            longest[key] = one
    return list(longest.values())


def clause_ends(text: str) -> set[tuple[str, ...]]:
    """Return the last two words of every clause and sentence of ``text``."""
    return {tuple(folded_words(clause)[-2:]) for clause in re.split(r"[,;.!?](?=\s|$)", text) if folded_words(clause)}


def last(text: str) -> tuple[str, ...]:
    """Return the last two words of the last clause of ``text``."""
    clauses = [clause for clause in re.split(r"[,;.!?](?=\s|$)", text) if folded_words(clause)]
    return tuple(folded_words(clauses[-1])[-2:]) if clauses else ()


if __name__ == "__main__":
    main()

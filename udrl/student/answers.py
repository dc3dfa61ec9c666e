"""Answers: what ``udrl generate`` gives for an input under a command, scored and picked if asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from udrl.commands import LENGTH, Command
from udrl.words import count_words

if TYPE_CHECKING:
    from udrl.student.decoding import Sampling
    from udrl.student.student import Student

Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""A reward as a plain function of inputs and completions."""


@dataclass(frozen=True)
class Answer:
    """One completion, with what was asked for and what was achieved. One JSON object of ``udrl generate
    --json``.

    command: the targets by attribute; an attribute that is not in it was left open. achieved: the value of
    every attribute that can be measured, or None where scoring was not asked for. finish_reason: "stop" or
    "length". seed: gives this completion again for this input and command, with one sample and best-of 1.
    """

    input: str
    task: str
    completion: str
    command: Mapping[str, float]
    achieved: Mapping[str, float] | None
    finish_reason: str
    seed: int


def answer(
    student: Student,
    inputs: Iterable[str],
    command: Command,
    *,
    num: int = 1,
    best_of: int = 1,
    seed: int = 0,
    rewards: Mapping[str, Score] | None = None,
    sampling: Sampling | None = None,
    batch_size: int = 64,
) -> Iterator[Answer]:
    """Yield ``num`` answers for each input, in order, reading ``inputs`` only a batch ahead.

    best_of: candidates of each answer, of which `miss` picks the best; needs ``rewards``.
    seed: sample k of an input has the seeds from ``seed + k * best_of``, whatever the other inputs are.
    rewards: those to score with (None: not scored). sampling: None is what ships with the student.
    """
    student.space.check(command)
    candidates = num * best_of
    for texts in _batches(inputs, max(1, batch_size // candidates)):
        flat = [text for text in texts for _ in range(candidates)]
        seeds = [seed + k for _ in texts for k in range(candidates)]
        written = student.generate(flat, [command] * len(flat), seeds=seeds, sampling=sampling, batch_size=batch_size)
        values = {} if rewards is None else achieved(flat, [one.completion for one in written], rewards)
        for start in range(0, len(flat), best_of):
            rows = range(start, start + best_of)
            best = min(rows, key=lambda row: miss(command, {n: v[row] for n, v in values.items()}))
            yield Answer(
                input=flat[best],
                task=command.task,
                completion=written[best].completion,
                command=dict(command.targets),
                achieved={name: of_all[best] for name, of_all in values.items()} if values else None,
                finish_reason=written[best].finish_reason,
                seed=seeds[best],
            )


def achieved(inputs: Sequence[str], completions: Sequence[str], rewards: Mapping[str, Score]) -> dict[str, list[float]]:
    """Return what ``completions`` achieved, by attribute: every reward, and the length in words."""
    values = {name: [float(v) for v in reward(inputs, completions)] for name, reward in rewards.items()}
    return {**values, LENGTH: [float(count_words(text)) for text in completions]}


def miss(command: Command, values: Mapping[str, float]) -> tuple[float, float]:
    """Return how far achieved ``values`` are from a command: smaller is better.

    First the sum over commanded attributes of the distance as a share of the target; then, so that what was
    left open decides between equals, the highest relevance.
    """
    distance = sum(
        abs(values[name] - target) / max(abs(target), 0.05)
        for name, target in command.targets.items()
        if name in values
    )
    return distance, -values.get("relevance", 0.0)


def _batches(inputs: Iterable[str], size: int) -> Iterator[list[str]]:
    source = iter(inputs)
    while batch := list(islice(source, size)):
        yield batch

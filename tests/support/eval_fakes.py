"""A student for tests of the benchmark: it writes at once and obeys exactly as far as it is told to."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from udrl.commands import Attribute, Command, CommandSpace
from udrl.data.inputs import input_id
from udrl.eval.suites import Item
from udrl.words import words

ATTRIBUTES = (Attribute("relevance", 0.0, 1.0), Attribute("length", 1.0, 500.0, "words"))
FILLER = [
    "a",
    "calm",
    "wide",
    "scene",
    "with",
    "soft",
    "light",
    "and",
    "quiet",
    "warm",
    "colours",
    "in",
    "the",
    "early",
    "morning",
    "air",
]


def space(tasks: Sequence[str], *, low: float = 0.1, high: float = 0.8, longest: int = 40) -> CommandSpace:
    """A command space whose training values are spread evenly over both attributes."""
    values = {
        task: {
            "relevance": [low + (high - low) * k / 999 for k in range(1000)],
            "length": [4.0 + (longest - 4.0) * k / 999 for k in range(1000)],
        }
        for task in tasks
    }
    return CommandSpace.fit(1000, ATTRIBUTES, values)


@dataclass(frozen=True)
class Written:
    completion: str
    finish_reason: str
    tokens: int


@dataclass
class FakeStudent:
    """Writes ``length`` words, a share ``relevance`` of them from the input.

    obedience: probability that a completion follows its command; else it draws its own target. uncalibrated: what is
    achieved without calibration, as a share of the target.
    """

    tasks: tuple[str, ...] = ("alpha", "beta")
    obedience: float = 1.0
    uncalibrated: float = 0.5
    calibration: str | None = "by rule"
    calls: list[int] = field(default_factory=list)
    name: str = "fake"
    parameters: int = 1234
    engine: str = "rules"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        self.space = space(self.tasks)

    def generate(
        self,
        inputs: Sequence[str],
        commands: Sequence[Command],
        *,
        seeds: Sequence[int],
        calibrated: bool = True,
        batch_size: int = 0,
        warn: bool = True,
    ) -> list[Written]:
        assert len(inputs) == len(commands) == len(seeds)
        self.calls.append(len(inputs))
        return [self._write(*each, calibrated) for each in zip(inputs, commands, seeds, strict=True)]

    def reachable(self, task: str, attribute: str, *, length: float | None = None) -> tuple[float, float]:
        quantile = self.space.quantile
        return quantile(task, attribute, 0.05), quantile(task, attribute, 0.95)

    def _write(self, text: str, command: Command, seed: int, calibrated: bool) -> Written:
        rng = random.Random(seed)
        targets: Mapping[str, float] = command.targets if rng.random() < self.obedience else {}
        if not calibrated:
            targets = {name: target * self.uncalibrated for name, target in targets.items()}
        length = round(targets.get("length", rng.uniform(5, 30)))
        share = targets.get("relevance", rng.uniform(0.1, 0.8))
        own = words(text)
        chosen = [own[k % len(own)] if (k + 0.5) / length < share else rng.choice(FILLER) for k in range(length)]
        return Written(" ".join(chosen), "stop", length + 1)


def items(task: str, texts: Sequence[str]) -> list[Item]:
    """Items of ``task`` for ``texts``."""
    return [Item(task, input_id(text), text) for text in texts]

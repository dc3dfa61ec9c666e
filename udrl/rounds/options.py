"""What decides a round of improvement; an unfinished one is continued under the same options only."""

from __future__ import annotations

from dataclasses import dataclass

from udrl.arguments import check_fields
from udrl.errors import UsageError

REWARD = "relevance"


@dataclass(frozen=True)
class RoundOptions:
    """The options of `udrl improve`, see `udrl.rounds.improve.improve`.

    reward: the return that is explored and judged. num_inputs, samples: inputs a task, and completions each. best:
    share of a task's episodes that commands are drawn from. best_bin, random: shares of the commands that ask for the
    highest bin alone, and for anything. temperature: of exploration. per_input, per_task: bounds of the pool. original:
    share of the originals in what a round trains on. diversity_floor: a share of round 0's; 0: nothing guards
    diversity. patience: rounds without a gain before the end. refit: fit the bins of ``reward`` anew
    to what a round trains on. encoder: of relevance; None: the run's.
    """

    reward: str = REWARD
    num_inputs: int = 200
    samples: int = 4
    best: float = 0.1
    best_bin: float = 0.1
    random: float = 0.2
    temperature: float = 0.8
    per_input: int = 8
    per_task: int = 4000
    original: float = 0.4
    diversity_floor: float = 0.95
    patience: int = 1
    epochs: float = 3.0
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    validation_inputs: int = 40
    sweep_inputs: int = 16
    calibration_inputs: int = 16
    refit: bool = True
    encoder: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("patience", "calibration_inputs"):  # which elsewhere may be 0: off
            if getattr(self, name) < 1:
                raise UsageError(f"{name} starts at 1, found {getattr(self, name)}")
        if self.best_bin + self.random > 1:
            raise UsageError(
                f"best_bin and random are shares of the same commands: together at most 1, found "
                f"{self.best_bin:g} and {self.random:g}"
            )

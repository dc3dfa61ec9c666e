"""What a student can be trained by: upside-down RL, and what a user would use instead (``udrl train --method``).

pool     which episodes a method learns from: all, the best, weighted ones, or pairs
dpo      preference pairs, by TRL's DPOTrainer
grpo     completions that the student writes and the reward scores, by TRL's GRPOTrainer
payment  what a completion is paid: one reward, or several with weights
writing  what the student writes for them, to learn from or to be judged by on validation inputs
published  hyper-parameters of papers
hosting  a student as a model that TRL's trainers can train, and how they are driven
watch    what goes wrong with a method, seen while it trains, with advice

All but `Udrl` train a student that takes no command, unless the student that it starts from does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, ClassVar

from udrl.errors import MissingDependency, UsageError, is_installed, unknown

RELEVANCE = "relevance"


@dataclass(frozen=True)
class Udrl:
    """Upside-down RL: what an episode achieved is part of its prompt (arXiv 1912.02875)."""

    name: ClassVar[str] = "udrl"


@dataclass(frozen=True)
class Sft:
    """Supervised fine-tuning on all completions, without commands. Derived episodes are left out."""

    name: ClassVar[str] = "sft"


@dataclass(frozen=True)
class Top:
    """SFT on the ``share`` of each task's episodes with the highest returns."""

    name: ClassVar[str] = "top"
    reward: str = RELEVANCE
    share: float = 0.2

    def __post_init__(self) -> None:
        _check(self, "share", 0 < self.share <= 1, "within (0, 1]")


@dataclass(frozen=True)
class Weighted:
    """SFT with episodes weighted by exp(z / temperature), z the return standardised within its task.

    That is reward-weighted regression (Peters & Schaal 2007; Peng et al. 2019, arXiv 1910.00177).
    """

    name: ClassVar[str] = "weighted"
    reward: str = RELEVANCE
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "temperature", self.temperature > 0, "above 0")


@dataclass(frozen=True)
class Dpo:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), by TRL's DPOTrainer.

    gap: least difference of the two returns of a pair, as a share of the range of its task's middle 80 %. beta: how
    strongly the student is held to where it starts; None: 0.1, and 5 where the log-likelihoods are
    ``length_normalised`` (as in Tulu 3, arXiv 2411.15124).
    """

    name: ClassVar[str] = "dpo"
    reward: str = RELEVANCE
    gap: float = 0.25
    beta: float | None = None
    length_normalised: bool = False

    def __post_init__(self) -> None:
        _check(self, "gap", self.gap >= 0, "0 or more")
        _check(self, "beta", self.beta is None or self.beta > 0, "above 0")

    @property
    def strength(self) -> float:
        """The beta that holds."""
        return self.beta if self.beta is not None else 5.0 if self.length_normalised else 0.1


@dataclass(frozen=True)
class Grpo:
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300), by TRL's GRPOTrainer.

    reward: by name, or several by their weights: {"accuracy": 1.0, "format": 0.5}; with a reward that can be verified,
    such as accuracy, this is RLVR (Tulu 3, arXiv 2411.15124). group_size: completions an input; kl: weight of the
    divergence from where the student starts (0: none); clip and clip_high: how far a token's probability ratio may fall
    and rise (None: as far as it may fall); updates: optimiser steps on the same completions (with 1, nothing is ever
    clipped); temperature: of the sampling. dynamic_sampling:
    replace groups whose completions all got one reward (DAPO, arXiv 2503.14476).
    """

    name: ClassVar[str] = "grpo"
    reward: str | Mapping[str, float] = RELEVANCE
    group_size: int = 8
    kl: float = 0.04
    clip: float = 0.2
    clip_high: float | None = None
    updates: int = 2
    temperature: float = 1.0
    dynamic_sampling: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.reward, str):
            object.__setattr__(self, "reward", dict(self.reward))  # a plain one, for run.json
            for name, weight in self.reward.items():
                if not isfinite(weight) or weight == 0:
                    raise UsageError(f"the weight of the reward {name} must be another number than 0, found {weight:g}")
        if not self.reward:
            raise UsageError("the method grpo needs a reward: name one")
        _check(self, "group_size", self.group_size >= 2, "2 or more: advantages are differences within a group")
        _check(self, "kl", self.kl >= 0, "0 or more")
        _check(self, "clip", 0 < self.clip < 1, "within (0, 1)")
        _check(self, "clip_high", self.clip_high is None or self.clip_high > 0, "above 0")
        _check(self, "updates", self.updates >= 1, "1 or more")
        _check(self, "temperature", self.temperature > 0, "above 0")


Method = Udrl | Sft | Top | Weighted | Dpo | Grpo
METHODS: Mapping[str, type[Method]] = {kind.name: kind for kind in (Udrl, Sft, Top, Weighted, Dpo, Grpo)}
GENTLE = 0.2
"""Learning rate of DPO and GRPO, as a share of that of the other methods for the same start (SmolTulu and Tulu 3 take a
hundredth to a sixth)."""


def method_of(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Return the method of that name with these options; UsageError for a name or option that there is not."""
    kind = METHODS.get(name)
    if kind is None:
        raise unknown("method", name, METHODS)
    known = {field.name for field in fields(kind)}
    for option in options or {}:
        if option not in known:
            having = [other.name for other in METHODS.values() if option in {f.name for f in fields(other)}]
            whose = f"it belongs to {', '.join(having)}" if having else "no method has it"
            raise UsageError(f"the method {name} has no option {option.replace('_', '-')}: {whose}")
    return kind(**(options or {}))


def record(method: Method) -> dict[str, Any]:
    """Return what run.json keeps of a method."""
    return {"name": method.name, **asdict(method)}


def through_trl(method: Method) -> bool:
    """Say whether TRL trains it."""
    return isinstance(method, Dpo | Grpo)


def check_trainable(method: Method, *, starts_from: bool, processes: int, used: Mapping[str, object]) -> None:
    """Raise UsageError where this ``method`` cannot be combined with what else is asked for.

    starts_from: whether there is a trained student to start from. used: by option, what was asked for; those that only
    make sense with commands, or in our own training loop, are looked at. MissingDependency where TRL is not installed.
    """
    given = {name for name, value in used.items() if value}
    if "max-samples" in given and not isinstance(method, Grpo):
        raise UsageError(f"--max-samples is about completions that --method grpo writes, and {method.name} writes none")
    if not isinstance(method, Udrl):
        senseless = sorted(given & {"curriculum", "balance", "attribute"})
        if senseless:
            raise UsageError(f"--{senseless[0]} is about commands, and --method {method.name} trains without: "
                             "leave it out")  # fmt: skip
    if not through_trl(method):
        return
    if not starts_from:
        raise UsageError(
            f"--method {method.name} improves a student that can write already: name one with --from RUN, such as one "
            "of udrl train --method sft"
        )
    if processes > 1:
        raise UsageError(f"--method {method.name} trains in one process: start it without torchrun")
    unknown_there = sorted(given & {"lora", "freeze", "shard", "patience"})
    if unknown_there:
        raise UsageError(f"--{unknown_there[0]} is not for --method {method.name}: leave it out")
    if not is_installed("trl"):
        raise MissingDependency(f"--method {method.name} trains by TRL, which is not here: pip install 'udrl[study]'")


def _check(method: Any, option: str, holds: bool, range_: str) -> None:
    value = getattr(method, option)
    if not holds or (isinstance(value, float) and not isfinite(value)):
        raise UsageError(f"{option.replace('_', '-')} of the method {method.name} must be {range_}, found {value:g}")

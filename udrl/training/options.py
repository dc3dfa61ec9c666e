"""How a student is trained: the training loop's options, the learning rate of every step, the optimiser."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from udrl.student.network import StudentModel


@dataclass(frozen=True)
class LoopOptions:
    """How the student is trained.

    steps, batch_size: optimiser steps, and sequences in each; micro_batch: most sequences computed at once (gradients
    of the parts of a batch are added up, normalised by the tokens of the whole batch).
    learning_rate: peak, reached after ``warmup`` (share of the steps), then by ``schedule`` down to a tenth.
    open_each, open_all: command dropout, probability that one attribute, or the whole command, is left open.
    task_temperature: tasks are drawn in proportion to size ** (1 / temperature).
    curriculum: share of the steps, at the beginning, that see only episodes in the upper half of the first attribute.
    balance: draw episodes by bin after that, see `udrl.training.balance`.
    checkpointing: compute the blocks again in the backward pass instead of keeping what they computed.
    save_every, validate_every: in steps.
    keep: the weights that stay, of the last step or of the lowest validation loss (DPO, GRPO: highest reward there).
    patience: end after so many validations in a row without a lower loss than before them (0: never).
    """

    steps: int
    batch_size: int = 64
    micro_batch: int = 64
    learning_rate: float = 3e-3
    warmup: float = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.05
    clip: float = 1.0
    open_each: float = 0.1
    open_all: float = 0.1
    task_temperature: float = 2.0
    curriculum: float = 0.0
    balance: bool = False
    checkpointing: bool = False
    save_every: int = 200
    validate_every: int = 200
    keep: Literal["last", "best"] = "last"
    patience: int = 0
    seed: int = 0


SAME_STUDENT = ("micro_batch", "checkpointing", "save_every")
"""Options that change how much memory and time a training takes, and its weights by rounding alone."""


def decisive(options: LoopOptions) -> dict[str, Any]:
    """Return the options that decide what the student becomes: a training goes on under the same ones only."""
    return {name: value for name, value in asdict(options).items() if name not in SAME_STUDENT}


def rate(step: int, options: LoopOptions) -> float:
    """Return the learning rate of ``step`` (0-based)."""
    warm = max(1, round(options.warmup * options.steps))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, options.steps - warm)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[options.schedule]
    return options.learning_rate * (0.1 + 0.9 * shape) if options.schedule != "constant" else options.learning_rate


def make_optimizer(student: StudentModel, options: LoopOptions) -> torch.optim.AdamW:
    """AdamW; weight decay on the blocks' matrices only."""
    trained = [(n, p) for n, p in student.named_parameters() if p.requires_grad]

    def decays(name: str, parameter: torch.Tensor) -> bool:
        return parameter.ndim == 2 and not name.startswith("rows.") and student.architecture.decays(name)

    decay = [p for n, p in trained if decays(n, p)]
    plain = [p for n, p in trained if not decays(n, p)]
    groups = [{"params": decay, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True)

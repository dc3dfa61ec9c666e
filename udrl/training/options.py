"""What decides how a student is trained: what a caller asks for, and what the training loop is told.

Also the learning rate of every step, and the optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from udrl.arguments import check_fields
from udrl.errors import UsageError, unknown
from udrl.training.methods import Method, Udrl

if TYPE_CHECKING:
    import torch

    from udrl.student.network import StudentModel

CALIBRATION_INPUTS = 16
"""Validation inputs a task that calibration sweeps."""
REPLAY = 0.25
"""Share of the origin's training episodes that are trained on again, against forgetting."""
SIGNS_INPUTS = 4
"""Validation inputs a task that the signs of obedience are measured on."""
NOTHING = "none"
"""Started from, where a starter would be, but not wanted."""
Keep = Literal["last", "best"]
Rendering = Literal["ids", "text"]
Schedule = Literal["cosine", "linear", "constant"]
Tracker = Literal["trackio", "wandb"]
CHOICES = {"commands": get_args(Rendering), "keep": get_args(Keep), "schedule": get_args(Schedule),
           "tracker": get_args(Tracker)}  # fmt: skip
"""What those options may be."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a caller of `udrl.train` decides. Ranges of numbers are those of `udrl.arguments.RANGES`.

    method: what the student is trained by, see `udrl.training.methods`: a name, or a method with its options.
    preset: published hyper-parameters of the method (`methods.published`), for what is not given here; the options of
    the method itself come from it where ``method`` is a name.

    student: a preset (gpt2, smollm2, gpt2-100m, gpt2-mini), or a hub id, a folder or a .gguf file of a causal language
    model; None: gpt2.
    init: "pretrained", "random" (a GPT-2 of the preset's shape), or "auto": pretrained where there are weights.
    vocab_size: tokens of the tokenizer of a student from scratch, at least 257; None: the preset's.
    start_from: the run or checkpoint of a trained student, or the name of one that ships, instead of ``student``: its
    tokenizer, weights, rows and bins are kept, and rows are added for tasks and attributes that it does not know (see
    `udrl.training.origin`). None: the starter of ``student`` where there is one, whose bins are fitted anew; "none":
    the weights alone.
    replay: share of that run's own training episodes that are trained on again, within [0, 1], against forgetting.
    refit: attributes whose bins are fitted anew to what is trained on, instead of kept.
    lora: rank of the changes that are trained instead of the pretrained matrices (0: train the matrices, see
    `udrl.training.lora`).
    freeze: blocks at the bottom that stay as they are, and with them the embeddings (0: all is trained, see
    `udrl.training.freeze`).

    selection: name of a choice among the run's training episodes (`udrl.select`); None: all of them.
    attributes: rewards to be commanded in (none: all that the episodes have; length always is one).
    commands: "ids" renders commands as control ids, "text" as words (`udrl.text_commands`).

    steps: optimiser steps, at least 1; None: as many as ``epochs`` passes take (above 0; None: 3, and 1 by DPO and
    GRPO). batch_size, learning_rate: episodes a step, and the peak; None: the preset's. row_learning_rate: the peak of
    the command space's rows; None: the preset's for pretrained weights, else the learning rate.
    micro_batch (None: the whole batch), schedule (None: cosine), warmup (None: 0.03), weight_decay, clip, curriculum,
    balance, open_each, open_all, gradient_checkpointing, save_every, validate_every, keep, patience, seed: see
    `LoopOptions`.

    calibration_inputs, signs_inputs: validation inputs a task that calibration sweeps, and whose signs of obedience are
    watched (0: none). encoder: of the rewards that calibration measures; None: the run's.
    tracker: send the figures there too. restart: forget an interrupted training instead of continuing it.

    device: auto, cpu, cuda, cuda:1, mps. precision: auto, fp32, bf16. shard: each of several processes keeps only a
    part of the weights (see `udrl.training.distributed`).

    max_samples: completions that GRPO may write and score in all (the steps are planned within); max_usd, max_minutes:
    what the training may cost in US dollars and in minutes, ended after the step that reaches it; machine_usd: US
    dollars an hour of this machine.
    """

    method: str | Method = "udrl"
    student: str | None = None
    init: str = "auto"
    start_from: Path | str | None = None
    replay: float = REPLAY
    refit: Sequence[str] = ()
    selection: str | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    row_learning_rate: float | None = None
    vocab_size: int | None = None
    attributes: Sequence[str] = ()
    commands: Rendering = "ids"
    balance: bool = False
    curriculum: float = 0.0
    open_each: float = 0.1
    open_all: float = 0.1
    calibration_inputs: int = CALIBRATION_INPUTS
    encoder: str | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    restart: bool = False
    save_every: int = 100
    micro_batch: int | None = None
    schedule: Schedule | None = None
    warmup: float | None = None
    weight_decay: float = 0.05
    clip: float = 1.0
    gradient_checkpointing: bool = False
    validate_every: int = 200
    signs_inputs: int = SIGNS_INPUTS
    keep: Keep = "last"
    patience: int = 0
    tracker: Tracker | None = None
    lora: int = 0
    freeze: int = 0
    shard: bool = False
    preset: str | None = None
    max_samples: int | None = None
    max_usd: float | None = None
    max_minutes: float | None = None
    machine_usd: float | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for what is out of its range, or cannot be asked for together."""
        check_fields(self)
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise unknown(name, str(value), choices)
        chosen = self.student is not None or self.vocab_size is not None or self.init != "auto"
        if self.start_from is not None and str(self.start_from) != NOTHING and (chosen or self.commands != "ids"):
            raise UsageError(
                f"a student that starts from {self.start_from} keeps its model, tokenizer and kind of command: leave "
                "student, init, vocab-size and commands out"
            )

    @property
    def starts_anew(self) -> bool:
        """Whether everything that a starter decides is left to it: weights, kind of command, and method."""
        return (
            self.init == "auto" and self.commands == "ids" and (self.method == "udrl" or isinstance(self.method, Udrl))
        )

    @property
    def decisive(self) -> dict[str, Any]:
        """What a call asks for, by name: a call that is repeated with the same goes on, or is told what it did."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in MAY_CHANGE}


MAY_CHANGE = ("restart", "tracker", "save_every", "micro_batch", "gradient_checkpointing")
"""Options of a training that may be others when an interrupted call is repeated."""


@dataclass(frozen=True)
class LoopOptions:
    """How the student is trained.

    steps, batch_size: optimiser steps, and sequences in each; micro_batch: most sequences computed at once (gradients
    of the parts of a batch are added up, normalised by the tokens of the whole batch).
    learning_rate: peak, reached after ``warmup`` (share of the steps), then by ``schedule`` down to a tenth.
    row_learning_rate: that of the rows of the command space, which begin alike and have to part; None: the same.
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
    row_learning_rate: float | None = None
    warmup: float = 0.03
    schedule: Schedule = "cosine"
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
    keep: Keep = "last"
    patience: int = 0
    seed: int = 0


SAME_STUDENT = ("micro_batch", "checkpointing", "save_every")
"""Options that change how much memory and time a training takes, and its weights by rounding alone."""


def decisive(options: LoopOptions) -> dict[str, Any]:
    """Return the options that decide what the student becomes: a training goes on under the same ones only."""
    return {name: value for name, value in asdict(options).items() if name not in SAME_STUDENT}


def share(step: int, options: LoopOptions) -> float:
    """Return the share of its peak that every learning rate has at ``step`` (0-based)."""
    warm = max(1, round(options.warmup * options.steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, options.steps - warm)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[options.schedule]
    return 0.1 + 0.9 * shape if options.schedule != "constant" else 1.0


def rate(step: int, options: LoopOptions) -> float:
    """Return the learning rate of ``step`` (0-based), that of the rows left aside."""
    return options.learning_rate * share(step, options)


def make_optimizer(student: StudentModel, options: LoopOptions) -> torch.optim.AdamW:
    """AdamW; weight decay on the blocks' matrices only, and a learning rate of their own for the command space's rows.

    Its groups are these matrices, everything else, and the rows. The peak of a group's rate is kept in it as "peak".
    """
    import torch

    groups: tuple[list[torch.Tensor], ...] = ([], [], [])
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim == 2 and student.architecture.decays(name)
            groups[2 if name.startswith("rows.") else 0 if decays else 1].append(parameter)
    rows = options.row_learning_rate or options.learning_rate
    decay, peaks = (options.weight_decay, 0.0, 0.0), (options.learning_rate, options.learning_rate, rows)
    made = [
        {"params": params, "weight_decay": w, "lr": peak, "peak": peak}
        for params, w, peak in zip(groups, decay, peaks, strict=True)
    ]
    return torch.optim.AdamW(made, lr=options.learning_rate, betas=(0.9, 0.95), fused=True)

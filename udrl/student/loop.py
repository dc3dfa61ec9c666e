"""The training loop: one pure function of its examples, options and seed.

Everything random is drawn from the seed and the step number, so that a loop that was stopped at any step and resumed
gives bit-identical weights (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from udrl.commands import CommandSpace
from udrl.errors import StudentError
from udrl.student.balance import balanced_order
from udrl.student.examples import Examples, batch_of, draw_open, training_order
from udrl.student.model import StudentModel
from udrl.student.packing import Indices

STATE = "training_state.pt"


@dataclass(frozen=True)
class LoopOptions:
    """How the student is trained.

    steps, batch_size: optimiser steps, and sequences in each; micro_batch: most sequences computed at once (gradients
    of the parts of a batch are added up, normalised by the tokens of the whole batch).
    learning_rate: peak, reached after ``warmup`` (share of the steps), then by ``schedule`` down to a tenth.
    open_each, open_all: command dropout, probability that one attribute, or the whole command, is left open.
    task_temperature: tasks are drawn in proportion to size ** (1 / temperature).
    curriculum: share of the steps, at the beginning, that see only episodes in the upper half of the first attribute.
    balance: draw episodes by bin after that, see `udrl.student.balance`.
    save_every, validate_every: in steps.
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
    save_every: int = 200
    validate_every: int = 200
    seed: int = 0


@dataclass(frozen=True)
class Validation:
    """Losses in nats a token on validation episodes: with true commands, and with commands shuffled among episodes.

    Their difference, the loss gap, is the cheapest sign of obedience: 0 means that commands are ignored.
    """

    step: int
    loss: float
    shuffled: float

    @property
    def gap(self) -> float:
        return self.shuffled - self.loss


Log = Callable[[int, Mapping[str, float]], None]


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
    decay = [p for n, p in student.named_parameters() if p.ndim == 2 and _decays(n)]
    plain = [p for n, p in student.named_parameters() if not (p.ndim == 2 and _decays(n))]
    groups = [{"params": decay, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True)


def _decays(name: str) -> bool:
    return not name.startswith("rows.") and not any(part in name for part in ("wte", "wpe", "embed", "lm_head"))


def run_loop(
    student: StudentModel,
    examples: Examples,
    options: LoopOptions,
    *,
    dtype: torch.dtype,
    validation: Examples | None = None,
    state_file: Path | None = None,
    fingerprint: str = "",
    log: Log | None = None,
) -> list[Validation]:
    """Train ``student`` in place and return its validations.

    state_file: where the state is saved every ``save_every`` steps, and continued from when it holds one of the same
    ``fingerprint``. log: called after every step with figures. Raises StudentError where the loss is not finite.
    """
    device = student.rows.weight.device
    optimizer = make_optimizer(student, options)
    order = _order(examples, student.space, options)
    validations: list[Validation] = []
    first = 0
    if state_file is not None and state_file.exists():
        saved = torch.load(state_file, map_location=device, weights_only=True)
        if saved["fingerprint"] == fingerprint:
            student.load_state_dict(saved["student"])
            optimizer.load_state_dict(saved["optimizer"])
            first = saved["step"]
            validations = [Validation(*v) for v in saved["validations"]]
    parameters = [p for p in student.parameters() if p.requires_grad]
    student.train()
    for step in range(first, options.steps):
        started = time.perf_counter()
        torch.manual_seed(options.seed * 1_000_003 + step)  # dropout, where the model has any
        chosen = order[step * options.batch_size : (step + 1) * options.batch_size]
        rng = np.random.default_rng([options.seed, step])
        opened = draw_open((len(chosen), len(student.space.attributes)), options.open_each, options.open_all, rng)
        tokens, total, value = 0, int(sum(len(examples.completions[i]) for i in chosen)), 0.0
        for part in range(0, len(chosen), options.micro_batch):
            rows = slice(part, part + options.micro_batch)
            batch = batch_of(examples, chosen[rows].tolist(), student.space, opened=opened[rows]).to(device)
            loss = student.losses(batch, dtype=dtype).sum() / total
            loss.backward()  # type: ignore[no-untyped-call]
            value += loss.item()
            tokens += len(batch.ids)
        if not math.isfinite(value):
            raise StudentError(
                f"the training loss is {value} at step {step}: lower the learning rate (now {options.learning_rate:g})"
            )
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options)
        optimizer.step()
        optimizer.zero_grad()
        if log is not None:
            log(step, {"loss": value, "gradient_norm": float(norm), "learning_rate": rate(step, options),
                       "tokens": tokens, "seconds": time.perf_counter() - started})  # fmt: skip
        last = step + 1 == options.steps
        if validation is not None and len(validation) and ((step + 1) % options.validate_every == 0 or last):
            validations.append(validate(student, validation, step + 1, dtype=dtype, seed=options.seed))
            if log is not None:
                log(step, {"validation_loss": validations[-1].loss, "loss_gap": validations[-1].gap})
        if state_file is not None and ((step + 1) % options.save_every == 0 or last):
            _save_state(state_file, student, optimizer, step + 1, validations, fingerprint)
    student.eval()
    return validations


def _order(examples: Examples, space: CommandSpace, options: LoopOptions) -> Indices:
    """Return the example index of every place of every batch, the curriculum's easy part first."""
    count = options.steps * options.batch_size
    early = round(options.curriculum * options.steps) * options.batch_size
    name = space.attributes[0].name
    upper = [i for i, p in enumerate(examples.positions) if p.get(name, -1.0) >= (space.bins - 1) / 2]
    parts = []
    if early and upper:
        tasks = [examples.tasks[i] for i in upper]
        order = training_order(tasks, count=early, temperature=options.task_temperature, seed=options.seed + 1)
        parts.append(np.asarray(upper)[order])
    rest = count - sum(map(len, parts))
    heat, seed = options.task_temperature, options.seed
    parts.append(
        balanced_order(examples.tasks, examples.positions, space, count=rest, temperature=heat, seed=seed)
        if options.balance
        else training_order(examples.tasks, count=rest, temperature=heat, seed=seed)
    )
    return np.concatenate(parts)


@torch.no_grad()
def validate(
    student: StudentModel, examples: Examples, step: int, *, dtype: torch.dtype, seed: int, limit: int = 256
) -> Validation:
    """Measure the loss on up to ``limit`` episodes with their own commands and with those of another of their task."""
    was_training = student.training
    student.eval()
    indices = np.random.default_rng(seed).permutation(len(examples))[:limit].tolist()
    shuffled = list(examples.positions)
    for task in sorted({examples.tasks[i] for i in indices}):
        members = [i for i in indices if examples.tasks[i] == task]
        for i, other in zip(members, members[1:] + members[:1], strict=True):
            shuffled[i] = examples.positions[other]
    other = Examples(examples.tasks, examples.inputs, examples.completions, shuffled)
    device = student.rows.weight.device
    sums = []
    for source in (examples, other):
        losses = [
            student.losses(batch_of(source, indices[k : k + 64], student.space).to(device), dtype=dtype)
            for k in range(0, len(indices), 64)
        ]
        sums.append(torch.cat(losses).mean().item())
    student.train(was_training)
    return Validation(step, sums[0], sums[1])


def _save_state(
    file: Path,
    student: StudentModel,
    optimizer: Any,
    step: int,
    validations: list[Validation],
    fingerprint: str,
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(
        {
            "fingerprint": fingerprint,
            "step": step,
            "student": student.state_dict(),
            "optimizer": optimizer.state_dict(),
            "validations": [(v.step, v.loss, v.shuffled) for v in validations],
        },
        partial,
    )
    partial.replace(file)

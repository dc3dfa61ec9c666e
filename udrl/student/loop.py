"""The training loop: one pure function of its examples, options and seed.

Everything random is drawn from the seed and the step number, so that a loop that was stopped at any step and resumed
gives bit-identical weights (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from udrl.commands import CommandSpace
from udrl.errors import StudentError, UsageError
from udrl.student.balance import balanced_order
from udrl.student.examples import Examples, batch_of, draw_open, training_order
from udrl.student.model import StudentModel
from udrl.student.packing import Indices

STATE = "training_state.pt"
BEST = "best.pt"
"""Beside the state: the weights of the lowest validation loss so far, where they are asked for."""
SIGNS_SHARE = 0.05
"""Most of the training's time that the signs of obedience may take."""


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
    checkpointing: compute the blocks again in the backward pass instead of keeping what they computed.
    save_every, validate_every: in steps.
    keep: the weights that stay, of the last step or of the lowest validation loss.
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
Signs = Callable[[], Mapping[str, float]]
"""Measures the student as it is, see `udrl.student.signs`. Must leave torch's random state alone."""


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
    decay = [p for n, p in trained if p.ndim == 2 and _decays(n)]
    plain = [p for n, p in trained if not (p.ndim == 2 and _decays(n))]
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
    signs: Signs | None = None,
) -> list[Validation]:
    """Train ``student`` in place and return its validations.

    state_file: where the state is saved every ``save_every`` steps, and continued from when it holds one of the same
    ``fingerprint``; the best weights stand beside it. log: called after every step with figures. signs: called after a
    validation, as often as `SIGNS_SHARE` of the time allows. Raises StudentError where the loss is not finite or the
    memory does not suffice, UsageError where the best weights are asked for and nothing can tell which those are.
    """
    if validation is not None and not len(validation):
        validation = None
    if (options.keep == "best" or options.patience) and (validation is None or state_file is None):
        raise UsageError(
            "the best step and patience need validation episodes, and there are none: synthesize more inputs "
            "(udrl synth --num-inputs), or keep the last step's weights"
        )
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
    best = state_file.with_name(BEST) if state_file is not None and options.keep == "best" else None
    spent = Spending()
    parameters = [p for p in student.parameters() if p.requires_grad]
    if options.checkpointing:
        switch_checkpointing(student.model, "enable")
    student.train()
    for step in range(first, options.steps):
        if out_of_patience(validations, options.patience):
            break
        started = time.perf_counter()
        torch.manual_seed(options.seed * 1_000_003 + step)  # dropout, where the model has any
        chosen = order[step * options.batch_size : (step + 1) * options.batch_size]
        with memory(step, options, examples, chosen):
            value, tokens = _gradients(student, examples, chosen, step, options, dtype)
            if not math.isfinite(value):
                raise StudentError(
                    f"the training loss is {value} at step {step}: lower the learning rate "
                    f"(now {options.learning_rate:g})"
                )
            norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip)
            for group in optimizer.param_groups:
                group["lr"] = rate(step, options)
            optimizer.step()
            optimizer.zero_grad()
        spent.step(time.perf_counter() - started)
        if log is not None:
            log(step, {"loss": value, "gradient_norm": float(norm), "learning_rate": rate(step, options),
                       "tokens": tokens, "seconds": time.perf_counter() - started})  # fmt: skip
        last = step + 1 == options.steps
        if validation is not None and ((step + 1) % options.validate_every == 0 or last):
            chunk = min(64, 2 * options.micro_batch)  # without gradients, twice as much fits
            found = validate(student, validation, step + 1, dtype=dtype, seed=options.seed, chunk=chunk)
            validations.append(found)
            figures = {"validation_loss": found.loss, "loss_gap": found.gap}
            if signs is not None and spent.allows():
                begun = time.perf_counter()
                student.eval()
                figures |= signs()
                student.train()
                spent.signs(time.perf_counter() - begun)
                figures["signs_seconds"] = spent.last
            if log is not None:
                log(step, figures)
            if best is not None and found.loss < _best_loss(best, fingerprint):
                weights = {"fingerprint": fingerprint, "step": found.step, "loss": found.loss}
                _save(best, {**weights, "student": student.state_dict()})
        if state_file is not None and ((step + 1) % options.save_every == 0 or last):
            _save_state(state_file, student, optimizer, step + 1, validations, fingerprint)
    if options.checkpointing:
        switch_checkpointing(student.model, "disable")
    if best is not None:
        student.load_state_dict(torch.load(best, map_location=device, weights_only=True)["student"])
    student.eval()
    return validations


def switch_checkpointing(model: Any, to: Literal["enable", "disable"]) -> None:
    """Call transformers' switch, which had another name in its first releases that are supported."""
    newer = getattr(model, f"activation_checkpointing_{to}", None)
    (newer or getattr(model, f"gradient_checkpointing_{to}"))()


def _gradients(
    student: StudentModel, examples: Examples, chosen: Indices, step: int, options: LoopOptions, dtype: torch.dtype
) -> tuple[float, int]:
    """Add up the gradients of one batch, part by part; return its loss in nats a token, and its number of tokens."""
    device = student.rows.weight.device
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
    return value, tokens


@contextmanager
def memory(step: int, options: LoopOptions, examples: Examples, chosen: Indices) -> Iterator[None]:
    """Turn running out of memory into one sentence that names the setting to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        longest = max(len(examples.inputs[i]) + len(examples.completions[i]) for i in chosen)
        at_once = min(options.micro_batch, options.batch_size)
        advice = (
            f"lower --micro-batch (now {at_once}; the student stays the same)"
            if at_once > 1
            else "train a smaller student or on shorter texts"
            if options.checkpointing
            else "turn on --gradient-checkpointing"
        )
        raise StudentError(
            f"out of memory at step {step}, with {at_once} sequences of up to {longest} tokens at once: {advice}"
        ) from error


@dataclass
class Spending:
    """Seconds that went into training and into the signs, so that the signs stay a small share."""

    trained: float = 0.0
    measured: float = 0.0
    last: float = 0.0
    steps: int = 0

    def step(self, seconds: float) -> None:
        """Count one training step."""
        self.trained, self.steps = self.trained + seconds, self.steps + 1

    def signs(self, seconds: float) -> None:
        """Count one measurement of the signs."""
        self.measured, self.last = self.measured + seconds, seconds

    def allows(self) -> bool:
        """Say whether another measurement fits in; the first is taken to cost as much as ten steps."""
        cost = self.last or 10 * self.trained / self.steps
        return self.measured + cost <= SIGNS_SHARE * self.trained


def out_of_patience(validations: Sequence[Validation], patience: int) -> bool:
    """Say whether the last ``patience`` validations are all no better than the best before them (0: never)."""
    if not 0 < patience < len(validations):
        return False
    losses = [v.loss for v in validations]
    return min(losses[-patience:]) >= min(losses[:-patience])


def best_of(validations: Sequence[Validation]) -> Validation:
    """Return the validation of the lowest loss, the earliest where several are equal."""
    return min(validations, key=lambda v: v.loss)


def _best_loss(file: Path, fingerprint: str) -> float:
    if not file.exists():
        return math.inf
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return float(saved["loss"]) if saved["fingerprint"] == fingerprint else math.inf


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
    student: StudentModel,
    examples: Examples,
    step: int,
    *,
    dtype: torch.dtype,
    seed: int,
    limit: int = 256,
    chunk: int = 64,
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
            student.losses(batch_of(source, indices[k : k + chunk], student.space).to(device), dtype=dtype)
            for k in range(0, len(indices), chunk)
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
    _save(
        file,
        {
            "fingerprint": fingerprint,
            "step": step,
            "student": student.state_dict(),
            "optimizer": optimizer.state_dict(),
            "validations": [(v.step, v.loss, v.shuffled) for v in validations],
        },
    )


def _save(file: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` so that whoever is interrupted leaves the file as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(dict(content), partial)
    partial.replace(file)

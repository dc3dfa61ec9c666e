"""The training loop: one pure function of its examples, options and seed.

Everything random is drawn from the seed and the step number, so that a loop that was stopped at any step and resumed
gives bit-identical weights (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from udrl.architecture.packing import Indices
from udrl.arguments import fitting_seed
from udrl.commands import CommandSpace
from udrl.errors import Diverged, StudentError, UsageError, is_out_of_memory
from udrl.files import replacing_file
from udrl.student.network import StudentModel
from udrl.training.balance import balanced_order
from udrl.training.cost import Meter
from udrl.training.distributed import ALONE, Replica, check_share, from_first, summed
from udrl.training.examples import Examples, batch_of, draw_open, token_weights, training_order
from udrl.training.options import LoopOptions, make_optimizer, rate, share
from udrl.training.ranks import Rank
from udrl.training.validation import Validation, out_of_patience, validate

BEST = "best.pt"
"""Beside the state: the weights of the lowest validation loss so far, where they are asked for."""
SIGNS_SHARE = 0.05
"""Most of the training's time that the signs of obedience may take."""

Log = Callable[[int, Mapping[str, float]], None]
Signs = Callable[[], Mapping[str, float]]
"""Measures the student as it is, see `udrl.training.signs`. Must leave torch's random state alone."""


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
    group: Rank = ALONE,
    shard: bool = False,
    meter: Meter | None = None,
) -> list[Validation]:
    """Train ``student`` in place and return its validations.

    state_file: where the state is saved every ``save_every`` steps, and continued from when it holds one of the same
    ``fingerprint``; the best weights stand beside it. log: called after every step with figures. signs: called after a
    validation, as often as `SIGNS_SHARE` of the time allows. group, shard: this process among those that train
    together, and whether each keeps only a part of the weights (see `udrl.training.distributed`); log, signs and files
    are the first one's, which alone has the student in the end. meter: whose limits end the training after a step, as
    the first process finds; all have one or none has.

    Raises Diverged where the loss is not finite, StudentError where the memory does not suffice, UsageError where the
    best weights are asked for and nothing can tell which those are, or where a batch cannot be shared.
    """
    if validation is not None and not len(validation):
        validation = None
    _check_best(options, validation, state_file)
    check_share(options.batch_size, group, shard)
    if not group.first:
        log = signs = None
    device = student.rows.weight.device
    order = batches(examples, student.space, options)
    saved = load_state(state_file, fingerprint)
    validations = [] if saved is None else [Validation(*v) for v in saved["validations"]]
    if saved is not None:
        student.load_state_dict(saved["student"])
    if options.checkpointing:
        switch_checkpointing(student.model, "enable")
    student.train()
    replica = Replica(student, group, shard=shard)
    optimizer = make_optimizer(replica.inner, options)
    if saved is not None:
        replica.load_optimizer(optimizer, saved["optimizer"])
    best = state_file.with_name(BEST) if state_file is not None and options.keep == "best" else None
    spent = Spending()
    # a training that a limit has ended is not gone on with, unless the limit was raised
    ended = saved is not None and bool(saved.get("ended")) and meter is not None and meter.ends(saved["step"])
    ended = from_first(ended, group)
    for step in range(0 if saved is None else saved["step"], options.steps):
        if ended or out_of_patience(validations, options.patience):
            break
        started = time.perf_counter()
        chosen = order[step * options.batch_size : (step + 1) * options.batch_size]
        with memory(step, options, examples, chosen, group):
            figures = _step(replica, optimizer, examples, chosen, step, options, dtype)
        spent.step(time.perf_counter() - started)
        if log is not None:
            log(step, {**figures, "seconds": time.perf_counter() - started})
        last = step + 1 == options.steps
        ended = not last and meter is not None and from_first(meter.ends(step + 1), group)
        last = last or ended
        if validation is not None and ((step + 1) % options.validate_every == 0 or last):
            with replica.whole(), memory(step, options, examples, chosen, group):
                measured = _validation(student, validation, step + 1, options, dtype, spent, log, signs, group)
                if best is not None and group.first:
                    _keep_best(best, fingerprint, measured, student)
            validations.append(from_first(measured, group))
        if state_file is not None and ((step + 1) % options.save_every == 0 or last):
            _save(state_file, replica, optimizer, fingerprint, step + 1, validations, ended=ended)
    replica.collect()
    student.to(device)
    if options.checkpointing:
        switch_checkpointing(student.model, "disable")
    if best is not None and group.first:
        student.load_state_dict(torch.load(best, map_location=device, weights_only=True)["student"])
    student.eval()
    return validations


def _check_best(options: LoopOptions, validation: Examples | None, state_file: Path | None) -> None:
    if (options.keep == "best" or options.patience) and (validation is None or state_file is None):
        raise UsageError(
            "the best step and patience need validation episodes, and there are none: synthesize more inputs "
            "(udrl synth --num-inputs), or keep the last step's weights"
        )


def _keep_best(best: Path, fingerprint: str, measured: Validation, student: StudentModel) -> None:
    """Save the weights where no validation of this training had a lower loss."""
    if measured.loss < _best_loss(best, fingerprint):
        weights = {"fingerprint": fingerprint, "step": measured.step, "loss": measured.loss}
        save_state(best, {**weights, "student": student.state_dict()})


def _save(
    state_file: Path,
    replica: Replica,
    optimizer: torch.optim.Optimizer,
    fingerprint: str,
    step: int,
    validations: list[Validation],
    *,
    ended: bool,
) -> None:
    """Collect the training's state, which all processes take part in, and save it in the first one."""
    replica.collect()
    state = {
        "fingerprint": fingerprint,
        "step": step,
        "student": replica.student.state_dict(),
        "optimizer": replica.optimizer_state(optimizer),
        "validations": [(v.step, v.loss, v.shuffled) for v in validations],
        "ended": ended,
    }
    if replica.rank.first:
        save_state(state_file, state)


def _step(
    replica: Replica,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    chosen: Indices,
    step: int,
    options: LoopOptions,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Make one optimiser step on the ``chosen`` examples and return its figures."""
    # dropout, where the model has any
    torch.manual_seed(fitting_seed(options.seed * 1_000_003 + step + (replica.rank.number << 40)))
    value, tokens = summed(_gradients(replica, examples, chosen, step, options, dtype), replica.rank)
    if not math.isfinite(value):
        raise Diverged(
            f"the training loss is {value} at step {step}: lower the learning rate (now {options.learning_rate:g})"
        )
    norm = replica.clip(options.clip)
    for one in optimizer.param_groups:
        one["lr"] = one["peak"] * share(step, options)
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": value, "gradient_norm": norm, "learning_rate": rate(step, options), "tokens": int(tokens)}


def _gradients(
    replica: Replica, examples: Examples, chosen: Indices, step: int, options: LoopOptions, dtype: torch.dtype
) -> tuple[float, float]:
    """Add up the gradients of this process's share of a batch, part by part.

    Return what the share adds to the loss in nats a token of the whole batch, and its number of tokens.
    """
    space, rank = replica.student.space, replica.rank
    rng = np.random.default_rng([options.seed, step])
    opened = draw_open((len(chosen), len(space.attributes)), options.open_each, options.open_all, rng)
    total = int(sum(len(examples.completions[i]) for i in chosen))
    chosen, opened = chosen[rank.number :: rank.count], opened[rank.number :: rank.count]
    tokens, value = 0, 0.0
    for part in range(0, len(chosen), options.micro_batch):
        rows = slice(part, part + options.micro_batch)
        batch = batch_of(examples, chosen[rows].tolist(), space, opened=opened[rows]).to(replica.device)
        with replica.adding(last=rows.stop >= len(chosen)):
            loss = (replica.module(batch, dtype=dtype) * token_weights(examples, chosen[rows], batch)).sum() / total
            (loss * rank.count).backward()  # of what the processes have, the mean is taken
        value += loss.item()
        tokens += len(batch.ids)
    return value, float(tokens)


def _validation(
    student: StudentModel,
    examples: Examples,
    step: int,
    options: LoopOptions,
    dtype: torch.dtype,
    spent: Spending,
    log: Log | None,
    signs: Signs | None,
    group: Rank,
) -> Validation:
    """Validate in the first process, and measure the signs where there is time for them."""
    if not group.first:
        return Validation(step, math.nan, math.nan)  # the first one's comes in its place
    chunk = min(64, 2 * options.micro_batch)  # without gradients, twice as much fits
    validation = validate(student, examples, step, dtype=dtype, seed=options.seed, chunk=chunk)
    commanded = {"loss_gap": validation.gap} if any(examples.positions) else {}
    figures = {"validation_loss": validation.loss, **commanded}
    if signs is not None and spent.allows():
        begun = time.perf_counter()
        student.eval()
        figures |= signs()
        student.train()
        spent.signs(time.perf_counter() - begun)
        figures["signs_seconds"] = spent.last
    if log is not None:
        log(step - 1, figures)
    return validation


def switch_checkpointing(model: Any, to: Literal["enable", "disable"]) -> None:
    """Call transformers' switch, which had another name in its first releases that are supported."""
    newer = getattr(model, f"activation_checkpointing_{to}", None)
    (newer or getattr(model, f"gradient_checkpointing_{to}"))()


@contextmanager
def memory(step: int, options: LoopOptions, examples: Examples, chosen: Indices, group: Rank = ALONE) -> Iterator[None]:
    """Turn running out of memory into one sentence that names the setting to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        longest = max(len(examples.inputs[i]) + len(examples.completions[i]) for i in chosen)
        at_once = min(options.micro_batch, options.batch_size // group.count)
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


def load_state(file: Path | None, fingerprint: str) -> dict[str, Any] | None:
    """Return the state to continue from, None where there is none."""
    if file is None or not file.exists():
        return None
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state if state["fingerprint"] == fingerprint else None


def _best_loss(file: Path, fingerprint: str) -> float:
    if not file.exists():
        return math.inf
    saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return float(saved["loss"]) if saved["fingerprint"] == fingerprint else math.inf


def save_state(file: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` so that whoever is interrupted leaves the file as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(file) as partial:
        torch.save(dict(content), partial)


def batches(examples: Examples, space: CommandSpace, options: LoopOptions) -> Indices:
    """Return the example index of every place of every batch, the curriculum's easy part first."""
    count = options.steps * options.batch_size
    early = round(options.curriculum * options.steps) * options.batch_size
    first = next((a.name for a in space.attributes), "")
    upper = [i for i, p in enumerate(examples.positions) if p.get(first, -1.0) >= (space.bins - 1) / 2]
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

"""Losses on validation episodes, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from udrl.student.network import StudentModel
from udrl.training.examples import Examples, batch_of

EPISODES = 256
"""Most episodes whose loss is measured."""


@dataclass(frozen=True)
class Validation:
    """Losses in nats a token on validation episodes: with true commands, and with commands shuffled among episodes.

    Their difference, the loss gap, is the cheapest sign of obedience: 0 means that commands are ignored. reward: what
    the completions that the student wrote for validation inputs were paid, where a method measures that.
    """

    step: int
    loss: float
    shuffled: float
    reward: float | None = None

    @property
    def gap(self) -> float:
        return self.shuffled - self.loss


def out_of_patience(validations: Sequence[Validation], patience: int) -> bool:
    """Say whether the last ``patience`` validations are all no better than the best before them (0: never)."""
    if not 0 < patience < len(validations):
        return False
    losses = [v.loss for v in validations]
    return min(losses[-patience:]) >= min(losses[:-patience])


def best_of(validations: Sequence[Validation]) -> Validation:
    """Return the validation of the highest reward, or else of the lowest loss; the earliest where several are equal."""
    return min(validations, key=lambda v: v.loss if v.reward is None else -v.reward)


@torch.no_grad()
def losses_of(
    student: StudentModel, examples: Examples, *, dtype: torch.dtype, chunk: int = 64
) -> npt.NDArray[np.float64]:
    """Return the mean loss of each example's completion under its own command, in nats a token."""
    was_training = student.training
    student.eval()
    sizes = [len(i) + len(c) for i, c in zip(examples.inputs, examples.completions, strict=True)]
    order = np.argsort(sizes, kind="stable")
    means = np.empty(len(examples))
    device = student.rows.weight.device
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        batch = batch_of(examples, rows.tolist(), student.space).to(device)
        losses = student.losses(batch, dtype=dtype).double().cpu().numpy()
        sequence = batch.sequence.cpu().numpy()
        means[rows] = np.bincount(sequence, losses) / np.bincount(sequence)
    student.train(was_training)
    return means


@torch.no_grad()
def validate(
    student: StudentModel, examples: Examples, step: int, *, dtype: torch.dtype, seed: int, chunk: int = 64
) -> Validation:
    """Measure the loss on up to EPISODES ``examples``, with their own commands and with others of their task."""
    was_training = student.training
    student.eval()
    indices = np.random.default_rng(seed).permutation(len(examples))[:EPISODES].tolist()
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

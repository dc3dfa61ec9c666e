"""Episodes as training examples: token ids and positions, and the order in which training sees them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from udrl.architecture.packing import Batch, Indices, pack
from udrl.commands import LENGTH, CommandSpace
from udrl.data.episode import Episode
from udrl.errors import StudentError
from udrl.tokenizer import encode

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Examples:
    """Encoded episodes. positions: each attribute's position or None, by name; ``task`` is the task's name.

    weights: how much each counts in the loss, None where all count alike. cut: how many inputs lost their end.
    """

    tasks: tuple[str, ...]
    inputs: list[list[int]]
    completions: list[list[int]]
    positions: list[dict[str, float]]
    weights: list[float] | None = None
    cut: int = 0

    def __len__(self) -> int:
        return len(self.tasks)


def achieved(episode: Episode) -> dict[str, float | None]:
    """Return what the episode achieved, by attribute name: its returns and its length in words."""
    return {**episode.returns, LENGTH: float(episode.horizon)}


def make_examples(
    episodes: Sequence[Episode],
    tokenizer: Any,
    space: CommandSpace,
    *,
    context: int,
    commanded: bool = True,
    weights: Sequence[float] | None = None,
) -> Examples:
    """Encode ``episodes``; the end token closes every completion.

    An episode whose sequence is longer than ``context`` loses the end of its input first; where the completion alone
    is too long, the episode is left out (the achieved values would no longer be true). commanded: whether what was
    achieved is part of the prompt, else every attribute is open. weights: one an episode.
    """
    inputs = encode(tokenizer, [e.input for e in episodes])
    completions = encode(tokenizer, [e.completion for e in episodes])
    end = tokenizer.eos_token_id
    kept: list[tuple[str, list[int], list[int], dict[str, float], float]] = []
    cut = 0
    for index, (episode, text, written) in enumerate(zip(episodes, inputs, completions, strict=True)):
        room = context - space.prompt_size - len(written)
        if room > 0 and written:
            positions = space.positions(episode.task, achieved(episode)) if commanded else {}
            weight = 1.0 if weights is None else weights[index]
            kept.append((episode.task, text[:room], [*written, end], positions, weight))
            cut += len(text) > room
    return Examples(
        tuple(k[0] for k in kept),
        [k[1] for k in kept],
        [k[2] for k in kept],
        [k[3] for k in kept],
        None if weights is None else [k[4] for k in kept],
        cut,
    )


def fitting(episodes: Sequence[Episode], tokenizer: Any, room: int) -> list[Episode]:
    """Return those whose completion has fewer than ``room`` tokens. None has more than its text has bytes."""
    long = [index for index, one in enumerate(episodes) if len(one.completion.encode()) >= room]
    written = encode(tokenizer, [episodes[index].completion for index in long]) if long else []
    out = {index for index, ids in zip(long, written, strict=True) if len(ids) >= room}
    return [one for index, one in enumerate(episodes) if index not in out]


def warn_of_long(examples: Examples, episodes: int, context: int) -> None:
    """Warn of what a student that reads ``context`` tokens does not learn from, of so many ``episodes``.

    Raises StudentError where nothing is left.
    """
    left_out = f"the completions of {episodes - len(examples):,} of {episodes:,} training episodes"
    if not len(examples):
        raise StudentError(
            f"{left_out} are empty or longer than the {context} tokens that the student reads: take one that reads more"
        )
    if len(examples) < episodes:
        warnings.warn(
            f"{left_out} are empty or longer than the {context} tokens that the student reads: they are left out, and "
            "so are their lengths from the commands",
            stacklevel=3,
        )
    if examples.cut:
        warnings.warn(
            f"{examples.cut:,} training episodes are longer than the {context} tokens that the student reads: the end "
            "of their inputs is left out",
            stacklevel=3,
        )


def batch_of(examples: Examples, indices: Sequence[int], space: CommandSpace, *, opened: Mask | None = None) -> Batch:
    """Pack the examples at ``indices``. opened: (n, attributes) booleans: which attributes are left open."""
    names = [a.name for a in space.attributes]
    prompts = []
    for row, index in enumerate(indices):
        positions: dict[str, float | None] = dict(examples.positions[index])
        if opened is not None:
            positions = {n: p for n, p in positions.items() if not opened[row, names.index(n)]}
        control = space.render(examples.tasks[index], positions)
        prompts.append(space.prompt(examples.inputs[index], control))
    return pack(prompts, [examples.completions[i] for i in indices])


def token_weights(examples: Examples, indices: Indices, batch: Batch) -> torch.Tensor | float:
    """Return how much each predicted token of ``batch`` counts, packed from the examples at ``indices``."""
    if examples.weights is None:
        return 1.0
    weights = torch.tensor([examples.weights[i] for i in indices], device=batch.sequence.device)
    return weights[batch.sequence]


def draw_open(shape: tuple[int, int], each: float, whole: float, rng: np.random.Generator) -> Mask:
    """Draw command dropout: each attribute is left open with probability ``each``, the whole command with ``whole``."""
    return (rng.random(shape) < each) | (rng.random((shape[0], 1)) < whole)


def mixing_weights(tasks: Sequence[str], temperature: float) -> Mapping[str, float]:
    """Return each task's share of the training steps: proportional to size ** (1 / temperature)."""
    names, sizes = np.unique(np.asarray(tasks), return_counts=True)
    weights = sizes.astype(float) ** (1 / temperature)
    return dict(zip(names.tolist(), (weights / weights.sum()).tolist(), strict=True))


def training_order(tasks: Sequence[str], *, count: int, temperature: float, seed: int) -> Indices:
    """Return ``count`` example indices: tasks drawn by their shares, each task's examples in shuffled passes.

    The order depends on ``tasks``, ``count`` and ``seed`` alone, so that a resumed training continues it exactly.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(tasks)
    weights = mixing_weights(tasks, temperature)
    names = list(weights)
    drawn = rng.choice(len(names), size=count, p=list(weights.values()))
    order = np.empty(count, dtype=np.int64)
    for number, name in enumerate(names):
        fill_in_passes(order, np.flatnonzero(drawn == number), np.flatnonzero(labels == name), rng)
    return order


def fill_in_passes(order: Indices, slots: Indices, members: Indices, rng: np.random.Generator) -> None:
    """Write ``members`` into the ``slots`` of ``order``: all of them, shuffled, then all of them shuffled anew."""
    passes = [rng.permutation(members) for _ in range(-(-len(slots) // len(members)))]
    if passes:
        order[slots] = np.concatenate(passes)[: len(slots)]

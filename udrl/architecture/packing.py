"""Batches without padding: sequences laid end to end, attention computed in a few groups of like length.

A sequence is ``prompt + completion + end``; labels are the tokens after each completion position. Positions count from
0 in every sequence, so that a packed batch gives exactly the loss of its sequences taken one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Sequences of like length for one attention call.

    size: number of tokens of the group, which lie next to each other in the batch. pad: (rows * length) indices into
    them that make a padded (rows, length) block; a padded place repeats the sequence's last token and comes after it,
    so that a causal mask hides it. keep: (size,) which places of the block are real, in order.
    """

    rows: int
    length: int
    size: int
    pad: torch.Tensor
    keep: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """One packed batch of N tokens, M of which predict. Produced by `pack`, consumed by the model's loss.

    ids, positions: (N,) token ids and their positions; groups cover the N tokens in order; predict: (M,) flat indices
    of the tokens whose successor is learned; labels: (M,) those successors; sequence: (M,) the row of each. starts:
    (rows + 1,) int32, where each sequence starts and the last ends; longest: tokens of the longest one.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    groups: tuple[Group, ...]
    predict: torch.Tensor
    labels: torch.Tensor
    sequence: torch.Tensor
    starts: torch.Tensor
    longest: int

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        groups = tuple(Group(g.rows, g.length, g.size, g.pad.to(device), g.keep.to(device)) for g in self.groups)
        tensors = (self.ids, self.positions, self.predict, self.labels, self.sequence, self.starts)
        ids, positions, predict, labels, sequence, starts = (t.to(device) for t in tensors)
        return Batch(ids, positions, groups, predict, labels, sequence, starts, self.longest)


def pack(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], *, groups: int = 4) -> Batch:
    """Pack sequences ``prompt + completion`` (the completion's last id is the end token).

    groups: number of attention calls; more groups pad less and call more. The last completion id only ever is a label.
    """
    lengths = np.array([len(p) + len(c) - 1 for p, c in zip(prompts, completions, strict=True)])
    order = np.argsort(lengths, kind="stable")
    ids = np.concatenate([np.array([*prompts[i], *completions[i][:-1]], dtype=np.int64) for i in order])
    sorted_lengths = lengths[order]
    starts = np.concatenate([[0], np.cumsum(sorted_lengths)])
    positions = np.arange(len(ids)) - np.repeat(starts[:-1], sorted_lengths)
    prompt_lengths = np.array([len(prompts[i]) for i in order])
    counts = sorted_lengths - prompt_lengths + 1
    first = starts[:-1] + prompt_lengths - 1
    predict = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
    labels = np.concatenate([np.asarray(completions[i], dtype=np.int64) for i in order])
    made = tuple(
        _group(starts, sorted_lengths, rows) for rows in np.array_split(np.arange(len(order)), min(groups, len(order)))
    )
    tensor = torch.from_numpy
    return Batch(
        tensor(ids),
        tensor(positions),
        made,
        tensor(predict),
        tensor(labels),
        tensor(np.repeat(order, counts)),
        tensor(starts.astype(np.int32)),
        int(lengths.max()),
    )


def _group(starts: Indices, lengths: Indices, rows: Indices) -> Group:
    longest = int(lengths[rows].max())
    first = starts[rows[0]]
    offset = np.arange(longest)[None, :]
    pad = starts[rows][:, None] - first + np.minimum(offset, lengths[rows][:, None] - 1)
    keep = np.flatnonzero((offset < lengths[rows][:, None]).ravel())
    return Group(len(rows), longest, len(keep), torch.from_numpy(pad.ravel()), torch.from_numpy(keep))


class _Pad(torch.autograd.Function):
    """Gather a group into its padded block. Padded places get no gradient: nothing real attends to them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pad: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(keep)
        return x.index_select(0, pad)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return grad.index_select(0, keep), None, None


class _Select(torch.autograd.Function):
    """Select rows by distinct indices; the backward pass writes instead of adding up, which is many times faster."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, index, grad), None


def padded(x: torch.Tensor, group: Group) -> torch.Tensor:
    """Return the group's tokens ``x`` (size, ...) as its padded block (rows * length, ...)."""
    return _Pad.apply(x, group.pad, group.keep)  # type: ignore[no-any-return,no-untyped-call]


def select(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows of ``x`` at ``index``, which must be distinct."""
    return _Select.apply(x, index)  # type: ignore[no-any-return,no-untyped-call]

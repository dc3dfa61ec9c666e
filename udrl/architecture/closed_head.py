"""Heads for programs that cannot forbid an id and whose head has no bias: their weights see that none is written.

A layer norm without gain sums to 0 over its width, so with a shift of 1 it sums to the width, whatever the input. So a
head whose rows take up the norm's own gain and shift can give every id a constant of its own: text ids keep their
logits, control ids get `NEVER`. The norm itself is written with gains and shifts of 1 (`closed_head`).

A norm by the root mean square sums to nothing certain. There, the whole network gets further channels, in the first of
which every embedding has the same small number `START`, which nothing reads or changes: it hardly counts in the mean
square, keeps its sign, and the final norm's `GAIN` there makes it large. Control ids read that channel alone
(`closed_by_constant`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEVER = -1000.0
"""Logit of an id that is not to be written: far below any text's, and small enough for half floats."""
BLOCK = 32
"""Channels that a network gets for its constant: formats of 8 bits have a scale of their own for as many."""
START = 1e-3
GAIN = 1e4
CONTROL = -1e4
"""The weight of a control id in the constant channel: its logit is START * GAIN * CONTROL over the root mean square."""


@torch.no_grad()
def closed_head(weight: Tensor, norm: Any, size: int) -> Tensor:
    """Return the head (size, width) for a final norm whose gain and shift are 1, in place of ``weight`` and ``norm``.

    Text ids get the logits that ``weight`` (text ids, width) gives behind the layer norm ``norm``, the ids above get
    `NEVER`.
    """
    width = weight.shape[1]
    made = torch.full((size, width), NEVER / width, dtype=torch.float64)
    scaled = weight.double() * norm.weight.double()
    constant = weight.double() @ norm.bias.double()
    made[: len(weight)] = scaled + ((constant - scaled.sum(1)) / width)[:, None]
    return made.float()


@torch.no_grad()
def closed_by_constant(weight: Tensor, size: int, spare: int = BLOCK) -> Tensor:
    """Return the head (size, width + spare) that reads what ``weight`` (text ids, width) reads, for the ids of text.

    The ids above get a logit far below `NEVER` for any input whose root mean square is under a hundred; without
    ``spare`` channels they get 0, for a bias to be added.
    """
    text, width = weight.shape
    made = torch.zeros(size, width + spare)
    made[:text, :width] = weight
    made[text:, width:][:, :1] = CONTROL
    return made

"""A head for programs that cannot forbid an id and whose head has no bias: its weights see that none is written.

A layer norm without gain sums to 0 over its width, so with a shift of 1 it sums to the width, whatever the input. So a
head whose rows take up the norm's own gain and shift can give every id a constant of its own: text ids keep their
logits, control ids get `NEVER`. The norm itself is written with gains and shifts of 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEVER = -1000.0
"""Logit of an id that is not to be written: far below any text's, and small enough for half floats."""


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

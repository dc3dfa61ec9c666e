"""A GPT-2 student's rows for programs that cannot forbid an id: the weights see to it that no control id is written.

Where the head can have no bias (`head`): a layer norm without gain sums to 0 over its width, so with a shift of 1 it
sums to the width, whatever the input. So a head whose rows take up the norm's own gain and shift can give every id a
constant of its own: text ids keep their logits, control ids get `NEVER`. The norm itself is written with gains and
shifts of 1.
"""

from __future__ import annotations

from typing import Any

import torch

from udrl.student.network import ROW_MULTIPLE, StudentModel

NEVER = -1000.0
"""Logit of an id that is not to be written: far below any text's, and small enough for half floats."""


def rows_of(student: StudentModel) -> int:
    """Return how many ids an export has: those of text, the control ids behind them, and unused ones."""
    return -(-(student.space.base + student.space.size) // ROW_MULTIPLE) * ROW_MULTIPLE


@torch.no_grad()
def embeddings(student: StudentModel) -> torch.Tensor:
    """Return the embedding of every id, (rows, width)."""
    base, weight = student.space.base, student.model.transformer.wte.weight
    rows = torch.zeros(rows_of(student), weight.shape[1])
    rows[:base] = weight[:base]
    rows[base : base + student.space.size] = student.rows.table()
    return rows


@torch.no_grad()
def head(weight: torch.Tensor, norm: Any, size: int) -> torch.Tensor:
    """Return the head (size, width) for a final norm whose gain and shift are 1, in place of ``weight`` and ``norm``.

    Text ids get the logits that ``weight`` (text ids, width) gives behind ``norm``, the ids above get `NEVER`.
    """
    width = weight.shape[1]
    made = torch.full((size, width), NEVER / width, dtype=torch.float64)
    scaled = weight.double() * norm.weight.double()
    constant = weight.double() @ norm.bias.double()
    made[: len(weight)] = scaled + ((constant - scaled.sum(1)) / width)[:, None]
    return made.float()


def token_names(tokenizer: Any, base: int, size: int) -> list[str]:
    """Return the tokens of ``size`` ids; those from ``base`` on, and gaps, have a name that no text is parsed to."""
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    return [known[i] if i < base and i in known else f"[unused {i}]" for i in range(size)]

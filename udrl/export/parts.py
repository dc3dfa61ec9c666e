"""What all exports of a student have in common: how its family is exported, and the rows of its ids.

Control ids stand behind those of text, as in the checkpoint, and each has a name that no text is parsed to.
"""

from __future__ import annotations

from typing import Any

import torch

from udrl import architecture
from udrl.architecture import kind_of
from udrl.architecture.protocol import Exporter
from udrl.errors import StudentError
from udrl.student.network import ROW_MULTIPLE, StudentModel


def exporter_of(student: StudentModel, named: str = "the student") -> Exporter:
    """Return how the family of ``student`` is exported; StudentError, of the student as it is ``named``: it is not."""
    exporter = student.architecture.exporter
    if exporter is None:
        names = [family.name for family in architecture.FAMILIES if family.exporter is not None]
        exported = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        raise StudentError(
            f"{named} is a {kind_of(student.model.config)}: only {exported} can be exported, torch answers for the "
            "others"
        )
    return exporter


def rows_of(student: StudentModel) -> int:
    """Return how many ids an export has: those of text, the control ids behind them, and unused ones."""
    return -(-(student.space.base + student.space.size) // ROW_MULTIPLE) * ROW_MULTIPLE


@torch.no_grad()
def embeddings(student: StudentModel) -> torch.Tensor:
    """Return the embedding of every id, (rows, width)."""
    base, weight = student.space.base, student.model.get_input_embeddings().weight
    rows = torch.zeros(rows_of(student), weight.shape[1])
    rows[:base] = weight[:base]
    rows[base : base + student.space.size] = student.rows.table()
    return rows


def token_names(tokenizer: Any, base: int, size: int) -> list[str]:
    """Return the tokens of ``size`` ids; those from ``base`` on, and gaps, have a name that no text is parsed to."""
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    return [known[i] if i < base and i in known else f"[unused {i}]" for i in range(size)]

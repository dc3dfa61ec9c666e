"""Classifier-free guidance: what a command changes, taken further than the student would by itself.

A batch has twice the rows: every prompt under its command, and the same prompt with every attribute open (the task
stays), which command dropout has trained. Logits are ``open + weight * (commanded - open)``. Any engine's session
can be guided, since all that it needs is a batch. Sanchez et al. 2023, arXiv 2306.17806.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from udrl.errors import UsageError

if TYPE_CHECKING:
    from udrl.data.run import Run
    from udrl.decoding.engine import Session


def check_guidable(run: Run) -> None:
    """Raise UsageError where ``run`` says that its student was never trained without a command."""
    if not run.facts().train.knows_open:
        raise UsageError(
            f"the student of {run.path} was trained without command dropout (open_all 0): --guidance compares with the "
            "open command, which it does not know"
        )


class GuidedSession:
    """A session over twice the rows, commanded ones first, that looks like one over the commanded rows."""

    def __init__(self, session: Session, rows: int, weight: float) -> None:
        self.session, self.rows, self.weight = session, rows, weight

    def step(self, ids: Tensor) -> Tensor:
        """Take the newest ids (B,) of the commanded rows; return guided float32 logits (B, text ids)."""
        return guided(self.session.step(torch.cat([ids, ids])), self.weight)

    def keep(self, rows: Tensor) -> None:
        """Keep these of the commanded rows, and their open counterparts."""
        self.session.keep(torch.cat([rows, rows + self.rows]))
        self.rows = len(rows)


def guided(logits: Tensor, weight: float) -> Tensor:
    """Mix logits (2 B, V), commanded rows first, into guided ones (B, V). Weight 1 is the command alone, 0 none."""
    commanded, unasked = logits.chunk(2)
    return unasked + weight * (commanded - unasked)

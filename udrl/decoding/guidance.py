"""Classifier-free guidance: what a command changes, taken further than the student would by itself.

A guided row takes two of a session: its prompt under its command, and the same prompt with every attribute open (the
task stays), which command dropout has trained. Logits are ``open + weight * (commanded - open)``. Any engine's session
can be guided, since all that it needs is a batch. Sanchez et al. 2023, arXiv 2306.17806.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from udrl.errors import UsageError

if TYPE_CHECKING:
    from udrl.data.run import Run
    from udrl.decoding.engine import Array


def check_guidable(run: Run) -> None:
    """Raise UsageError where ``run`` says that its student was never trained without a command."""
    if not run.facts().train.knows_open:
        raise UsageError(
            f"the student of {run.path} was trained without command dropout (open_all 0): --guidance compares with the "
            "open command, which it does not know"
        )


def guided(commanded: Array, unasked: Array, weight: Array | np.float32) -> Array:
    """Mix logits (B, V) of commanded rows and of the same with every attribute open, by one weight or weights (B, 1).

    Weight 1 is the command alone, 0 none.
    """
    mixed: Array = unasked + weight * (commanded - unasked)
    return mixed

"""What families with a packed forward pass of their own share: one block after the other, and the head behind them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from udrl.architecture.frozen import carried, frozen
from udrl.architecture.head import text_head, token_losses
from udrl.architecture.packing import Batch

SHARDED = "packed"
"""The method that a sharded block has: calling it gathers the block's weights, and then runs the block."""

RunBlock = Callable[..., Tensor]
"""Takes a block, hidden states (N, width), what all blocks of the family are given, and at last the places (M,) at
which alone its second half is needed, or None."""


def run_blocks(
    blocks: nn.ModuleList, run_block: RunBlock, embeddings: Tensor, *shared: Any, places: Tensor, checkpointing: bool
) -> Tensor:
    """Return what leaves the last block at ``places``: (M, width).

    embeddings: (N, width), what enters the first one. shared: what each block is given between hidden states and
    places. checkpointing: nothing within a block is kept for the backward pass; frozen blocks have none.
    """
    last, still = len(blocks) - 1, frozen(blocks)
    hidden = embeddings.detach() if still else embeddings
    for index, block in enumerate(blocks):
        if index == still > 0:
            hidden = carried(hidden, embeddings)
        run = getattr(block, SHARDED, None) or partial(run_block, block)
        arguments = (hidden, *shared, places if index == last else None)
        if checkpointing and index >= still:
            hidden = checkpoint(run, *arguments, use_reentrant=False)
        else:
            hidden = run(*arguments)
    return hidden


class PackedFamily:
    """The members of an `Architecture` that follow from ``packed_hidden`` and ``run_block`` of a family."""

    packed_hidden: Callable[..., Tensor]
    run_block: RunBlock

    def logits(self, model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
        """Return the head's logits behind ``packed_hidden``."""
        hidden = self.packed_hidden(model, embeddings, batch, dtype=dtype)
        return F.linear(hidden, text_head(model, text_size).to(dtype)).float()

    def losses(self, model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
        """Return the `token_losses` behind ``packed_hidden``."""
        hidden = self.packed_hidden(model, embeddings, batch, dtype=dtype)
        return token_losses(hidden, text_head(model, text_size).to(dtype), batch.labels)

    def block_methods(self, block: nn.Module) -> tuple[str, ...]:
        """Give ``block`` the method `SHARDED`: `run_blocks` calls a function of a block instead of the block."""
        setattr(block, SHARDED, MethodType(self.run_block, block))
        return (SHARDED,)

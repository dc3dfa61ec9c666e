"""GPT-2 as it was published: forward passes, caches, exports and students from scratch of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from udrl.architecture.gpt2.cache import Gpt2Cache, cast_weights
from udrl.architecture.gpt2.export import Gpt2Exporter
from udrl.architecture.gpt2.forward import packed_hidden, run_block
from udrl.architecture.packed import PackedFamily
from udrl.architecture.protocol import Architecture, Exporter


class Gpt2(PackedFamily):
    """GPT-2 as an `Architecture`."""

    name = "GPT-2"
    exporter: Exporter = Gpt2Exporter()
    packed_hidden = staticmethod(packed_hidden)
    run_block = staticmethod(run_block)

    def admits(self, config: Any) -> bool:
        """Say whether ``config`` is of a GPT-2 as it was published: variants compute something else."""
        return bool(
            config.model_type == "gpt2"
            and config.activation_function == "gelu_new"
            and config.scale_attn_weights
            and not config.scale_attn_by_inverse_layer_idx
            and not config.add_cross_attention
        )

    def context(self, config: Any) -> int:
        """Return the number of learned positions."""
        return int(config.n_positions)

    def prepare(self, model: Any) -> None:
        """Set attention dropout to 0: attention over sequences of any length has none, on every device alike."""
        model.config.attn_pdrop = 0.0
        for block in model.transformer.h:
            block.attn.attn_dropout.p = 0.0

    def caches(self, model: Any, *, dtype: torch.dtype, text_size: int) -> Callable[[Tensor], Gpt2Cache]:
        """Return what makes caches that grow as the completions do."""
        return partial(Gpt2Cache, model, cast_weights(model, dtype, text_size), dtype)

    def blocks(self, model: Any) -> nn.ModuleList:
        """Return the stack of blocks."""
        return cast(nn.ModuleList, model.transformer.h)

    def decays(self, name: str) -> bool:
        """Say that the tables of tokens and positions, and the head, are not decayed."""
        return not any(part in name for part in ("wte", "wpe", "lm_head"))


_: type[Architecture] = Gpt2

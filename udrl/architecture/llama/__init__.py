"""Llama and its relatives Mistral, Qwen2 and Qwen3: forward passes, caches and exports of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from udrl.architecture.llama.cache import LlamaCache, cast_weights, longest
from udrl.architecture.llama.export import LlamaExporter
from udrl.architecture.llama.forward import packed_hidden, run_block
from udrl.architecture.packed import PackedFamily
from udrl.architecture.protocol import Architecture, Exporter

ROTATIONS = ("default", "linear", "dynamic", "llama3", "yarn")
"""Scalings of the angles that do not depend on what else is computed, as long as the context is kept."""


@dataclass(frozen=True)
class Llama(PackedFamily):
    """Llama or one of its relatives as an `Architecture`.

    kinds: what transformers calls it; exporter: how it is exported.
    """

    name: str
    kinds: tuple[str, ...]
    exporter: Exporter
    packed_hidden = staticmethod(packed_hidden)
    run_block = staticmethod(run_block)

    def admits(self, config: Any) -> bool:
        """Say whether ``config`` is of this family, gated by silu, with positions that a sequence has by itself."""
        return bool(
            config.model_type in self.kinds
            and config.hidden_act == "silu"
            and (config.rope_parameters or {}).get("rope_type", "default") in ROTATIONS
        )

    def context(self, config: Any) -> int:
        """Return the number of positions, or the sliding window."""
        return longest(config)

    def prepare(self, model: Any) -> None:
        """Set attention dropout to 0: attention over sequences of any length has none, on every device alike."""
        model.config.attention_dropout = 0.0
        for block in model.model.layers:
            block.self_attn.attention_dropout = 0.0

    def caches(self, model: Any, *, dtype: torch.dtype, text_size: int) -> Callable[[Tensor], LlamaCache]:
        """Return what makes caches that grow as the completions do."""
        return partial(LlamaCache, model, cast_weights(model, dtype, text_size), dtype)

    def blocks(self, model: Any) -> nn.ModuleList:
        """Return the stack of blocks."""
        return cast(nn.ModuleList, model.model.layers)

    def decays(self, name: str) -> bool:
        """Say that the table of tokens and the head are not decayed."""
        return not any(part in name for part in ("embed_tokens", "lm_head"))


_EVERYWHERE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
LLAMA = Llama("Llama, Mistral", ("llama", "mistral"), LlamaExporter("llama", True, _EVERYWHERE))
QWEN2 = Llama("Qwen2", ("qwen2",), LlamaExporter("qwen2", biases=("attn_q", "attn_k", "attn_v", "output")))
QWEN3 = Llama("Qwen3", ("qwen3",), LlamaExporter("qwen3"))

_: type[Architecture] = Llama

"""Any causal language model: it computes through transformers' whole forward, for families without a fast path.

The model's own head is called as a part of that forward, so that scales, soft caps and biases of the logits count.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from udrl.architecture.frozen import carried, frozen
from udrl.architecture.packing import Batch, padded, select
from udrl.architecture.padding import stacked
from udrl.architecture.protocol import Architecture

UNBOUNDED = 2048
"""Ids that a network reads which declares no limit, as those without learned positions may (BLOOM's ALiBi)."""


def declared_context(config: Any) -> int | None:
    """Return the longest sequence, prompt and completion together, that a config names, in ids; None: it names none."""
    config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length"):
        limit = getattr(config, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def takes_positions(module: nn.Module) -> bool:
    """Say whether a module's forward can be told positions: those without an argument for them count by the mask."""
    return _takes(module, "position_ids")


def _takes(module: nn.Module, name: str) -> bool:
    return name in signature(type(module).forward).parameters


def with_weight(embedding: nn.Module, weight: Tensor) -> nn.Module:
    """Return an embedding that does with the rows of ``weight`` what ``embedding`` does with its own, scales included.

    It shares everything else with ``embedding``, and stands by itself: callers in other threads do not see it.
    """
    made: Any = copy.copy(embedding)
    made._parameters = {**embedding._parameters, "weight": weight}
    if getattr(made, "padding_idx", None) is not None:  # the place of a row of ``embedding``'s, without a meaning here
        made.padding_idx = None
    return made  # type: ignore[no-any-return]


def whole_logits(model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
    """Return logits (M, text_size) in float32 at the predicting positions of ``batch``.

    embeddings: (N, width) of the batch's ids. Each group is computed as a block, padded on the right, where the causal
    mask hides the padding. The head sees the predicting positions alone.
    """
    parts = []
    device, blocks = embeddings.device, whole_blocks(model)
    still = frozen(blocks)
    starts = torch.tensor([0, *(group.size for group in batch.groups)]).cumsum(0).tolist()
    bounds = torch.searchsorted(batch.predict.cpu(), torch.tensor(starts)).tolist()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        for k, group in enumerate(batch.groups):
            shape = (group.rows, group.length)
            mask = torch.zeros(group.rows * group.length, dtype=torch.long, device=device)
            mask[group.keep] = 1
            positions = torch.arange(group.length, device=device).expand(shape)
            places = group.keep[batch.predict[bounds[k] : bounds[k + 1]] - starts[k]]
            hooks = [model.get_output_embeddings().register_forward_pre_hook(_only(places))]
            if 0 < still < len(blocks):
                hooks += _carry_past(blocks, still)
            try:
                out = model(
                    inputs_embeds=padded(embeddings[starts[k] : starts[k + 1]], group).view(*shape, -1),
                    attention_mask=mask.view(shape),
                    use_cache=False,
                    **({"position_ids": positions} if takes_positions(model) else {}),
                )
            finally:
                for hook in hooks:
                    hook.remove()
            parts.append(out.logits[0, :, :text_size])
    return torch.cat(parts).float()


def _only(places: Tensor) -> Any:
    """Return what gives the head the hidden states at flat ``places`` of a block, as one row (1, n, width)."""

    def select_places(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (select(inputs[0].flatten(0, 1), places)[None], *inputs[1:])

    return select_places


def _carry_past(blocks: nn.ModuleList, still: int) -> list[Any]:
    """Hook the first ``still`` blocks so that they store nothing for the backward pass; return the hooks."""
    entered: list[Tensor] = []

    def enter(hidden: Tensor) -> Tensor:
        entered[:] = [hidden]
        return hidden.detach()

    def leave(hidden: Tensor) -> Tensor:
        return carried(hidden, entered.pop())

    return [
        block.register_forward_pre_hook(_on_hidden(change), with_kwargs=True)
        for block, change in ((blocks[0], enter), (blocks[still], leave))
    ]


def _on_hidden(change: Callable[[Tensor], Tensor]) -> Any:
    """Return what changes a block's hidden states, given in place or by name, before it computes."""

    def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if inputs:
            return (change(inputs[0]), *inputs[1:]), named
        return inputs, {**named, "hidden_states": change(named["hidden_states"])}

    return hook


def whole_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the longest list of modules, which are the blocks of any family."""
    return max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)


class WholeCache:
    """Transformers' own cache of one batch, through the model's whole forward. Rows are padded on the left.

    starts: (B,) the place of each row's first id, of the ``filled`` ones.
    """

    def __init__(self, model: Any, real: Tensor, *, dtype: torch.dtype, text_size: int) -> None:
        """Begin with prompts whose real places ``real`` (B, L) says."""
        self.model, self.dtype, self.text_size = model, dtype, text_size
        self.past: Any = None
        self.starts, self.filled = real.shape[1] - real.sum(1), 0

    def run(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Read new places, given as embeddings (B, L, width) or as ids (B, L); return the logits behind the last."""
        self.filled += embeddings.shape[1]
        optional = {"position_ids": positions, "logits_to_keep": 1}
        mask = torch.arange(self.filled, device=self.starts.device) >= self.starts[:, None]
        with torch.autocast(embeddings.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            out = self.model(
                **{"inputs_embeds" if embeddings.is_floating_point() else "input_ids": embeddings},
                attention_mask=mask.long(),
                past_key_values=self.past,
                use_cache=True,
                **{name: value for name, value in optional.items() if _takes(self.model, name)},
            )
        self.past = out.past_key_values
        logits: Tensor = out.logits[:, -1, : self.text_size].float()
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, and without the places that none of them fills."""
        self.past.reorder_cache(rows)
        self.starts = self.starts[rows]
        if self.joins:
            self._move(-int(self.starts.min()))

    @property
    def joins(self) -> bool:
        """Say whether all that it holds are keys and values, of all places or of the last ones."""
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in self.past.layers)

    def join(self, other: Self) -> None:
        """Take in the rows of ``other`` behind the own ones."""
        filled = max(self.filled, other.filled)
        for one in (self, other):
            one._move(filled - one.filled)
        for mine, new in zip(self._layers(), other._layers(), strict=True):
            mine.keys, mine.values = stacked([mine.keys, new.keys]), stacked([mine.values, new.values])
        self.starts = torch.cat([self.starts, other.starts])

    def _move(self, places: int) -> None:
        """Count so many more places before all rows, or fewer."""
        self.starts, self.filled = self.starts + places, self.filled + places
        for layer in self._layers():
            if layer.is_sliding:
                layer.cumulative_length = self.filled
            layer.keys, layer.values = layer.keys[..., -self.filled :, :], layer.values[..., -self.filled :, :]

    def _layers(self) -> list[Any]:
        """Return the layers of the cache that hold something: others share the keys and values of these."""
        return [layer for layer in self.past.layers if layer.is_initialized]


class AnyCausalModel:
    """Every causal language model that transformers knows as an `Architecture`."""

    name = "any causal language model"
    exporter = None

    def admits(self, config: Any) -> bool:
        """Say yes: whether it computes the same here is checked with its weights."""
        return True

    def context(self, config: Any) -> int:
        """Return the limit that ``config`` names, else `UNBOUNDED`."""
        return declared_context(config) or UNBOUNDED

    def prepare(self, model: Any) -> None:
        """Change nothing."""

    def logits(self, model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
        """Return `whole_logits`."""
        return whole_logits(model, embeddings, batch, dtype=dtype, text_size=text_size)

    def losses(self, model: Any, embeddings: Tensor, batch: Batch, *, dtype: torch.dtype, text_size: int) -> Tensor:
        """Return the cross entropy of `whole_logits`."""
        logits = whole_logits(model, embeddings, batch, dtype=dtype, text_size=text_size)
        return F.cross_entropy(logits, batch.labels, reduction="none")

    def caches(self, model: Any, *, dtype: torch.dtype, text_size: int) -> Callable[[Tensor], WholeCache]:
        """Return what makes transformers' caches, empty."""
        return partial(WholeCache, model, dtype=dtype, text_size=text_size)

    def blocks(self, model: Any) -> nn.ModuleList:
        """Return `whole_blocks`."""
        return whole_blocks(model)

    def block_methods(self, block: nn.Module) -> tuple[str, ...]:
        """Return none: blocks compute by their own forward."""
        return ()

    def decays(self, name: str) -> bool:
        """Say that what the families call embeddings and heads is not decayed."""
        return not any(part in name for part in ("wte", "wpe", "embed", "lm_head"))


_: type[Architecture] = AnyCausalModel

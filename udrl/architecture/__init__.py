"""Architectures: what differs between families of networks, one file each, behind the protocol `Architecture`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from udrl.architecture.any import AnyCausalModel
from udrl.architecture.gpt2 import Gpt2
from udrl.architecture.llama import LLAMA, QWEN2, QWEN3
from udrl.architecture.protocol import Architecture

FAMILIES: tuple[Architecture, ...] = (Gpt2(), LLAMA, QWEN2, QWEN3, AnyCausalModel())
"""A network belongs to the first that admits it; the last admits every causal language model."""


def architecture_of(config: Any) -> Architecture:
    """Return the family that a network with this transformers ``config`` belongs to."""
    return next(family for family in FAMILIES if family.admits(config))


def kind_of(config: Any) -> str:
    """Return what transformers calls the kind of a network, from its config or what its config.json holds."""
    kind = config.get("model_type") if isinstance(config, Mapping) else config.model_type
    return str(kind) if kind else "no model_type in its config.json"

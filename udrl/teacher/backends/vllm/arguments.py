"""Arguments of vLLM's engine: which exist, which are the card's own business, which change what is written."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from udrl.errors import UsageError, suggestion
from udrl.yamlfile import read_value

CHANGE_OUTPUT = (
    "dtype",
    "quantization",
    "quantization_config",
    "kv_cache_dtype",
    "kv_cache_dtype_skip_layers",
    "tokenizer",
    "tokenizer_revision",
    "tokenizer_mode",
    "hf_overrides",
    "hf_config_path",
    "model_weights",
    "model_impl",
    "generation_config",
    "override_generation_config",
    "logits_processors",
    "speculative_config",
    "disable_sliding_window",
    "additional_config",
)
"""Arguments that are part of every ledger key. The others say where, how fast and in how much memory: changing those
between two starts asks for nothing again."""

REFUSED: Mapping[str, str] = {
    "model": "the card's key 'model' says it",
    "revision": "the card's key 'revision' says it",
    "trust_remote_code": "code of the hub's is never run",
    "hf_token": "secrets come from the environment only (HF_TOKEN)",
    "skip_tokenizer_init": "prompts are made with the tokenizer",
    "runner": "a teacher generates",
    "task_type": "a teacher generates",
}


@cache
def known_arguments() -> frozenset[str] | None:
    """Return the names that the installed vLLM's engine takes; None where none is installed.

    They are read from its source: importing vLLM takes seconds, and begins on a GPU.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).parent / "engine" / "arg_utils.py"
    if not source.is_file():
        return None
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            fields = (item.target for item in node.body if isinstance(item, ast.AnnAssign))
            return frozenset(field.id for field in fields if isinstance(field, ast.Name)) or None
    return None


def check(arguments: Mapping[str, Any], *, where: str) -> None:
    """Raise UsageError for an argument that is refused, or that the installed vLLM does not have.

    Where none is installed, names are checked by the engine itself when it starts.
    """
    known = known_arguments()
    for name in arguments:
        if name in REFUSED:
            raise UsageError(f"{where}: the engine argument '{name}' cannot be set: {REFUSED[name]}")
        if known is not None and name not in known:
            raise UsageError(
                f"{where}: unknown engine argument '{name}'{suggestion(name, known)}: see 'vllm serve --help', with "
                "underscores"
            )


def changing_output(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``arguments`` that are part of the ledger keys."""
    return {name: arguments[name] for name in CHANGE_OUTPUT if name in arguments}


def read_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts; values are YAML (``8192``, ``true``, ``fp8``, ``{a: 1}``), names may have dashes.

    Raises UsageError for what is not NAME=VALUE, is no YAML, or stands twice.
    """
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or not name:
            raise UsageError(f"'{text}' is no engine argument: write it as NAME=VALUE, such as max_model_len=4096")
        if name in arguments:
            raise UsageError(f"the engine argument '{name}' is given twice: leave one out")
        try:
            arguments[name] = read_value(value)
        except ValueError:
            raise UsageError(f"engine argument '{name}': '{value}' is no YAML value: put it into quotes") from None
    return arguments

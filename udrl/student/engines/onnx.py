"""ONNX Runtime on CPUs: the fastest way to answer without a GPU, from an export that `udrl export` made.

The key-value cache is bound to the session as input and output at once, so that a step writes its places where they
belong and nothing is copied. Rows are padded at their end; each has its own length in the cache (`graph`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from udrl.commands import CommandSpace
from udrl.decoding.engine import Array, Session
from udrl.errors import MissingDependency, StudentError, is_installed
from udrl.hardware import onnx_session
from udrl.student.engines.exports import Export

FILE = "model.onnx"
GROWTH = 64
"""Places that the cache grows by when it is full."""


def missing_packages() -> str:
    """Return the packages that running an export needs and that are not installed, or an empty text."""
    return " and ".join(name for name in ("onnxruntime",) if not is_installed(name))


class OnnxEngine:
    """An export in ONNX Runtime; threads as `udrl.hardware.threads` says."""

    name = "onnx"
    device = "cpu"

    def __init__(self, export: Export, space: CommandSpace) -> None:
        """Load ``export`` of the student whose command space is ``space``; StudentError where it is damaged."""
        facts = export.manifest
        self.space = space
        self.precision = str(facts["precision"])
        self.parameters = int(facts["parameters"])
        self.context = int(facts["context"])
        self.layers, self.heads = int(facts["layers"]), int(facts["heads"])
        self.size = int(facts["width"]) // self.heads

        try:
            self.runs = onnx_session(str(export.folder / FILE))
        except MissingDependency:
            raise
        except Exception as error:  # its exceptions have no common base but this
            said = str(error).splitlines()[0]
            raise StudentError(f"{export.folder} cannot be loaded ({said}): export again with udrl export") from error

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        """Read the prompts; return their session and the logits (B, text ids) behind each."""
        session = _Session(self, np.array([len(prompt) for prompt in prompts]))
        longest = max(map(len, prompts))
        ids = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        positions = np.arange(longest, dtype=np.int64)[None].repeat(len(prompts), 0)
        return session, session.run(ids, positions, last=session.lengths - 1)


class _Session:
    """One batch. lengths: ids that each row has in the cache, (layers, k and v, B, heads, places, size)."""

    joins = True

    def __init__(self, engine: OnnxEngine, lengths: Array) -> None:
        self.engine, self.lengths = engine, lengths.astype(np.int64)
        self._hold(np.zeros((engine.layers, 2, len(lengths), engine.heads, 0, engine.size), dtype=np.float32))

    def _hold(self, *parts: Array) -> None:
        """Make the cache of rows that hold ``lengths`` ids, and room for more, out of ``parts`` with some rows each."""
        layers, two, _, heads, _, size = parts[0].shape
        places = int(self.lengths.max()) + GROWTH
        cache = np.zeros((layers, two, len(self.lengths), heads, places, size), dtype=np.float32)
        first = 0
        for part in parts:
            filled = part[..., :places, :]
            cache[:, :, first : first + part.shape[2], :, : filled.shape[4]] = filled
            first += part.shape[2]
        self._bind(cache)

    def _bind(self, cache: Array) -> None:
        """Make ``cache`` the place where keys and values are read and written."""
        self.cache = cache
        self.binding = self.engine.runs.get().io_binding()
        for index in range(self.engine.layers):
            for part, values in zip("kv", cache[index], strict=True):
                memory = ("cpu", 0, np.float32, list(values.shape), values.ctypes.data)
                self.binding.bind_input(f"past.{index}.{part}", *memory)
                self.binding.bind_output(f"present.{index}.{part}", *memory)

    def run(self, ids: Array, positions: Array, *, last: Array) -> Array:
        """Read ids (B, L), which the rows' ``lengths`` count already; return logits (B, text ids) of the last ones."""
        logits = np.empty((len(ids), self.engine.space.base), dtype=np.float32)
        values: dict[str, Array] = {  # bound, not copied: they must live until the run is over
            "ids": ids,
            "positions": positions,
            "last": last[:, None],
            "seen": (self.lengths - 1).astype(np.int32),
            "total": np.array(self.lengths.max(), dtype=np.int32),
        }
        for name, value in values.items():
            self.binding.bind_cpu_input(name, value)
        memory = ("cpu", 0, np.float32, list(logits.shape), logits.ctypes.data)
        self.binding.bind_output("logits", *memory)
        self.engine.runs.get().run_with_iobinding(self.binding)
        return logits

    def step(self, ids: Array) -> Array:
        """Take the newest ids (B,) and return logits (B, text ids)."""
        positions = self.lengths
        self.lengths = self.lengths + 1
        if self.lengths.max() > self.cache.shape[4]:
            self._hold(self.cache)
        return self.run(ids.astype(np.int64)[:, None], positions[:, None], last=np.zeros_like(positions))

    def keep(self, rows: Array) -> None:
        """Go on with these rows (n,) only."""
        self.lengths = self.lengths[rows]
        self._hold(self.cache[..., : int(self.lengths.max()), :].take(rows, axis=2))

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Array]:
        """Read other prompts."""
        return self.engine.start(prompts)

    def join(self, other: Self) -> None:
        """Take in the rows of ``other`` behind the own ones."""
        self.lengths = np.concatenate([self.lengths, other.lengths])
        self._hold(self.cache, other.cache)

"""ONNX Runtime on CPUs: the fastest way to answer without a GPU, from an export that `udrl export` made.

The key-value cache is bound to the session as input and output at once, so that a step writes its places where they
belong and nothing is copied. Rows are padded at their end; each has its own length in the cache (`graph`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from udrl.commands import CommandSpace
from udrl.decoding.engine import Session
from udrl.encoder.onnx import runtime
from udrl.errors import StudentError, is_installed
from udrl.forks import OfProcess
from udrl.student.engines.exports import Export

FILE = "model.onnx"
GROWTH = 64
"""Places that the cache grows by when it is full."""


def missing_packages() -> str:
    """Return the packages that running an export needs and that are not installed, or an empty text."""
    return " and ".join(name for name in ("onnxruntime",) if not is_installed(name))


class OnnxEngine:
    """An export in ONNX Runtime; as many threads as torch has, which follows OMP_NUM_THREADS, else the cores."""

    name = "onnx"
    device = torch.device("cpu")

    def __init__(self, export: Export, space: CommandSpace) -> None:
        """Load ``export`` of the student whose command space is ``space``; StudentError where it is damaged."""
        ort = runtime()
        facts = export.manifest
        self.space = space
        self.precision = str(facts["precision"])
        self.parameters = int(facts["parameters"])
        self.context = int(facts["context"])
        self.layers, self.heads = int(facts["layers"]), int(facts["heads"])
        self.size = int(facts["width"]) // self.heads

        def session() -> Any:
            options = ort.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.inter_op_num_threads = 1
            options.log_severity_level = 3
            try:
                return ort.InferenceSession(str(export.folder / FILE), options, ["CPUExecutionProvider"])
            except Exception as error:  # its exceptions have no common base but this
                said = str(error).splitlines()[0]
                raise StudentError(
                    f"{export.folder} cannot be loaded ({said}): export again with udrl export"
                ) from error

        self.runs = OfProcess(session)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Session, Tensor]:
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

    def __init__(self, engine: OnnxEngine, lengths: np.ndarray[Any, Any]) -> None:
        self.engine, self.lengths = engine, lengths.astype(np.int64)
        rows, places = len(lengths), int(lengths.max()) + GROWTH
        self._bind(torch.zeros(engine.layers, 2, rows, engine.heads, places, engine.size))

    def _bind(self, cache: Tensor) -> None:
        """Make ``cache`` the place where keys and values are read and written."""
        self.cache = cache
        self.binding = self.engine.runs.get().io_binding()
        for index in range(self.engine.layers):
            for part, values in zip("kv", cache[index], strict=True):
                place = ("cpu", 0, np.float32, list(values.shape), values.data_ptr())
                self.binding.bind_input(f"past.{index}.{part}", *place)
                self.binding.bind_output(f"present.{index}.{part}", *place)

    def run(self, ids: np.ndarray[Any, Any], positions: np.ndarray[Any, Any], *, last: np.ndarray[Any, Any]) -> Tensor:
        """Read ids (B, L), which the rows' ``lengths`` count already; return logits (B, text ids) of the last ones."""
        logits = torch.empty(len(ids), self.engine.space.base)
        values: dict[str, np.ndarray[Any, Any]] = {  # bound, not copied: they must live until the run is over
            "ids": ids,
            "positions": positions,
            "last": last[:, None],
            "seen": (self.lengths - 1).astype(np.int32),
            "total": np.array(self.lengths.max(), dtype=np.int32),
        }
        for name, value in values.items():
            self.binding.bind_cpu_input(name, value)
        place = ("cpu", 0, np.float32, list(logits.shape), logits.data_ptr())
        self.binding.bind_output("logits", *place)
        self.engine.runs.get().run_with_iobinding(self.binding)
        return logits

    def step(self, ids: Tensor) -> Tensor:
        """Take the newest ids (B,) and return logits (B, text ids)."""
        positions = self.lengths
        self.lengths = self.lengths + 1
        if self.lengths.max() > self.cache.shape[4]:
            self._bind(torch.nn.functional.pad(self.cache, (0, 0, 0, GROWTH)))
        return self.run(ids.numpy()[:, None], positions[:, None], last=np.zeros_like(positions))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (n,) only."""
        self.lengths = self.lengths[rows.numpy()]
        self._bind(self.cache[:, :, rows].contiguous())

"""Which engine a student is loaded with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from udrl.commands import CommandSpace
from udrl.decoding.engine import ENGINES, Engine
from udrl.errors import MissingDependency, StudentError, UsageError, unknown
from udrl.hardware import choose_device, torch_device, torch_dtype
from udrl.student.engines.exports import Export, find_export
from udrl.student.engines.onnx import OnnxEngine, missing_packages


def load_engine(
    folder: Path,
    space: CommandSpace,
    *,
    sampling: Mapping[str, Any],
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> Engine:
    """Load what computes for the student in ``folder``; see `udrl.student.student.load_student`.

    sampling: what the student ships with. An int8 export that was verified with another one is not chosen by itself.

    Raises UsageError for an unknown engine, and for a device or precision that contradicts it; StudentError and
    MissingDependency where an export that is named cannot be used.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if engine.startswith("onnx"):
        return OnnxEngine(_named(folder, engine, device, precision), space)
    if engine == "auto" and precision == "auto" and choose_device(device) == "cpu":
        export = _best(folder, sampling)
        if export is not None:
            return OnnxEngine(export, space)
    from udrl.student.engines.pytorch import TorchEngine
    from udrl.student.network import load_model

    where = torch_device(device)
    return TorchEngine(load_model(folder, space).to(where), torch_dtype(precision, where))


def _named(folder: Path, engine: str, device: str, precision: str) -> Export:
    if device not in ("auto", "cpu") or precision not in ("auto", engine.removeprefix("onnx-")):
        raise UsageError(f"engine {engine} computes on the CPU in its own precision: leave device and precision out")
    export = find_export(folder, engine)
    if export is None:
        raise StudentError(f"{folder} has no export {engine}: make one with udrl export --format onnx")
    if not export.is_current(folder):
        raise StudentError(f"{export.folder} was exported from other weights: run udrl export again")
    if missing := missing_packages():
        raise MissingDependency(f"engine {engine} needs {missing}: pip install 'udrl[onnx]'")
    return export


def _best(folder: Path, sampling: Mapping[str, Any]) -> Export | None:
    """Return the fastest verified export, or None; one that cannot be used is told in a warning."""
    for name in ("onnx-int8", "onnx-fp32"):
        export = find_export(folder, name)
        if export is None or not export.verified:
            continue
        if not export.is_current(folder):
            warnings.warn(
                f"{export.folder} was exported from other weights and is not used: run udrl export again", stacklevel=5
            )
        elif not export.was_verified_as(sampling):
            warnings.warn(
                f"{export.folder} was verified with another sampling and is not used: run udrl export again",
                stacklevel=5,
            )
        elif missing := missing_packages():
            warnings.warn(
                f"{export.folder} is not used, since {missing} is not installed: pip install 'udrl[onnx]'", stacklevel=5
            )
        else:
            return export
    return None

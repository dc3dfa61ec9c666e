"""What this machine computes with: device, precision, threads and how they wait, and sessions of ONNX Runtime.

torch is imported only where a GPU may be, or where the system does not list what its processor can.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udrl.errors import HardwareError, MissingDependency, UsageError
from udrl.forks import OfProcess, was_forked

if TYPE_CHECKING:
    import torch

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, AMD and the Windows subsystem make where there is a GPU."""

PROCESSORS = Path("/proc/cpuinfo")
CORES = Path("/sys/devices/system/cpu")


def choose_device(device: str) -> str:
    """Return ``device`` ("cpu", "cuda", "cuda:1", "mps"), or for ``auto`` the GPU where there is one, else the CPU.

    Raises HardwareError for one that cannot be used here.
    """
    if device == "cpu" or (device == "auto" and not any(Path(file).exists() for file in GPU_FILES)):
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=device).device)
    except (RuntimeError, AssertionError) as error:
        raise HardwareError(
            f"device '{device}' cannot be used ({str(error).splitlines()[0]}): try --device cpu"
        ) from error


def choose_precision(precision: str, device: str) -> str:
    """Return ``fp32`` or ``bf16``; ``auto`` is bf16 where ``device`` multiplies it itself.

    On a CPU without such instructions bf16 is emulated, about four times slower than fp32.
    """
    if precision in ("fp32", "bf16"):
        return precision
    if precision != "auto":
        raise UsageError(f"unknown precision '{precision}': use auto, bf16 or fp32")
    if device.startswith("cuda"):
        import torch

        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device == "cpu" and _multiplies_bf16() else "fp32"


def _multiplies_bf16() -> bool:
    """Say whether the processor multiplies bfloat16 itself; torch is asked where the system lists nothing (macOS)."""
    if PROCESSORS.exists():
        listed = PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
        able = {word for line in listed if line.startswith(("flags", "Features")) for word in line.split()}
        return not able.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))
    import torch

    cpu = torch.cpu.get_capabilities()
    return any(cpu.get(feature) for feature in ("avx512_bf16", "amx_bf16", "bf16"))


def torch_device(device: str) -> torch.device:
    """Return `choose_device` as torch takes it."""
    import torch

    return torch.device(choose_device(device))


def torch_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return `choose_precision` as the type of matrix products in torch."""
    import torch

    return torch.bfloat16 if choose_precision(precision, device.type) == "bf16" else torch.float32


def threads() -> int:
    """Return how many threads a session of ONNX Runtime takes, which would take every core by itself.

    One in a forked process; else as many as torch has, where it is loaded; else what OMP_NUM_THREADS says, as torch
    would; else one a core that this process may use.
    """
    if was_forked():
        return 1
    if "torch" in sys.modules:
        import torch

        return torch.get_num_threads()
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if said.isdecimal() and int(said):
        return int(said)
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return os.cpu_count() or 1
    return len({_core(cpu) for cpu in os.sched_getaffinity(0)})


def _core(cpu: int) -> str:
    """Return what tells the core of a processor: two of one core share its units."""
    siblings = CORES / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    return siblings.read_text() if siblings.exists() else str(cpu)


def onnx_is_worthwhile() -> bool:
    """Say whether ONNX Runtime is here and expected to beat torch in float32: it was measured on x86-64 only."""
    is_here = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    return is_here and platform.machine() in ("x86_64", "AMD64")


def onnx_runtime() -> Any:
    """Import onnxruntime, without the file that it otherwise keeps for telemetry in the user's cache folder.

    Raises MissingDependency where it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read while it is imported: its function comes too late
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(f"this needs ONNX Runtime ({error}): pip install 'udrl[onnx]'") from None
    return onnxruntime


def onnx_session(network: str | bytes, constants: Mapping[str, Any] | None = None) -> OfProcess:
    """Load a graph, a file's path or its bytes, on the CPU; `OfProcess.get` of what comes is its session.

    constants: arrays by name, which stand outside of the graph.
    """
    ort = onnx_runtime()

    def session() -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if constants is not None:
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in constants.values()]
            options.add_external_initializers(list(constants), values)
        return ort.InferenceSession(network, options, ["CPUExecutionProvider"])

    return OfProcess(session)


def describe() -> dict[str, Any]:
    """Return what this machine is: system, processor, cores, and GPUs where torch is already loaded."""
    processor = platform.processor() or platform.machine()
    if PROCESSORS.is_file():
        lines = PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    gpus: list[str] = []
    torch = sys.modules.get("torch")  # importing it only for this would cost seconds
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": processor, "cores": os.cpu_count(), "gpus": gpus}


def describe_in_line() -> str:
    """Return this machine in one line: processor, cores, GPUs, system."""
    facts = describe()
    gpus = ", ".join(facts["gpus"]) or "no GPU"
    return f"{facts['processor']}, {facts['cores']} cores, {gpus}, {facts['system']}"

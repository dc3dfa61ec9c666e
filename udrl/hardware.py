"""What this machine computes with, found without importing torch: whether a GPU may be here, and bfloat16 units."""

from __future__ import annotations

from pathlib import Path

GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, AMD and the Windows subsystem make where there is a GPU."""

PROCESSORS = Path("/proc/cpuinfo")


def may_have_gpu() -> bool:
    """Say whether torch may find a GPU of its device ``cuda``; where not, there is no need to ask it."""
    return any(Path(file).exists() for file in GPU_FILES)


def multiplies_bf16() -> bool:
    """Say whether the processor multiplies bfloat16 itself; elsewhere it is emulated, four times slower than float32.

    Where the system does not list what its processor can (macOS), torch is asked.
    """
    if PROCESSORS.exists():
        listed = PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
        able = {word for line in listed if line.startswith(("flags", "Features")) for word in line.split()}
        return not able.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))
    import torch

    cpu = torch.cpu.get_capabilities()
    return any(cpu.get(feature) for feature in ("avx512_bf16", "amx_bf16", "bf16"))

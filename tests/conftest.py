"""Shared fixtures, and the rule that in CI nothing is skipped."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("udrl", deadline=None)  # the first example of a test may import for seconds
settings.load_profile("udrl")

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported; the command line sets it too late for other tests

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
    from udrl.teacher.synthesis.synth import synth
    from udrl.training.train import train

    run = tmp_path_factory.mktemp("small") / "run"
    synth(run, tasks=("search-query", "text-to-image"), num_inputs=60, samples=3, seed=1)
    train(run, student="gpt2-mini", steps=20, seed=1, device="cpu", precision="fp32")
    return run


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

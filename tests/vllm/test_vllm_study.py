"""Cells of a study as tasks of Ray, which is installed where vLLM is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from udrl.errors import StudentError
from udrl.study.cells import Cell, run_cells


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cluster's processes import the tests' own modules."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_cells_over_ray_are_computed_once_and_a_failed_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [*(Cell(f"x{x}", "study_work:square", {"x": x}) for x in (2, 3)), Cell("bad", "study_work:reluctant")]
    with pytest.raises(StudentError, match=r"1 of 3 cells .*bad-\w+/log.txt"):
        run_cells(tmp_path, cells, jobs=2, ray=True)
    assert "upside down" in capsys.readouterr().err
    found = run_cells(tmp_path, cells, jobs=2, ray=True)
    assert (found["x2"]["square"], found["x3"]["square"]) == (4, 9)
    assert found["bad"] == {"went on from": "half"}
    assert os.getpid() not in {found["x2"]["pid"], found["x3"]["pid"]}
    assert found["x2"]["threads"] == str(max(1, (os.cpu_count() or 1) // 2))
    calls = [file.read_text() for file in tmp_path.glob("cells/*/made/calls.txt")]
    assert calls == ["called\n"] * 2, "finished cells are not computed again"

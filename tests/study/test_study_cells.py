"""Cells of studies: in processes of their own, resumed, failed ones named, ended with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from udrl.errors import MissingDependency, StudentError, UsageError
from udrl.study import cells as cells_module
from udrl.study.cells import MADE, SETTINGS, Cell, cell_folder, compute, run_cells
from udrl.training.checkpoint import STATE


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processes of cells import the tests' own modules."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))


def squares(*numbers: int) -> list[Cell]:
    return [Cell(f"x{x}", "study_work:square", {"x": x}) for x in numbers]


def calls(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in folder.glob("cells/*/made/calls.txt"))


def test_cells_run_in_processes_of_their_own_and_only_once(tmp_path: Path) -> None:
    found = run_cells(tmp_path, squares(2, 3, 4), jobs=2)
    assert {name: cell["square"] for name, cell in found.items()} == {"x2": 4, "x3": 9, "x4": 16}
    assert os.getpid() not in {cell["pid"] for cell in found.values()}
    assert len({cell["pid"] for cell in found.values()}) == 3
    assert found["x2"]["threads"] == str(max(1, (os.cpu_count() or 1) // 2)), "jobs share the cores"
    again = run_cells(tmp_path, squares(2, 3, 4, 5), jobs=2)
    assert again["x5"]["square"] == 25
    assert {name: again[name] for name in found} == found
    assert calls(tmp_path) == 4, "what is finished is not done again"


def test_other_settings_are_another_cell(tmp_path: Path) -> None:
    run_cells(tmp_path, [Cell("one", "study_work:square", {"x": 2})])
    assert run_cells(tmp_path, [Cell("one", "study_work:square", {"x": 5})])["one"]["square"] == 25
    assert run_cells(tmp_path, [Cell("one", "study_work:square", {"x": 2})])["one"]["square"] == 4
    assert calls(tmp_path) == 2


def test_places_decide_nothing_but_reach_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, moved = (Cell("one", "study_work:resumable", {"x": 2}, {"run": run}) for run in ("/a", "/b"))
    assert one.key == moved.key
    monkeypatch.setattr(cells_module, "_processes", lambda places, _: [(p, compute(p)) for p in places])
    assert run_cells(tmp_path, [moved])["one"] == run_cells(tmp_path, [one])["one"] == {"x": 2, "run": "/b"}


def test_state_of_a_cell_stays_until_its_result_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = cell_folder(tmp_path, Cell("one", "study_work:resumable"))
    (place / MADE).mkdir(parents=True)
    (place / SETTINGS).write_text('{"work": "study_work:resumable", "settings": {}}')
    with monkeypatch.context() as patch:
        patch.setattr(cells_module, "atomic_write", None)
        with pytest.raises(TypeError):
            compute(place)
    assert (place / MADE / STATE).is_file()
    compute(place)
    assert not (place / MADE / STATE).exists()


def test_failed_cell_is_named_stops_no_other_and_goes_on_from_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [Cell("bad", "study_work:reluctant"), *squares(7)]
    with pytest.raises(StudentError, match=r"1 of 2 cells .*bad-\w+/log.txt.*same command again"):
        run_cells(tmp_path, both)
    assert "upside down" in capsys.readouterr().err
    assert calls(tmp_path) == 1, "the other cell was computed"
    assert run_cells(tmp_path, both)["bad"] == {"went on from": "half"}
    assert calls(tmp_path) == 1


def test_what_no_cell_can_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="jobs must be at least 1"):
        run_cells(tmp_path, squares(1), jobs=0)
    with pytest.raises(UsageError, match="one name"):
        run_cells(tmp_path, [*squares(1), *squares(1)])
    monkeypatch.setattr(cells_module, "is_installed", lambda _: False)
    with pytest.raises(MissingDependency, match="pip install"):
        run_cells(tmp_path, squares(1), ray=True)


def test_processes_of_cells_end_with_a_killed_study(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from udrl.study.cells import Cell, run_cells\n"
        f"run_cells(Path({str(tmp_path)!r}), [Cell('long', 'study_work:sleepy')])"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 120
        while not (said := list(tmp_path.glob("cells/*/made/pid.txt"))) or not said[0].read_text():
            assert time.monotonic() < deadline, "the cell never began"
            time.sleep(0.1)
        pid = int(said[0].read_text())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        while _runs(pid):
            assert time.monotonic() < deadline, "the cell's process outlived the study"
            time.sleep(0.1)
    finally:
        parent.kill()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout[:1] != "Z"

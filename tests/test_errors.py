"""Files of a run that are not what udrl wrote: one line that names the file, and the run stays as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from udrl.cli import main as cli
from udrl.errors import RunError, UsageError, damaged, expect


def test_damaged_names_file_kind_and_advice_and_passes_errors_of_udrl() -> None:
    with (
        pytest.raises(RunError, match=r"^x.json is damaged \(KeyError: 'name'\): restore it$"),
        damaged(RunError, "x.json", "restore it"),
    ):
        raise KeyError("name")
    with pytest.raises(UsageError, match=r"^as it is$"), damaged(RunError, "x.json", "restore it"):
        raise UsageError("as it is")
    with pytest.raises(MemoryError), damaged(RunError, "x.json", "restore it", errors=(Exception,)):
        raise MemoryError


@pytest.mark.parametrize(("value", "kind"), [(True, int), ("3", int), (None, str), (3, str), (1, bool), ({}, list)])
def test_expect_refuses_another_kind(value: object, kind: type) -> None:
    with pytest.raises(ValueError, match=f"'count' is .* no {kind.__name__}"):
        expect(value, kind, "count")


def change(*keys: Any, to: Any) -> Callable[[str], str]:
    """Return what replaces one value of a JSON file."""

    def changed(text: str) -> str:
        data = json.loads(text)
        box = data
        for key in keys[:-1]:
            box = box[key]
        box[keys[-1]] = to
        return json.dumps(data)

    return changed


def line(number: int, **values: Any) -> Callable[[str], str]:
    """Return what changes one line of a JSON Lines file."""

    def changed(text: str) -> str:
        lines = text.splitlines()
        lines[number] = json.dumps({**json.loads(lines[number]), **values})
        return "\n".join(lines) + "\n"

    return changed


GENERATE = ("generate", "--task", "search-query", "lamp")
SYNTH = ("synth", "--task", "search-query", "--num-inputs", "60", "--samples", "3", "--no-score")


@pytest.mark.parametrize(
    ("name", "damage", "command"),
    [
        ("student/tokenizer_config.json", lambda text: text[5:], GENERATE),
        ("student/tokenizer_config.json", change("eos_token", to={"x": 1}), ("render",)),
        ("student/tokenizer.json", change("model", "merges", 3, to=[1]), GENERATE),
        ("student/calibration.json", change("sampling", to={"heat": 1}), GENERATE),
        ("student/command_space.json", change("scales", "search-query", "length", "centres", 0, to="\0"), ("render",)),
        ("run.json", change("stages", to=[]), ("render",)),
        ("run.json", change("stages", "synth", to="x"), SYNTH),
        ("inputs/search-query.seeds-1.jsonl", line(1, invented={"x": 1}), SYNTH),
        ("inputs/search-query.seeds-1.jsonl", line(0, near=[2]), SYNTH),
        ("inputs/search-query.seeds-1.jsonl", line(0, dropped=3), SYNTH),
    ],
)
def test_damaged_files_of_a_run_are_named(
    small_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[str], str],
    command: tuple[str, ...],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    file = run / name
    file.write_text(damage(file.read_text(encoding="utf-8")), encoding="utf-8")
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in (".lock", "run.json")]
    before = {path: path.read_bytes() for path in files}
    assert cli.run([*command, "--run", str(run)]) == 1
    lines = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    assert len(lines) == 1
    where = str(run / "student") if name.startswith("student/token") else str(file)
    assert where in lines[0] or str(run / "student") in lines[0]
    assert "defect" not in lines[0]
    assert {path: path.read_bytes() for path in files} == before

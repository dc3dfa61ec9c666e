"""Files of rounds that were edited, torn or mixed up: one line that names the file, never an error of Python."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from udrl.data.run import Run
from udrl.errors import RunError, UdrlError
from udrl.rounds import history
from udrl.rounds.exploration import Wish, read_wishes, write_wishes
from udrl.rounds.history import KEPT, NO_BETTER, Round, State, read_round, read_state, write_round, write_state
from udrl.rounds.options import RoundOptions
from udrl.rounds.quality import Measured

FIGURES = {"top": (0.5, 0.4, 0.6), "matched": (0.4, 0.3, 0.5), "distinct_2": (0.9, 0.8, 1.0)}
ROUND = Round(
    round=0, parent=None, weights="abc", explored=0, rejected={"echo": 2}, added=0, pool=0, originals=0,
    training={"steps": 3, "validation_loss": None}, figures=FIGURES, gain=FIGURES, diversity=1.0, verdict=KEPT,
    seconds={"measure": 0.5},
)  # fmt: skip
NEXT = replace(ROUND, round=1, parent=0, verdict=NO_BETTER)
STATE = State((ROUND, NEXT), kept=0, head=1, misses=1, stopped="no better")
WISHES = [Wish("note", "1f", "a fox", 0, "ahead", {"relevance": 0.9}, {"relevance": 3.5, "length": 2.0}, 7)]
ABOUT = {"schema": 1, "round": 1, "parent": 0, "options": {"steps": 3}, "source": {}, "aims": {}}
MEASURED = Measured({"top": {"note/1f": 0.5}, "distinct_2": {"note/0/1": 0.75}})


def _wishes(folder: Path) -> Path:
    write_wishes(folder / "plan.jsonl", WISHES, ABOUT)
    return folder / "plan.jsonl"


def _measured(folder: Path) -> Path:
    MEASURED.save(folder / history.MEASURED)
    return folder / history.MEASURED


def _round(folder: Path) -> Path:
    write_round(folder, ROUND, RoundOptions(steps=3))
    return folder / history.RECORD


def _state(folder: Path) -> Path:
    write_state(Run(folder), STATE)
    return folder / history.STATE


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any], Any]] = {
    "state": (_state, lambda path: read_state(Run(path.parent)), STATE),
    "round": (_round, lambda path: read_round(path.parent), (ROUND, RoundOptions(steps=3))),
    "measured": (_measured, Measured.load, MEASURED),
    "wishes": (_wishes, read_wishes, (ABOUT, WISHES)),
}
WRONG = (None, True, -1, 1.5, "x", [], {}, [["x"]], {"x": None})


def variants(value: Any) -> Iterator[Any]:
    """Yield ``value`` with one part missing or of another type, for every part."""
    yield from (wrong for wrong in WRONG if type(wrong) is not type(value))
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        for part in variants(value[key]):
            changed = copy.deepcopy(value)
            changed[key] = part
            yield changed
        changed = copy.deepcopy(value)
        del changed[key]
        yield changed


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_read_what_they_wrote_and_refuse_what_was_changed(tmp_path: Path, kind: str) -> None:
    write, read, right = KINDS[kind]
    path = write(tmp_path)
    assert read(path) == right
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    tried, said = 0, []
    for number, line in enumerate(lines):
        for changed in variants(json.loads(line)):
            path.write_text("\n".join([*lines[:number], json.dumps(changed), *lines[number + 1 :]]))
            tried += 1
            try:
                read(path)
            except UdrlError as error:
                said.append(str(error))
    assert tried > 30
    assert len(said) > tried / 2
    assert all(str(path) in one or "must be" in one or "starts at" in one for one in said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'"x"', b"[1]", b"{}"])
def test_rounds_name_a_file_that_is_torn(tmp_path: Path, kind: str, content: bytes) -> None:
    write, read, _ = KINDS[kind]
    path = write(tmp_path)
    path.write_bytes(content)
    with pytest.raises(RunError, match=str(path)):
        read(path)


def test_rounds_refuse_a_state_that_names_no_round_of_its_own(tmp_path: Path) -> None:
    write_state(Run(tmp_path), State((ROUND,), kept=3, head=0))
    with pytest.raises(RunError, match=r"rounds.json: names the round 3, which is none of its rounds: restore it, or"):
        read_state(Run(tmp_path))

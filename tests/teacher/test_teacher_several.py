"""Several teachers in one synthesis, and the built-in one's keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from paid_teacher import IMAGE, Maker, Paid, card_file, maker, start_paid, writers

from udrl.data.episodes import read_episodes
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.tasks import shipped_tasks
from udrl.errors import UsageError
from udrl.teacher.synthesis.plan import read_teachers
from udrl.teacher.synthesis.synth import synth


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Paid]:
    """The teachers of the test by name; each is made at its first start."""
    return start_paid(monkeypatch)


@pytest.fixture
def make(tmp_path: Path, started: dict[str, Paid]) -> Maker:
    """Synthesise 60 inputs with 2 samples, with the teacher ``a`` unless told otherwise."""
    return maker(tmp_path)


# --- several teachers


def two(tmp_path: Path) -> list[str]:
    return [f"{card_file(tmp_path, 'a')}=3", f"{card_file(tmp_path, 'b', prices=(2.0, 2.0), licence='llama3')}"]


def test_teachers_share_the_completions_by_their_weights(make: Any, started: dict[str, Paid], tmp_path: Path) -> None:
    report = make(teacher=two(tmp_path), num_inputs=100, samples=4)
    share = writers(tmp_path / "run")
    assert sum(share.values()) == report.written == 400
    assert 270 <= share["a"] <= 330, "three in four, by chance of a hash"
    places = Counter((row["input_id"], row["sample"]) for _, row in Ledger(tmp_path / "run" / "ledger").rows())
    assert set(places.values()) == {1}, "each completion is one teacher's"
    assert started["a"].events[-2:] != ["ask", "ask"]
    assert started["a"].events.index("close") == share["a"], "the first is closed before the second begins"
    facts = Run(tmp_path / "run").facts().synth
    assert {name: card.licence for name, card in facts.teachers.items()} == {"a": "mit", "b": "llama3"}
    assert {name: card.weight for name, card in facts.teachers.items()} == {"a": 3.0, "b": 1.0}
    assert facts.cost.usd == pytest.approx(share["a"] * 200e-6 + share["b"] * 240e-6)
    card = (tmp_path / "run" / "episodes" / "README.md").read_text(encoding="utf-8")
    assert "what a allows" in card
    assert "what b allows" in card
    assert "license:" not in card, "no single licence holds for both"
    assert {e.teacher for e in read_episodes(tmp_path / "run" / "episodes")} == {"a", "b"}


def test_teachers_in_any_order_share_alike(make: Any, started: dict[str, Paid], tmp_path: Path) -> None:
    make("one", teacher=two(tmp_path))
    make("other", teacher=two(tmp_path)[::-1])
    rows = [
        {(row["key"], row["teacher"]) for _, row in Ledger(tmp_path / name / "ledger").rows()}
        for name in ("one", "other")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 120


def test_teachers_with_other_weights_write_nothing_again(make: Any, started: dict[str, Paid], tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", card_file(tmp_path, "b")
    make(teacher=[f"{a}=3", f"{b}"])
    before = writers(tmp_path / "run")
    again = make(teacher=[f"{a}", f"{b}=3"])
    assert (again.already, again.written) == (120, 0)
    assert writers(tmp_path / "run") == before
    more = make(teacher=[f"{a}", f"{b}=3"], samples=8)
    added = writers(tmp_path / "run") - before
    assert more.written == added.total() == 360
    assert added["b"] > 2 * added["a"], "new weights hold for what is new"
    third = make(teacher=[str(a), str(b), str(card_file(tmp_path, "c"))], samples=8)
    assert (third.already, third.written) == (480, 0)
    alone = make(teacher=card_file(tmp_path, "d"))
    assert alone.written == 120, "a teacher who is named alone writes everything"


def test_teachers_go_on_after_a_stop_in_the_middle(make: Any, started: dict[str, Paid], tmp_path: Path) -> None:
    stopped = make("stopped", teacher=two(tmp_path), max_tokens=3000)
    assert stopped.stopped
    assert set(writers(tmp_path / "stopped")) == {"a"}
    make("stopped", teacher=two(tmp_path), max_tokens=9000)
    make("stopped", teacher=two(tmp_path))
    make("straight", teacher=two(tmp_path))
    splits = ("train", "validation", "test")
    one, other = (read_episodes(tmp_path / name / "episodes", splits=splits) for name in ("stopped", "straight"))
    assert one == other


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["builtin=0"], "its weight must be a number above 0"),
        (["builtin=-2"], "its weight must be a number above 0"),
        (["builtin=much"], "its weight must be a number above 0"),
        (["builtin=nan"], "its weight must be a number above 0"),
        (["builtin", "llama3", "builtin=2"], "teacher 'builtin' is named twice"),
        ([], "no teacher is named"),
        (["bultin=2"], r"unknown teacher 'bultin' \(did you mean builtin\?\)"),
    ],
)
def test_teachers_are_refused_with_what_is_wrong(entries: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_teachers(entries)


def test_teachers_are_read_with_weights_and_odd_paths(tmp_path: Path) -> None:
    odd = tmp_path / "run=3" / "x=2"
    odd.mkdir(parents=True)
    path = card_file(odd, "own")
    found = read_teachers([path, "llama3=2", "qwen2"])
    assert [(card.name, weight) for card, weight in found] == [("own", 1.0), ("llama3", 2.0), ("qwen2", 1.0)]
    assert [(card.name, weight) for card, weight in read_teachers([f"{path}=0.5"])] == [("own", 0.5)]


def test_teachers_recorded_outputs_stand_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recorded outputs are taken by a start of their own"):
        synth(tmp_path / "run", teacher=["builtin", "recorded:own.jsonl"])
    with pytest.raises(UsageError, match="leave limits out"):
        synth(tmp_path / "run", teacher="recorded:own.jsonl", max_tokens=5)


# --- keys of the built-in teacher


def test_builtin_teacher_writes_anew_where_the_lexicon_was_edited(tmp_path: Path) -> None:
    own = tmp_path / f"{IMAGE}.yaml"
    text = shipped_tasks()[IMAGE].read_text(encoding="utf-8")
    own.write_text(text, encoding="utf-8")
    options: dict[str, Any] = {"num_inputs": 10, "samples": 2, "score": False}
    assert synth(tmp_path / "run", tasks=[own], **options).written == 20
    assert synth(tmp_path / "run", tasks=[own, "search-query"], **options).written == 20, "of the other task"
    assert synth(tmp_path / "run", tasks=[own], **options).written == 0
    task = yaml.safe_load(text)
    task["lexicon"]["closers"].append("with one more closer")
    own.write_text(yaml.safe_dump(task), encoding="utf-8")
    assert synth(tmp_path / "run", tasks=[own], **options).written == 20

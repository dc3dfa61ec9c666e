"""Synthesis: which inputs, which requests, and that nothing is asked twice."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deduplication import deduplicate
from echo_teacher import IMAGE, Echo, all_episodes, rows, small, start_echo, write_inputs

from udrl.data.hashing import hash_hex
from udrl.data.inputs import input_id
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.survey import survey
from udrl.data.tasks import load_tasks, seeds
from udrl.errors import InputError, RunError, TaskError, TeacherError, UsageError
from udrl.teacher.synthesis import input_choice
from udrl.teacher.synthesis.input_choice import choose_inputs
from udrl.teacher.synthesis.synth import TooManyFailed


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    """The teacher that every synthesis of the test starts."""
    return start_echo(monkeypatch)


# --- what is asked and what comes of it


def test_synthesis_fills_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    report = small(run, tasks=[IMAGE, "search-query"], num_inputs=30, samples=3)
    assert report.inputs == {IMAGE: 30, "search-query": 30}
    assert (report.requests, report.already, report.written, report.failed) == (180, 0, 180, 0)
    counts = Counter((row["task"], row["input_id"]) for row in rows(run))
    assert len(counts) == 60
    assert set(counts.values()) == {3}
    assert report.episodes["teacher"] == 180
    assert len(all_episodes(run)) == report.episodes["total"]
    facts = Run(run).facts().synth
    assert facts.seed == 0
    assert facts.responses == {"earlier": 0, "written": 180, "failed": 0}
    assert facts.teachers["builtin"].licence == "apache-2.0"
    card = (run / "episodes" / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "teacher builtin" in card


def test_synthesis_requests_hold_the_tasks_instruction(tmp_path: Path, echo: Echo) -> None:
    small(tmp_path / "run")
    [task] = load_tasks([IMAGE])
    request = echo.asked[0]
    assert request.messages == ({"role": "user", "content": task.request(request.input)},)
    assert request.input in request.messages[0]["content"]
    assert "{" not in request.messages[0]["content"]
    assert echo.closed


def test_synthesis_is_decided_by_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        small(tmp_path / name, seed=seed, num_inputs=200, samples=1)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert all_episodes(tmp_path / "a") == all_episodes(tmp_path / "b")
    first, other = ({row["input"] for row in rows(tmp_path / name)} for name in ("a", "c"))
    assert first != other


def test_synthesis_with_more_samples_only_adds(tmp_path: Path, echo: Echo) -> None:
    small(tmp_path / "run", samples=4)
    before = {request.key for request in echo.asked}
    echo.asked.clear()
    report = small(tmp_path / "run", samples=8)
    assert (report.requests, report.already, report.written) == (160, 80, 80)
    assert {request.sample for request in echo.asked} == {4, 5, 6, 7}
    assert not before & {request.key for request in echo.asked}
    at_once = tmp_path / "at_once"
    small(at_once, samples=8)
    assert all_episodes(at_once) == all_episodes(tmp_path / "run")


def test_synthesis_with_more_inputs_only_adds(tmp_path: Path, echo: Echo) -> None:
    small(tmp_path / "run", num_inputs=170)
    report = small(tmp_path / "run", num_inputs=250)
    assert (report.already, report.written) == (340, 160)
    small(tmp_path / "at_once", num_inputs=250)
    assert all_episodes(tmp_path / "at_once") == all_episodes(tmp_path / "run")
    assert small(tmp_path / "run", num_inputs=10).requests == 20


def test_synthesis_again_asks_for_nothing(tmp_path: Path, echo: Echo) -> None:
    small(tmp_path / "run")
    before = all_episodes(tmp_path / "run")
    echo.asked.clear()
    report = small(tmp_path / "run")
    assert (echo.asked, report.written, report.already) == ([], 0, 40)
    assert all_episodes(tmp_path / "run") == before


def test_synthesis_dry_run_counts_and_writes_nothing(tmp_path: Path, echo: Echo) -> None:
    report = small(tmp_path / "run", dry_run=True)
    assert (report.requests, report.already, report.dry_run) == (40, 0, True)
    assert list(tmp_path.iterdir()) == []
    small(tmp_path / "run")
    asked = len(echo.asked)
    report = small(tmp_path / "run", samples=3, dry_run=True)
    assert (report.requests, report.already) == (60, 40)
    assert len(echo.asked) == asked


def test_synthesis_keeps_failures_and_retries_them_when_told(tmp_path: Path, echo: Echo) -> None:
    [task] = load_tasks([IMAGE])
    echo.fail = set(seeds(task)[:60])
    with pytest.raises(TooManyFailed, match=r"28\.0% of the .* failed, .* 5\.0% .*: 56 timeout") as caught:
        small(tmp_path / "run", num_inputs=100)
    report = caught.value.report
    assert (report.written, report.failed, report.failures) == (144, 56, {"timeout": 56})
    assert report.episodes["teacher"] == 144, "what was written became episodes before the failure was reported"
    assert len(survey(Ledger(tmp_path / "run" / "ledger")).failed) == report.failed
    assert {e.input for e in all_episodes(tmp_path / "run")}.isdisjoint(echo.fail)
    echo.fail = set()
    with pytest.raises(TooManyFailed, match=r"28\.0%"):
        small(tmp_path / "run", num_inputs=100)
    assert small(tmp_path / "run", num_inputs=100, max_failure_rate=0.28).written == 0
    again = small(tmp_path / "run", num_inputs=100, retry_failed=True)
    assert (again.written, again.already) == (report.failed, report.written)
    small(tmp_path / "at_once", num_inputs=100)
    assert all_episodes(tmp_path / "at_once") == all_episodes(tmp_path / "run")


def test_synthesis_fails_clearly_when_everything_failed(tmp_path: Path, echo: Echo) -> None:
    [task] = load_tasks([IMAGE])
    echo.fail = set(seeds(task))
    with pytest.raises(TeacherError, match="all 40 requests to teacher 'builtin' failed; the first: timeout: no"):
        small(tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 40


# --- which inputs


def test_synthesis_takes_the_users_inputs_without_duplicates(tmp_path: Path, echo: Echo) -> None:
    long = "a red fox asleep under an old apple tree at dawn, soft morning light over the garden"
    texts = ["a blue jay", "A  Blue Jay", long, long + "!", long.replace("over the", "over a"), "", "a grey heron"]
    report = small(tmp_path / "run", inputs=write_inputs(tmp_path, texts))
    kept = {request.input for request in echo.asked}
    assert len(kept) == 3
    assert {"a grey heron"} < kept
    assert (report.given, report.blank, report.exact, report.near) == (6, 1, 1, 2)
    assert report.invented == 0
    again = small(tmp_path / "run", inputs=write_inputs(tmp_path, texts))
    assert (again.exact, again.near, again.written) == (1, 2, 0)


def test_synthesis_draws_from_a_larger_file_by_the_seed(tmp_path: Path) -> None:
    texts = [f"{animal} with {n} {thing}" for n in range(9) for animal in ("fox", "jay") for thing in ("hats", "boots")]
    path = write_inputs(tmp_path, texts)
    drawn = {}
    for seed in (0, 1):
        small(tmp_path / str(seed), inputs=path, num_inputs=5, samples=1, seed=seed)
        drawn[seed] = {row["input"] for row in rows(tmp_path / str(seed))}
        assert len(drawn[seed]) == 5
        assert drawn[seed] < set(texts)
    assert drawn[0] != drawn[1]


def test_synthesis_fills_up_a_file_only_when_told(tmp_path: Path, echo: Echo) -> None:
    path = write_inputs(tmp_path, ["a blue jay", "a grey heron"])
    assert small(tmp_path / "a", inputs=path).inputs == {IMAGE: 2}
    report = small(tmp_path / "b", inputs=path, invent=True)
    assert (report.inputs, report.invented) == ({IMAGE: 20}, 18)
    [task] = load_tasks([IMAGE])
    given = len(seeds(task))
    assert small(tmp_path / "c", invent=False, num_inputs=given + 50).invented == 0


def test_synthesis_inputs_are_distinct_and_stored(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    [task] = load_tasks([IMAGE])
    options: dict[str, Any] = {"texts": None, "num_inputs": 600, "seed": 0, "invent": True}
    with run.writing():
        [chosen] = choose_inputs(run, [task], **options)
        assert len(deduplicate(chosen.inputs).kept) == 600
        assert 300 < chosen.invented < 600
        [stored] = run.inputs.iterdir()
        assert choose_inputs(run, [task], **options) == [chosen]
        content = stored.read_bytes()
        stored.unlink()
        assert choose_inputs(run, [task], **options) == [chosen]
        assert stored.read_bytes() == content
        # Asking for more goes on where the selection ended; the counts are those of one walk.
        [more] = choose_inputs(run, [task], **{**options, "num_inputs": 900})
        assert more.inputs[:600] == chosen.inputs
        stored.unlink()
        assert choose_inputs(run, [task], **{**options, "num_inputs": 900}) == [more]
        stored.write_text("{}\n")
        with pytest.raises(RunError, match="is damaged"):
            choose_inputs(run, [task], **options)


def test_synthesis_with_more_inputs_passes_over_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicates between inputs that are there already say nothing about what comes behind them."""

    def scattered(*_: object, **__: object) -> Iterator[str]:
        for number in itertools.count():
            yield from (f"heron {number:x} {hash_hex(number)}", "a blue jay", "a blue jay", "a blue jay")

    monkeypatch.setattr("udrl.teacher.backends.builtin.invent", scattered)
    monkeypatch.setattr(input_choice, "PATIENCE", 20)
    file = write_inputs(tmp_path, ["a blue jay"])
    for count in (40, 60):
        report = small(tmp_path / "run", inputs=file, invent=True, num_inputs=count, samples=1)
        assert report.inputs == {IMAGE: count}


def test_synthesis_second_source_drops_near_duplicates_of_the_first(tmp_path: Path, echo: Echo) -> None:
    long = "a red fox asleep under an old apple tree at dawn, soft morning light over the garden"
    small(tmp_path / "run", inputs=write_inputs(tmp_path, [long, "a blue jay"]))
    echo.asked.clear()
    texts = [long.replace("over the", "over a"), "a blue jay", "a grey heron"]
    report = small(tmp_path / "run", inputs=write_inputs(tmp_path, texts))
    assert {request.input for request in echo.asked} == {"a grey heron"}
    assert (report.inputs, report.near, report.already) == ({IMAGE: 2}, 1, 2)


def test_synthesis_stops_inventing_when_nothing_new_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(*_: object, **__: object) -> Iterator[str]:
        while True:
            yield from ("a mauve heron", "a teal heron")

    monkeypatch.setattr("udrl.teacher.backends.builtin.invent", few)
    report = small(tmp_path / "run", inputs=write_inputs(tmp_path, ["a blue jay"]), invent=True)
    assert report.inputs == {IMAGE: 3}


def test_synthesis_of_a_users_task_without_lexicon_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "haiku.yaml"
    path.write_text(
        "schema: 1\nname: haiku\ntitle: Haiku\ndescription: poem\ninstruction: 'on {input}'\nlength: {min: 1, max: 9}\n"
    )
    with pytest.raises(TaskError, match="neither seeds nor examples"):
        small(tmp_path / "run", tasks=[path])
    with pytest.raises(TaskError, match="no lexicon"):
        small(tmp_path / "run", tasks=[path], inputs=write_inputs(tmp_path, ["snow"]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_inputs": 0}, UsageError, "num_inputs must be at least 1, got 0"),
        ({"samples": -1}, UsageError, "samples must be at least 1, got -1"),
        ({"teacher": "bultin"}, UsageError, r"unknown teacher 'bultin' \(did you mean builtin\?\)"),
        ({"tasks": ["text-to-imag"]}, UsageError, r"did you mean text-to-image\?"),
        ({"inputs": "/no/such.jsonl"}, InputError, "there is no file"),
        ({"input_field": "caption"}, UsageError, "input_field 'caption' is a column of --inputs, which is not given"),
        ({"rewards": ["novelty"], "score": False}, UsageError, "novelty: nothing is scored with --no-score"),
    ],
)
def test_synthesis_refuses_wrong_calls_before_it_writes(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        small(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_synthesis_distinguishes_inputs_by_id(tmp_path: Path, echo: Echo) -> None:
    small(tmp_path / "run", inputs=write_inputs(tmp_path, ["東京の夜", "a café", "a cafe", "🦊 fox"]))
    assert {request.input_id for request in echo.asked} == {input_id(r.input) for r in echo.asked}
    assert len({request.key for request in echo.asked}) == 8

"""Where the rows of teachers come from in a benchmark: asked now, written before, or recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from eval_fakes import FakeStudent
from fault_server import FaultServer

from udrl.data.episodes import read_episodes
from udrl.data.facts import SynthFacts, TeacherFacts
from udrl.data.inputs import input_id, split_of
from udrl.data.run import Run
from udrl.errors import InputError, RunError, UsageError
from udrl.eval.bench import BenchReport, bench_student
from udrl.eval.suites import Suite, load_suite
from udrl.eval.teachers import LiveRow, own_teacher
from udrl.teacher.synthesis.synth import synth

TASKS = ("poem", "slogan")
PLACES = ("harbour", "orchard", "station", "market", "attic", "bridge", "kiosk", "quarry", "tunnel", "meadow")
THINGS = ("lamp", "ladder", "kettle", "violin", "anchor", "mirror", "wagon", "clock", "basket", "whistle")
INPUTS = [f"a {thing} in the {place}" for place in PLACES for thing in THINGS]
HELD_OUT = [text for text in INPUTS if split_of(input_id(text)) == "test"]
CARD = """
schema: 1
name: mine
title: Mine
description: A server that is there at times.
backend: openai
base_url: {url}
model: mine-1
licence: {{name: mit, outputs: no limits}}
sampling: [{{name: careful, temperature: 0.2}}, {{name: careless, temperature: 1.1}}]
settings: {{openai: {{attempts: 1}}}}
"""


def line(text: str, sample: int) -> str:
    return f"{text} version {sample} waits under a low grey sky while rain begins to fall"


def rows() -> list[dict[str, Any]]:
    return [
        {"task": task, "input": text, "output": line(text, sample), "model": ("gpt-4o", "human")[sample]}
        for task in TASKS
        for text in INPUTS
        for sample in range(2)
    ]


def jsonl(path: Path, data: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("recorded")
    synth(folder / "run", teacher=f"recorded:{jsonl(folder / 'own.jsonl', rows())}", score=False)
    return Run(folder / "run")


@pytest.fixture(scope="module")
def suite() -> Suite:
    systems = ("student@matched", "student@top", "teacher", "echo", "shuffled")
    return replace(load_suite("heldout"), systems=systems, following=None, latency_requests=0, second_encoder="lsa")


def measure(run: Run, suite: Suite, *, tasks: tuple[str, ...] = TASKS, **options: Any) -> BenchReport:
    return bench_student(run, suite, FakeStudent(tasks), student_key="fake", **options)


def written(found: BenchReport, block: str) -> dict[tuple[str, str], list[str]]:
    texts: dict[tuple[str, str], list[str]] = {}
    for row in pq.read_table(found.folder / "completions.parquet").to_pylist():
        if row["block"] == block:
            texts.setdefault((row["task"], row["input"]), []).append(row["completion"])
    return texts


def test_eval_teachers_recorded_one_has_its_row_from_the_test_inputs(recorded: Run, suite: Suite) -> None:
    assert len(HELD_OUT) >= 4
    found = measure(recorded, suite)
    texts = written(found, "teacher")
    assert texts == {(task, text): [line(text, 0), line(text, 1)] for task in TASKS for text in HELD_OUT}
    teacher = found.summary["systems"]["teacher"]
    assert (teacher["kind"], teacher["coverage"], teacher["latency_ms"]) == ("teacher", 1.0, None)
    assert teacher["engine"] == "as written: gpt-4o, human"
    assert any("what gpt-4o, human wrote for the test inputs" in note for note in found.notes)
    assert set(found.summary["parity"]) == {"student@matched", "student@top", "echo", "shuffled"}
    length = found.summary["systems"]["student@matched"]["length"]["mean"]
    assert length == pytest.approx(teacher["length"]["mean"], rel=0.1), "matched to what was recorded"


def test_eval_teachers_recorded_one_leads_and_later_ones_are_told_of(tmp_path: Path, suite: Suite) -> None:
    data = [{**row, "task": "text-to-image"} for row in rows() if row["task"] == "poem"]
    synth(tmp_path / "run", teacher=f"recorded:{jsonl(tmp_path / 'own.jsonl', data)}", score=False)
    synth(tmp_path / "run", tasks=["text-to-image"], num_inputs=5, samples=2, score=False)
    found = measure(Run(tmp_path / "run"), replace(suite, systems=("teacher",)), tasks=("text-to-image",))
    assert "The row teacher leaves builtin out." in found.notes
    assert written(found, "teacher") == {("text-to-image", text): [line(text, 0), line(text, 1)] for text in HELD_OUT}


def test_eval_teachers_recorded_files_get_a_row_a_model(recorded: Run, suite: Suite, tmp_path: Path) -> None:
    first, *others = HELD_OUT
    seen = next(text for text in INPUTS if text not in HELD_OUT)
    file = jsonl(
        tmp_path / "theirs.jsonl",
        [
            *({"task": t, "input": x, "output": f"{x} at dawn", "model": "llama#3"} for t in TASKS for x in HELD_OUT),
            {"task": "poem", "input": first, "output": f"{first} at noon", "model": "student@top"},
            {"task": "poem", "input": seen, "output": "of a training input", "model": "idle"},
            {"task": "hymn", "input": first, "output": "of another task", "model": "idle"},
        ],
    )
    found = measure(recorded, suite, recorded=[file], name="theirs")
    systems = found.summary["systems"]
    assert written(found, "llama-3") == {(t, x): [f"{x} at dawn"] for t in TASKS for x in [first, *others]}
    assert (systems["llama-3"]["kind"], systems["llama-3"]["coverage"]) == ("recorded", 1.0)
    assert systems["llama-3"]["engine"] == "recorded: llama#3"
    assert written(found, "student@top (recorded)") == {("poem", first): [f"{first} at noon"]}
    assert set(systems["student@top"]["per_task"]) == set(TASKS), "the student's own row is still its own"
    total = len(TASKS) * len(HELD_OUT)
    assert f"The row student@top (recorded) has completions for 1 of the {total} inputs." in found.notes
    assert any(note.startswith("There is no row for idle of theirs.jsonl") for note in found.notes)
    assert "student@matched-llama-3" in systems, "the student is matched to each of them"
    assert found.summary["parity"]["student@matched-llama-3"]["llama-3"]["ratio"] > 0
    again = measure(recorded, suite, recorded=[file], name="theirs")
    assert again.written == 0
    jsonl(file, [{"task": "poem", "input": first, "output": "quite another text", "model": "llama#3"}])
    changed = measure(recorded, suite, recorded=[file], name="theirs")
    assert written(changed, "llama-3") == {("poem", first): ["quite another text"]}, "a changed file is read anew"


def test_eval_teachers_recorded_files_that_do_not_fit(recorded: Run, suite: Suite, tmp_path: Path) -> None:
    def call(data: list[dict[str, Any]]) -> BenchReport:
        return measure(recorded, suite, recorded=[jsonl(tmp_path / "bad.jsonl", data)], name="bad")

    with pytest.raises(InputError, match=r"there is no file .*nowhere\.jsonl"):
        measure(recorded, suite, recorded=[tmp_path / "nowhere.jsonl"], name="bad")
    with pytest.raises(InputError, match=r"no output for any of the .* inputs of this benchmark .*poem, slogan"):
        call([{"task": "poem", "input": "something else", "output": "a text"}])
    with pytest.raises(InputError, match="no column 'task'"):
        call([{"input": HELD_OUT[0], "output": "a text"}])
    with pytest.raises(InputError, match="no column output or completion"):
        call([{"task": "poem", "input": HELD_OUT[0], "answer": "a text"}])
    assert not (recorded.bench("bad") / "summary.json").exists()


def test_eval_teachers_base_url_needs_somebody_to_ask(recorded: Run, suite: Suite) -> None:
    with pytest.raises(UsageError, match="nobody in this benchmark is asked at http://127"):
        measure(recorded, suite, base_url="http://127.0.0.1:9/v1", name="nobody")
    with pytest.raises(UsageError, match="nobody in this benchmark"):
        measure(recorded, suite, teacher="builtin", base_url="http://127.0.0.1:9/v1", name="nobody")


def test_eval_teachers_run_that_does_not_say_who_wrote_it(recorded: Run, suite: Suite, tmp_path: Path) -> None:
    facts = json.loads((recorded.path / "run.json").read_text())
    del facts["stages"]["synth"]
    for folder in ("episodes", "tasks"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / folder).symlink_to(recorded.path / folder)
    (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="does not say which teacher wrote it"):
        measure(Run(tmp_path / "run"), suite)


def answer(body: dict[str, Any]) -> str:
    """Write something that says how it was asked, so that the careful setting can be told from the other."""
    asked = str(body["messages"][-1]["content"])
    about = next((text for text in INPUTS if text in asked), "nothing")
    return line(about, round(10 * body["temperature"])) + f" {body['seed'] % 997}"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The card of a teacher that wrote a run beside it (text-to-image) and is gone since."""
    folder = tmp_path_factory.mktemp("endpoint")
    inputs = folder / "inputs.txt"
    inputs.write_text("\n".join(INPUTS) + "\n")
    with FaultServer(write=answer) as server:
        (folder / "mine.yaml").write_text(CARD.format(url=server.url))
        synth(
            folder / "run",
            teacher=folder / "mine.yaml",
            tasks=["text-to-image"],
            inputs=inputs,
            samples=2,
            score=False,
        )
    return folder / "mine.yaml"


def of_endpoint(card: Path, suite: Suite, **options: Any) -> BenchReport:
    return measure(Run(card.parent / "run"), suite, tasks=("text-to-image",), **options)


def test_eval_teachers_unreachable_one_is_shown_by_what_it_wrote(card: Path, suite: Suite) -> None:
    found = of_endpoint(card, suite)
    episodes = read_episodes(card.parent / "run" / "episodes", splits=("test",), origins=("teacher",))
    careful = {e.input: [e.completion] for e in episodes if " version 2 " in e.completion}
    assert set(careful) == set(HELD_OUT)
    assert len(episodes) == 2 * len(careful), "the careless half is left out"
    assert {text: texts for (_, text), texts in written(found, "teacher").items()} == careful
    (note,) = (note for note in found.notes if note.startswith("The row teacher is what mine wrote"))
    assert "cannot be asked now" in note
    assert "cannot be reached" in note
    assert found.summary["systems"]["teacher"]["latency_ms"] is None


def test_eval_teachers_reachable_one_is_asked_anew(card: Path, suite: Suite) -> None:
    with FaultServer(write=answer) as server:
        found = of_endpoint(card, replace(suite, latency_requests=20), base_url=server.url, name="live")
        assert len(server.answered) >= 3 * len(HELD_OUT)
        assert {body["temperature"] for body in server.bodies} == {0.2}, "asked by its careful setting"
    assert all(len(texts) == 3 for texts in written(found, "teacher").values())
    assert found.summary["systems"]["teacher"]["latency_ms"] is not None
    assert not any("cannot be asked" in note for note in found.notes)


def test_eval_teachers_unreachable_reference_that_wrote_nothing_has_no_row(
    recorded: Run, suite: Suite, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(CARD.format(url="http://127.0.0.1:9/v1").replace("name: mine\n", "name: other\n"))
    found = measure(recorded, suite, reference=[other], name="absent")
    assert "other" not in found.summary["systems"]
    (note,) = (note for note in found.notes if note.startswith("There is no row other"))
    assert "cannot be asked now" in note
    assert "wrote nothing for these inputs" in note
    assert set(found.summary["parity"]["student@top"]) == {"teacher"}, "the next one is compared with"


def test_eval_teachers_card_that_is_gone_leaves_what_was_written(card: Path, suite: Suite, tmp_path: Path) -> None:
    text = card.read_text()
    card.unlink()
    try:
        found = of_endpoint(card, suite, name="cardless")
    finally:
        card.write_text(text)
    (note,) = (note for note in found.notes if note.startswith("The row teacher is what mine wrote"))
    assert "its card cannot be read" in note
    assert all(len(texts) == 2 for texts in written(found, "teacher").values()), "all settings: the card named them"


def test_eval_teachers_inputs_of_a_suite_have_no_recorded_row(recorded: Run, suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"text": f"a new {t}"}) + "\n" for t in THINGS))
    (tmp_path / "new.yaml").write_text(
        "schema: 1\nname: new\ntitle: New\ndescription: inputs of nobody\n"
        "inputs: {file: new.jsonl, task: poem}\nsystems: [student@top, teacher, echo]\nlatency_requests: 1\n"
    )
    found = measure(recorded, load_suite(tmp_path / "new.yaml"))
    assert list(found.summary["systems"]) == ["student@top", "echo"]
    assert any(note.startswith("There is no row teacher: nobody can be asked for it") for note in found.notes)
    assert any("--suite heldout" in note for note in found.notes)


def test_eval_teachers_own_teacher_runs_by_what_wrote_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.writing():
        known = TeacherFacts(backend="vllm", engine_arguments={"quantization": "fp8"})
        run.record(SynthFacts(teachers={"qwen2": known}))
    asked, _ = own_teacher(run, ())
    assert isinstance(asked, LiveRow)
    assert (asked.card.backend, asked.card.settings["vllm"]["quantization"]) == ("vllm", "fp8")
    with run.writing():
        run.record(SynthFacts(teachers={"qwen2": TeacherFacts(backend="transformers")}))
    asked, _ = own_teacher(run, ())
    assert isinstance(asked, LiveRow)
    assert asked.card.backend == "transformers"
    asked, _ = own_teacher(run, (), base_url="http://127.0.0.1:1/v1")
    assert isinstance(asked, LiveRow)
    assert asked.card.backend == "openai"

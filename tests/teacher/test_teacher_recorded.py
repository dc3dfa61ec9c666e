"""Completions that already exist become ledger rows and episodes."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from udrl.cli.main import run as command_line
from udrl.data.episodes import read_episodes
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.tasks import load_tasks, stored_tasks
from udrl.errors import InputError, UsageError
from udrl.teacher.backends.recorded import RecordedTeacher, bounds
from udrl.teacher.protocol import Request
from udrl.teacher.synthesis.synth import NothingLeft, SynthReport, synth


def words(count: int, start: int = 0) -> str:
    return " ".join(f"word{start + n}" for n in range(count))


def rows(count: int = 30) -> list[dict[str, Any]]:
    return [
        {
            "task": ("poem", "text-to-video")[n % 2],
            "input": f"input {n // 4}",
            "output": words(100 + n, start=n),
            "model": ("gpt-4o", "human")[n % 3 == 0],
            "licence": "mit",
            "clicks": n / 10,
        }
        for n in range(count)
    ]


def jsonl(path: Path, data: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def take(run: Path, file: Path, **options: Any) -> SynthReport:
    return synth(run, teacher=f"recorded:{file}", score=False, **options)


def test_teacher_recorded_rows_become_ledger_rows_and_episodes(tmp_path: Path) -> None:
    report = take(tmp_path / "run", jsonl(tmp_path / "own.jsonl", rows()))
    assert (report.requests, report.written, report.failed, report.already) == (30, 30, 0, 0)
    assert report.inputs == {"poem": 8, "text-to-video": 8}
    records = list(Ledger(tmp_path / "run" / "ledger"))
    assert [(r.task, r.input, r.completion, r.teacher, r.sampling["clicks"]) for r in records] == [
        (r["task"], r["input"], r["output"], r["model"], r["clicks"]) for r in rows()
    ]
    assert {r.sample for r in records} == {0, 1}, "samples count within task and input"
    everywhere = ("train", "validation", "test")
    episodes = read_episodes(tmp_path / "run" / "episodes", splits=everywhere, origins=("teacher",))
    assert len(episodes) == 30
    assert Counter(e.teacher for e in episodes) == {"gpt-4o": 20, "human": 10}
    teachers = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["synth"]["teachers"]
    assert teachers["gpt-4o"] == {
        "model": "gpt-4o",
        "backend": "recorded",
        "licence": "mit",
        "outputs": "recorded in own.jsonl",
    }


def test_teacher_recorded_takes_undefined_tasks_from_the_file(tmp_path: Path) -> None:
    take(tmp_path / "run", jsonl(tmp_path / "own.jsonl", rows()))
    tasks = {task.name: task for task in stored_tasks(Run(tmp_path / "run"))}
    assert (tasks["poem"].min_words, tasks["poem"].max_words) == (100, 128)
    assert tasks["poem"].request("a {brace}") == "a {brace}"
    (shipped,) = load_tasks(["text-to-video"])
    video = tasks["text-to-video"]
    assert (video.min_words, video.max_words) == (shipped.min_words, 129), "shipped bounds are widened, never narrowed"
    assert (video.instruction, video.lexicon) == (shipped.instruction, shipped.lexicon)


def test_teacher_recorded_keeps_a_task_that_the_user_defines(tmp_path: Path) -> None:
    task = tmp_path / "poem.yaml"
    task.write_text(
        "schema: 1\nname: poem\ntitle: Poem\ndescription: A poem.\ninstruction: 'Write {input}'\n"
        "length: {min: 10, max: 72}\n"
    )
    report = take(tmp_path / "run", jsonl(tmp_path / "own.jsonl", rows()), tasks=(task,))
    assert report.inputs == {"poem": 8}, "other tasks of the file are left out"
    assert report.episodes["rejected:over_length"] == 10


def test_teacher_recorded_again_adds_only_what_is_new(tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "own.jsonl"
    take(run, jsonl(file, rows(20)))
    again = take(run, file)
    assert (again.already, again.written) == (20, 0)
    assert take(run, jsonl(tmp_path / "renamed.jsonl", rows(20))).written == 0, "content decides"
    more = take(run, jsonl(file, rows(30)))
    assert (more.already, more.written) == (20, 10)
    assert len({record.key for record in Ledger(run / "ledger")}) == 30
    assert sorted(r.sample for r in Ledger(run / "ledger") if r.input == "input 0" and r.task == "poem") == [0, 1]


def test_teacher_recorded_rows_are_known_by_what_they_say_wherever_they_stand(tmp_path: Path) -> None:
    run, data = tmp_path / "run", rows(12)
    data += [data[3], data[3], {**data[4], "clicks": 99}]  # equal rows are counted, other numbers are another row
    assert take(run, jsonl(tmp_path / "own.jsonl", data)).written == 15
    new = {**data[0], "output": words(101, start=900)}
    moved = take(run, jsonl(tmp_path / "own.jsonl", [new, *reversed(data), data[3]]))
    assert (moved.already, moved.written) == (15, 2), "the new row, and one more equal one"
    written = [(r.input, r.completion) for r in Ledger(run / "ledger")][15:]
    assert written == [(new["input"], new["output"]), (data[3]["input"], data[3]["output"])]
    listed = [{**row, "output": [row["output"]], "index": 7, "Unnamed: 0": n} for n, row in enumerate(data)]
    assert take(run, jsonl(tmp_path / "listed.jsonl", listed)).written == 0, "as lists, and with numbers of rows"


def test_teacher_recorded_rows_that_earlier_versions_took_are_known(tmp_path: Path) -> None:
    """Their keys hashed row numbers: whatever a key is, what its line says decides."""
    run, file = tmp_path / "run", jsonl(tmp_path / "own.jsonl", rows(8))
    take(run, file)
    shard = run / "ledger" / "part-00000.jsonl"
    lines = [json.loads(line) for line in shard.read_text().splitlines()]
    shard.write_text("".join(json.dumps({**line, "key": f"{n:032x}"}) + "\n" for n, line in enumerate(lines)))
    assert take(run, jsonl(file, rows(9))).written == 1
    assert take(run, file, dry_run=True).already == 9


def test_teacher_recorded_dry_run_writes_nothing(tmp_path: Path) -> None:
    report = take(tmp_path / "run", jsonl(tmp_path / "own.jsonl", rows()), dry_run=True)
    assert (report.requests, report.already) == (30, 0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_teacher_recorded_reads_every_format_alike(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"own.{kind}"
    lines = [json.dumps(row) for row in rows()]
    if "csv" in kind:
        lines = [",".join(rows()[0])] + [",".join(f'"{value}"' for value in row.values()) for row in rows()]
    text = "\n".join(lines).encode() + b"\n"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows()), file)
    else:
        file.write_bytes(gzip.compress(text) if kind.endswith(".gz") else text)
    found = [(r.key, r.task, r.input, r.sampling, r.sample) for r in RecordedTeacher(file).requests()]
    expected = RecordedTeacher(jsonl(tmp_path / "expected.jsonl", rows())).requests()
    assert found == [(r.key, r.task, r.input, r.sampling, r.sample) for r in expected]


def test_teacher_recorded_takes_several_completions_a_row(tmp_path: Path) -> None:
    data = [{"prompt": "a cat", "completion": ["one fine cat", None, "two fine cats"]}]
    teacher = RecordedTeacher(jsonl(tmp_path / "Two_cats v2.jsonl", data))
    replies = list(teacher.generate(teacher.requests()))
    assert [reply.completion for reply in replies] == ["one fine cat", "two fine cats"]
    assert [request.sample for request in teacher.requests()] == [0, 1]
    assert {request.task for request in teacher.requests()} == {"two-cats-v2"}, "the file's name stands in"
    named = RecordedTeacher(teacher.path, tasks=("cats",))
    assert {request.task for request in named.requests()} == {"cats"}


def test_teacher_recorded_counts_what_holds_nothing(tmp_path: Path) -> None:
    data = [
        {"input": "a", "output": "fine words here"},
        {"input": " ", "output": "lost"},
        {"input": "b", "output": None},
        {"input": "c", "output": ""},
    ]
    survey = RecordedTeacher(jsonl(tmp_path / "own.jsonl", data)).survey()
    assert (survey.rows, survey.blank) == (2, 2), "an empty completion is one: it is kept and rejected later"


def test_teacher_recorded_knows_only_its_own_requests(tmp_path: Path) -> None:
    teacher = RecordedTeacher(jsonl(tmp_path / "own.jsonl", rows(1)))
    (reply,) = teacher.generate([Request("other", "poem", "0" * 16, "x", (), {}, 0, 0)])
    assert reply.completion is None
    assert reply.error


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"text": "a", "result": "b"}], "no column output or completion.*found: text, result"),
        (
            [{"question": "a", "output": "b"}],
            "none of the fields text, input, prompt, caption is there; found: question, output",
        ),
        ([{"input": "a", "output": 3}], "must be texts"),
        ([{"input": "a", "output": "b", "task": "My Task"}], "small letters"),
        ([{"input": "a", "output": "b", "task": None}], "the row has no task"),
        ([{"input": "", "output": "b"}], "holds no completions"),
        ([{"input": "a", "output": "b", "n": 10**400}], r"own.jsonl, line 1: 'n' is beyond 1.8e308"),
    ],
)
def test_teacher_recorded_names_what_is_wrong(tmp_path: Path, data: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        take(tmp_path / "run", jsonl(tmp_path / "own.jsonl", data))
    assert not (tmp_path / "run").exists()


def test_teacher_recorded_refuses_options_that_it_has_no_use_for(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "own.jsonl", rows(2))
    for option, value in {"inputs": file, "num_inputs": 2000, "samples": 4, "retry_failed": True}.items():
        with pytest.raises(UsageError, match=f"leave {option} out"):
            take(tmp_path / "run", file, **{option: value})
    with pytest.raises(InputError, match=r"did you mean poem"):
        take(tmp_path / "run", file, tasks=("poems",))
    with pytest.raises(InputError, match="has no field 'input'"):
        take(tmp_path / "run", jsonl(file, [{"q": "a", "output": "b"}]), input_field="input")


def test_teacher_recorded_bounds_leave_out_the_far_ends() -> None:
    assert bounds(Counter({0: 5, 3: 1, 10: 98, 5000: 1})) == (3, 10)
    assert bounds(Counter({2000: 10})) == (300, 300)
    assert bounds(Counter({1: 1})) == (1, 1)


def test_teacher_recorded_real_outputs_of_five_tasks(tmp_path: Path, shared_data: Path) -> None:
    report = take(tmp_path / "run", shared_data / "recorded_pairs.jsonl.gz")
    assert len(report.inputs) == 5
    assert (report.requests, report.failed) == (8027, 0)
    rejected = sum(count for name, count in report.episodes.items() if name.startswith("rejected:"))
    assert rejected < 0.15 * 8027, "bounds fit what was recorded"


def test_teacher_recorded_bounds_stay_when_a_teacher_writes_later(tmp_path: Path) -> None:
    run = tmp_path / "run"
    take(run, jsonl(tmp_path / "own.jsonl", rows()))
    (before,) = (task for task in stored_tasks(Run(run)) if task.name == "text-to-video")
    report = synth(run, tasks=["text-to-video"], num_inputs=5, samples=2, score=False)
    (after,) = (task for task in stored_tasks(Run(run)) if task.name == "text-to-video")
    (shipped,) = load_tasks(["text-to-video"])
    assert (after.min_words, after.max_words) == (before.min_words, before.max_words) == (shipped.min_words, 129)
    assert (report.written, report.episodes.get("rejected:length", 0)) == (10, 0)
    origins = read_episodes(run / "episodes", splits=("train", "validation", "test"), origins=("teacher",))
    assert Counter(e.teacher for e in origins) == {"gpt-4o": 20, "human": 10, "builtin": 10}
    own = tmp_path / "text-to-video.yaml"
    own.write_bytes(shipped.path.read_bytes())
    synth(run, tasks=[own], num_inputs=5, samples=2, score=False)
    (after,) = (task for task in stored_tasks(Run(run)) if task.name == "text-to-video")
    assert after.max_words == shipped.max_words, "a file of the user's says what it says"


def test_teacher_recorded_where_all_is_rejected_ends_with_one_line_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, task = tmp_path / "run", tmp_path / "poem.yaml"
    task.write_text(
        "schema: 1\nname: poem\ntitle: Poem\ndescription: A poem.\ninstruction: 'Write {input}'\n"
        "length: {min: 500, max: 600}\n"
    )
    file = jsonl(tmp_path / "own.jsonl", [row for row in rows() if row["task"] == "poem"])
    told = r"all 15 completions were rejected \(15 under_length\)"
    for options in ({"score": False}, {"rewards": ("novelty",)}):
        with pytest.raises(NothingLeft, match=told) as error:
            synth(run, teacher=f"recorded:{file}", tasks=(task,), **options)  # type: ignore[arg-type]
        assert (error.value.report.kept, error.value.report.episodes["rejected:under_length"]) == (0, 15)
    for call in (["score", "--reward", "novelty"], ["synth", "--teacher", f"recorded:{file}", "--no-score"]):
        assert command_line([*call, "--run", str(run)]) == 1
        said = capsys.readouterr()
        assert "nothing is left to train on: all 15 completions were rejected (15 under_length)" in said.err
        assert "next: udrl train" not in said.out + said.err


def test_teacher_recorded_folder_is_read_as_one_table_in_the_order_of_names(tmp_path: Path) -> None:
    data = rows()
    folder = tmp_path / "outputs"
    folder.mkdir()
    jsonl(folder / "b.jsonl", data[10:])
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in data[:10]))
    (folder / "README.md").write_text("no table")
    take(tmp_path / "of-folder", folder)
    take(tmp_path / "of-file", jsonl(tmp_path / "whole.jsonl", data))
    assert [(r.key, r.completion) for r in Ledger(tmp_path / "of-folder" / "ledger")] == [
        (r.key, r.completion) for r in Ledger(tmp_path / "of-file" / "ledger")
    ]
    (folder / "b.jsonl").write_text('{"input": "x"}\n')
    with pytest.raises(InputError, match=r"b\.jsonl, line 1: there is no column output or completion"):
        take(tmp_path / "of-folder", folder)
    for file in folder.glob("*.jsonl*"):
        file.unlink()
    with pytest.raises(InputError, match=r"outputs: is a folder without tables: it takes files named \.jsonl"):
        take(tmp_path / "of-folder", folder)

"""Outputs that exist already: read from files, matched by input, compared without run or student."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import udrl.cli.main as cli
from udrl.data.inputs import input_id
from udrl.errors import InputError, RunError, TaskError, UsageError
from udrl.eval.bench import BenchReport, bench, rescore
from udrl.eval.recorded import TASK, model_named, outputs_for, read_outputs, recorded_items
from udrl.eval.suites import Item
from udrl.eval.thresholds import missed, parse

INPUTS = [
    f"a {thing} in the {place}" for place in ("harbour", "orchard", "attic") for thing in ("lamp", "kettle", "clock")
]
MODELS = {"Llama-3-8B": "{}, seen at dawn under a low grey sky", "qwen.2": "rain falls on {} while nobody looks on"}


def rows(model: str, form: str) -> list[dict[str, Any]]:
    return [{"input": text, "output": form.format(text), "model": model} for text in INPUTS]


def every_row() -> list[dict[str, Any]]:
    return [row for model, form in MODELS.items() for row in rows(model, form)]


def written(folder: Path, kind: str) -> Path:
    """The same outputs as a file of every kind."""
    data, path = every_row(), folder / f"outputs{kind}"
    lines = "".join(json.dumps(row) + "\n" for row in data)
    if kind == ".jsonl":
        path.write_text(lines)
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["input", "output", "model"])
            writer.writeheader()
            writer.writerows(data)
    elif kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(data), path)
    else:
        renamed = [{"instruction": r["input"], "output": r["output"], "generator": r["model"]} for r in data]
        path.write_text(json.dumps(renamed))
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".csv", ".parquet", ".json"])
def test_recorded_files_of_every_kind_hold_the_same(tmp_path: Path, kind: str) -> None:
    found = list(read_outputs(written(tmp_path, kind)))
    assert [(one.input, one.output, one.model, one.task) for one in found] == [
        (row["input"], row["output"], row["model"], None) for row in every_row()
    ]
    items = recorded_items([tmp_path / f"outputs{kind}"])
    assert [item.input for item in items[TASK]] == INPUTS


def test_recorded_file_without_a_model_is_named_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.v2.jsonl"
    path.write_text(json.dumps({"prompt": " A ", "completion": ["one", None, "two"]}) + "\n")
    assert [(one.input, one.output, one.model) for one in read_outputs(path)] == [
        ("A", "one", "mine"),
        ("A", "two", "mine"),
    ]


def test_recorded_outputs_are_matched_by_input_and_task(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    data = [
        {"input": "One ", "output": "of no task", "model": "a"},
        {"input": "one", "output": "of poems", "model": "b", "task": "poem"},
        {"input": "two", "output": "of another task", "model": "c", "task": "hymn"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    items = [Item("poem", input_id("one"), "one"), Item("poem", input_id("two"), "two")]
    path.write_text(path.read_text().replace('"task": "hymn"', '"task": ""'))
    with pytest.raises(InputError, match="line 3: the row has no task"):
        outputs_for(path, items)
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    found = outputs_for(path, items)
    key = ("poem", input_id("one"))
    assert found.models == {"a": {key: ["of no task"]}, "b": {key: ["of poems"]}}
    assert found.others == ("c",)
    both = [*items, Item("hymn", input_id("one"), "one")]
    with pytest.raises(InputError, match=r"line 1: there is no column 'task', and this input is one of poem, hymn"):
        outputs_for(path, both)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", "must be a list of objects"),
        ("a.json", "[", "cannot be read as JSON"),
        ("a.json", '[{"instruction": "x", "text2": "y"}]', "item 1: there is no column output or completion"),
        ("a.jsonl", '{"input": 5, "output": "y"}\n', "line 1: input, output, model and task must be texts, found 5"),
        ("a.jsonl", '{"input": "", "output": "y"}\n', "holds no completions"),
        ("a.jsonl", "", "holds no completions"),
        (
            "a.csv",
            "question,output\nx,y\n",
            "a.csv: there is no column text .* found: question, output: rename",
        ),
        ("a.txt", "x\n", "cannot tell the format; name the file .jsonl, .json, .csv, .tsv, .parquet"),
        ("a.json", b'[{"instruction": "caf\xe9", "output": "x"}]', "line 1: byte 22 is not UTF-8: convert it to UTF-8"),
        ("a.jsonl", b'{"input": "caf\xe9", "output": "x"}\n', "line 1: byte 15 is not UTF-8"),
    ],
)
def test_recorded_files_that_cannot_be_used(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        recorded_items([tmp_path / name])


def test_recorded_rows_of_alpaca_may_have_an_empty_input(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": "name a colour", "input": "", "output": "red", "generator": "m"}]))
    assert [(one.input, one.output, one.model) for one in read_outputs(path)] == [("name a colour", "red", "m")]


def test_recorded_model_is_meant_by_a_part_of_its_name() -> None:
    models = ["Meta-Llama-3-8B-Instruct", "Qwen2-7B", "Qwen2-72B"]
    assert model_named("llama3", models) == "Meta-Llama-3-8B-Instruct"
    assert model_named("Qwen2-7B", models) == "Qwen2-7B", "the whole name comes first"
    assert model_named("mistral", models) is None
    with pytest.raises(UsageError, match="may be any of Qwen2-7B, Qwen2-72B"):
        model_named("qwen2", models)


def test_bench_recorded_tells_of_what_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "o.jsonl"
    data = [*every_row(), *[{**row, "output": ""} for row in rows("silent", "")], *(rows("qwen.2", "{}") * 4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    notes = bench(tmp_path / "run", recorded=[file]).notes
    assert "Of the row qwen.2 the first 3 completions of an input count; 18 more are left out." in notes
    assert "9 of the 9 completions of silent are empty: they count, with relevance 0." in notes
    with pytest.raises(TaskError, match=r"mistral is a teacher card .* one of the recorded models Llama-3-8B, qwen.2"):
        bench(tmp_path / "run", recorded=[file], reference=["mistral"])
    file.write_text(json.dumps(data[0]) + "\n")
    with pytest.raises(RunError, match="needs at least 3 different ones, found 2: add inputs, or name another"):
        bench(tmp_path / "run", recorded=[file])


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> BenchReport:
    folder = tmp_path_factory.mktemp("recorded")
    file = folder / "outputs.jsonl"
    partly = [{"input": INPUTS[0], "output": "a lamp", "model": "terse"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*every_row(), *partly]))
    return bench(folder / "run", recorded=[file], reference=["qwen2"])


def test_bench_recorded_needs_no_run_and_no_student(compared: BenchReport) -> None:
    summary = compared.summary
    assert list(summary["systems"]) == ["qwen.2", "Llama-3-8B", "terse", "echo", "shuffled"]
    assert (summary["suite"], summary["references"], summary["headline"]) == ("recorded", ["qwen.2"], {"qwen.2": []})
    assert summary["systems"]["Llama-3-8B"]["coverage"] == 1.0
    assert summary["systems"]["terse"]["coverage"] == pytest.approx(1 / len(INPUTS))
    assert f"The row terse has completions for 1 of the {len(INPUTS)} inputs." in compared.notes
    assert "it answered 11 % of the inputs" in summary["parity"]["terse"]["qwen.2"]["caveats"]
    assert summary["systems"]["shuffled"]["anchored_relevance"]["qwen.2"]["mean"] == pytest.approx(0)
    sentences = [one.sentence for one in compared.sentences]
    assert sentences[0].startswith("Llama-3-8B: parity with qwen.2 at")
    assert compared.report.is_file()


def test_bench_rescore_gives_other_figures_and_generates_nothing(compared: BenchReport) -> None:
    run = compared.folder.parent.parent
    before = (compared.folder / "completions.parquet").stat().st_size
    again = rescore(run, name="recorded", rewards=["novelty"])
    assert (again.written, again.reused) == (0, compared.written)
    rewards = again.summary["systems"]["Llama-3-8B"]
    assert rewards["rewards"]["novelty"]["mean"] == rewards["novelty"]["mean"]
    without = {name: {**s, "rewards": {}} for name, s in again.summary["systems"].items()}
    assert json.dumps(without)[:2000] != ""
    for name, system in compared.summary["systems"].items():
        assert again.summary["systems"][name]["relevance"] == system["relevance"]
    assert abs((compared.folder / "completions.parquet").stat().st_size - before) < 500


def test_bench_command_fails_where_a_limit_does_not_hold(
    compared: BenchReport, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["bench", "--run", str(compared.folder.parent.parent), "--rescore", "--json"]
    assert cli.run([*call, "--fail-under", "systems.echo.copy_rate=1"]) == 0
    capsys.readouterr()
    assert (
        cli.run([*call, "--fail-under", "systems.echo.copy_rate=1.5", "--fail-over", "systems.llama3.novelty=2"]) == 1
    )
    out, err = capsys.readouterr()
    assert json.loads(out)["suite"] == "recorded", "the result is written all the same"
    assert err.strip().endswith("error: systems.echo.copy_rate is 1, below the limit 1.5")
    assert cli.run([*call, "--judge", "x"]) == 2
    assert "leave --judge out" in capsys.readouterr()[1]


def test_thresholds_of_any_figure(compared: BenchReport) -> None:
    summary = compared.summary

    def told(text: str, *, above: bool = False) -> list[str]:
        return missed(summary, [parse(text, above=above)])

    ratio = summary["parity"]["Llama-3-8B"]["qwen.2"]["ratio"]
    assert told("parity.llama3.qwen2=0.01") == []
    assert told("parity.llama3.qwen2=9") == [f"parity.llama3.qwen2 is {ratio:.4g}, below the limit 9"]
    assert told("systems.Llama-3-8B.copy_rate=0.01", above=True)[0].endswith("above the limit 0.01")
    assert told("systems.qwen.2.relevance.lo=-1") == [], "a name with a dot in it"
    assert told("systems.echo.latency_ms=1") == [
        "systems.echo.latency_ms could not be computed, and was to be compared with 1"
    ]
    for wrong, message in {
        "parity.qwen2=0.9": "no student is compared with qwen.2",
        "systems.llama9.relevance=1": "has no 'llama9' there.*there is qwen.2, Llama-3-8B",
        "systems.echo=1": "is no number",
        "systems.echo.relevance.mean.x=1": "nothing below systems.echo.relevance.mean",
        "parity.llama3": "is no limit",
        "parity.llama3=high": "is no limit",
    }.items():
        with pytest.raises(UsageError, match=message):
            told(wrong)


def test_bench_recorded_real_outputs_of_twelve_models(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "recorded_commongen.jsonl.gz"
    found = bench(tmp_path / "run", recorded=[file], reference=["mixtral"], limit=10).summary
    models = [name for name, system in found["systems"].items() if system["kind"] == "recorded"]
    assert len(models) == 12
    assert all(found["systems"][name]["n"] >= 10 for name in models), "every model wrote for every input"
    echo, shuffled = found["systems"]["echo"], found["systems"]["shuffled"]
    real = [found["systems"][name]["relevance"]["mean"] for name in models]
    assert shuffled["relevance"]["mean"] < min(real) <= max(real) < echo["relevance"]["mean"]
    (reference,) = found["references"]
    assert any("copies more" in caveat for caveat in found["parity"]["echo"][reference]["caveats"])

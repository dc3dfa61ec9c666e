"""The whole benchmark with a student that obeys by rule: real tasks, teacher, encoder, files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from eval_fakes import FakeStudent
from markupsafe import escape

from udrl.data.episode import Episode
from udrl.data.episodes import write_episodes
from udrl.data.facts import SynthFacts, TeacherFacts
from udrl.data.inputs import input_id
from udrl.data.run import Run
from udrl.data.tasks import load_tasks, seeds, store_tasks
from udrl.encoder import load_encoder
from udrl.errors import RunError, TaskError, UsageError
from udrl.eval.bench import BenchReport, bench, bench_student
from udrl.eval.pages.benchmark import report
from udrl.eval.students import folder_key
from udrl.eval.suites import Suite, load_suite
from udrl.eval.summary import read_summary
from udrl.rewards.relevance import Relevance
from udrl.teacher.backends.builtin import BuiltinTeacher
from udrl.teacher.protocol import Request
from udrl.words import count_words

TASKS = ("search-query", "text-to-image")
HOSTILE = "<script>alert('x')</script> a fox & \"two\" ships </script><!-- ${x} {{data}}"


def episodes() -> Iterator[Episode]:
    tasks = load_tasks(TASKS)
    teacher = BuiltinTeacher(tasks)
    relevance = Relevance(load_encoder(precision="fp32"))
    for task in tasks:
        wanted = []
        for number, text in enumerate(seeds(task)[:20]):
            for sample in range(3):
                sampling = teacher.sampling(sample, number, task.min_words, task.max_words)
                key = f"{task.name}/{number}/{sample}"
                wanted.append(Request(key, task.name, input_id(text), text, (), sampling, number, sample))
        written = [reply.completion or "" for reply in teacher.generate(wanted)]
        scored = relevance([request.input for request in wanted], written)
        for request, completion, value in zip(wanted, written, scored, strict=True):
            yield Episode(
                episode_id=request.key,
                task=task.name,
                input_id=request.input_id,
                input=request.input,
                completion=completion,
                horizon=count_words(completion),
                origin="teacher",
                teacher="builtin",
                sampling=json.dumps(dict(request.sampling)),
                seed=request.seed,
                split="train",
                returns={"relevance": value},
            )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run(tmp_path_factory.mktemp("runs") / "mine")
    with made.writing():
        store_tasks(made, load_tasks(TASKS))
        write_episodes(made.episodes, episodes(), reward_names=["relevance"])
        made.record(SynthFacts(teachers={"builtin": TeacherFacts("builtin")}))
    return made


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("suite")
    (folder / "texts").mkdir()
    for task in TASKS:
        source = load_suite("relevance").source.path
        assert source is not None
        texts = (source / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()[:11]
        seen = json.dumps({"text": seeds(load_tasks([task])[0])[0]})
        lines = [json.dumps({"text": HOSTILE}), seen, *texts]
        (folder / "texts" / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "mine.yaml").write_text(
        "schema: 1\nname: mine\ntitle: Mine <i>\ndescription: what I ask & more\ninputs: {folder: texts}\n"
        "samples: 2\nfollowing: {inputs: 6, seeds: 2, leakage_inputs: 3}\nlatency_requests: 20\n",
        encoding="utf-8",
    )
    return load_suite(folder / "mine.yaml")


@pytest.fixture(scope="module")
def done(run: Run, suite: Suite) -> BenchReport:
    return bench_student(run, suite, FakeStudent(TASKS), student_key="first")


NUMBER = (int, float)


def check_figure(value: Any) -> None:
    assert set(value) >= {"mean", "ci95"}
    low, high = value["ci95"]
    assert low - 1e-9 <= value["mean"] <= high + 1e-9


def check_system(system: dict[str, Any], references: set[str], *, top: bool) -> None:
    keys = {
        "kind", "student", "batch_size", "cost_per_1000", "unfinished", "rewards",
        "n", "coverage", "failed", "truncated", "unknown", "parameters", "engine", "precision", "relevance",
        "relevance_second", "anchored_relevance", "agreement", "distinct_2", "pairwise_distance", "copy_rate",
        "novelty", "length", "stop_rate", "latency_ms", "tokens_per_second",
    }  # fmt: skip
    assert set(system) == (keys | {"per_task"} if top else keys)
    assert system["kind"] in ("student", "teacher", "reference", "recorded", "baseline")
    for key in ("n", "failed", "truncated"):
        assert type(system[key]) is int
    assert 0 <= system["coverage"] <= 1
    for key in ("relevance", "relevance_second", "copy_rate", "novelty", "length"):
        check_figure(system[key])
    for key in ("distinct_2", "pairwise_distance"):
        check_figure(system[key])
        if system[key]["within_input"] is not None:
            check_figure(system[key]["within_input"])
    for key in ("anchored_relevance", "agreement"):
        assert set(system[key]) == references
        for figure in system[key].values():
            if figure is not None:
                check_figure(figure)
    assert system["parameters"] is None or type(system["parameters"]) is int
    assert system["stop_rate"] is None or 0 <= system["stop_rate"] <= 1
    if system["latency_ms"] is not None:
        assert set(system["latency_ms"]) == {"p50", "p95"}
        assert 0 < system["latency_ms"]["p50"] <= system["latency_ms"]["p95"]
    assert system["tokens_per_second"] is None or system["tokens_per_second"] > 0


def check_parity(entry: dict[str, Any], *, top: bool) -> None:
    keys = {
        "ratio", "ci95", "win_rate", "win_rate_ci95", "within_5_percent", "caveats", "items", "items_needed", "spread",
        "equal_length", "length_controlled_win_rate", "length_controlled_win_rate_ci95", "second",
    }  # fmt: skip
    assert set(entry) == (keys | {"per_task"} if top else keys)
    assert entry["ci95"][0] <= entry["ratio"] <= entry["ci95"][1]
    assert entry["win_rate_ci95"][0] <= entry["win_rate"] <= entry["win_rate_ci95"][1]
    assert entry["within_5_percent"] is (entry["ci95"][0] >= 0.95)
    assert all(isinstance(caveat, str) for caveat in entry["caveats"])


def check_following(entry: dict[str, Any], others: set[str], *, top: bool) -> None:
    keys = {
        "spearman", "spearman_within_input", "error", "range", "violations", "reachable", "curve", "leakage"
    }  # fmt: skip
    assert set(entry) == (keys | {"per_task", "uncalibrated"} if top else keys)
    if top:
        assert (entry["uncalibrated"]["inputs"], len(entry["uncalibrated"]["curve"])) == (3, 9)
    assert all(isinstance(entry[key], NUMBER) for key in ("spearman", "spearman_within_input", "range"))
    assert entry["error"] is None or entry["error"] >= 0
    assert type(entry["violations"]) is int
    assert len(entry["reachable"]) == 2
    assert len(entry["curve"]) == 9
    for commanded, achieved, low, high in entry["curve"]:
        assert isinstance(commanded, NUMBER)
        assert low <= achieved <= high
    assert set(entry["leakage"]) == others


def test_bench_writes_the_summary_in_the_documented_schema(done: BenchReport, suite: Suite) -> None:
    summary = json.loads((done.folder / "summary.json").read_text(encoding="utf-8"))
    assert summary == json.loads(json.dumps(done.summary))
    assert set(summary) == {
        "schema", "suite", "encoder", "second_encoder", "hardware", "seed", "systems", "parity",
        "command_following", "references", "headline", "judge", "votes",
    }  # fmt: skip
    assert (summary["references"], summary["headline"]) == (["teacher"], {"teacher": ["student@matched"]})
    assert (summary["schema"], summary["suite"], summary["seed"]) == (1, "mine", 0)
    assert summary["encoder"] == "all-MiniLM-L6-v2"
    assert summary["second_encoder"].startswith("lsa")
    assert list(summary["systems"]) == list(suite.systems)
    for system in summary["systems"].values():
        check_system(system, {"teacher"}, top=True)
        assert set(system["per_task"]) == set(TASKS)
        for part in system["per_task"].values():
            check_system(part, {"teacher"}, top=False)
    assert set(summary["parity"]) == set(suite.systems) - {"teacher"}
    for entries in summary["parity"].values():
        check_parity(entries["teacher"], top=True)
        for part in entries["teacher"]["per_task"].values():
            check_parity(part, top=False)
    assert set(summary["command_following"]) == {"student"}
    followed = summary["command_following"]["student"]
    assert set(followed) == {"relevance", "length"}
    for name, entry in followed.items():
        check_following(entry, set(followed) - {name}, top=True)
        assert set(entry["per_task"]) == set(TASKS)
        for part in entry["per_task"].values():
            check_following(part, set(followed) - {name}, top=False)


def test_bench_figures_say_what_is_known_of_the_systems(done: BenchReport) -> None:
    systems = done.summary["systems"]
    assert systems["echo"]["relevance"]["mean"] == pytest.approx(1.0, abs=1e-4)
    assert systems["echo"]["copy_rate"]["mean"] == 1.0
    assert systems["shuffled"]["anchored_relevance"]["teacher"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert systems["teacher"]["anchored_relevance"]["teacher"]["mean"] == pytest.approx(1.0)
    assert systems["teacher"]["relevance"]["mean"] > systems["nearest"]["relevance"]["mean"]
    assert systems["teacher"]["kind"] == "teacher"
    assert systems["student@top"]["relevance"]["mean"] > systems["shuffled"]["relevance"]["mean"] + 0.2
    for name in ("student@matched", "student@top", "student@open", "teacher"):
        assert systems[name]["n"] == 2 * 12 * 2  # tasks, inputs that training has not seen, samples
        assert systems[name]["latency_ms"] is not None
    assert systems["echo"]["latency_ms"] is None
    ceiling = systems["teacher"]["agreement"]["teacher"]["mean"]
    assert ceiling > systems["shuffled"]["agreement"]["teacher"]["mean"]
    matched, teacher = systems["student@matched"]["per_task"], systems["teacher"]["per_task"]
    for task in TASKS:
        assert matched[task]["length"]["mean"] == pytest.approx(teacher[task]["length"]["mean"], rel=0.1)
    assert done.summary["command_following"]["student"]["length"]["spearman_within_input"] > 0.95
    assert done.summary["command_following"]["student"]["relevance"]["spearman_within_input"] > 0.3
    length = done.summary["command_following"]["student"]["length"]
    assert length["uncalibrated"]["calibrated_error"] < 0.5
    assert length["uncalibrated"]["error"] > 3, "half of the target is five times 10 % of it"


def test_bench_echo_wins_relevance_and_is_exposed(done: BenchReport) -> None:
    entry = done.summary["parity"]["echo"]["teacher"]
    assert entry["ratio"] > 1
    assert any("copies more" in caveat for caveat in entry["caveats"])


def test_bench_leaves_out_inputs_that_training_has_seen_and_says_so(done: BenchReport) -> None:
    assert any(note.startswith("2 inputs of the suite were left out") for note in done.notes)
    assert any("fewer for search-query, text-to-image" in note for note in done.notes)
    rows = pq.read_table(done.folder / "completions.parquet").to_pylist()
    assert not {row["input_id"] for row in rows} & {episode.input_id for episode in episodes()}


def test_bench_files_belong_together_and_hold_every_text(done: BenchReport, run: Run) -> None:
    completions = pq.read_table(done.folder / "completions.parquet")
    scores = pq.read_table(done.folder / "scores.parquet")
    assert completions.num_rows == scores.num_rows == done.written
    rows = [{**a, **b} for a, b in zip(completions.to_pylist(), scores.to_pylist(), strict=True)]
    assert {row["part"] for row in rows} == {"comparison", "following", "leakage", "uncalibrated"}
    for row in rows:
        assert row["length"] == count_words(row["completion"])
        if row["part"] == "comparison":
            assert 0 <= row["relevance"] <= 1
            assert row["agreement"]["teacher"] is not None
        elif row["part"] in ("following", "uncalibrated") and row["attribute"] == "length":
            assert row["relevance"] is None  # a sweep of length needs no encoder
            assert len(json.loads(row["targets"])) == 1
    assert run.facts().bench["mine"].completions == {"written": done.written, "reused": 0}


def test_bench_again_reuses_everything_and_gives_the_same_summary(done: BenchReport, run: Run, suite: Suite) -> None:
    student = FakeStudent(TASKS)
    again = bench_student(run, suite, student, student_key="first")
    assert (again.written, again.reused) == (0, done.written)
    assert student.calls == []
    assert again.summary == done.summary


@pytest.mark.slow
def test_bench_writes_anew_only_what_changed_and_says_so(
    done: BenchReport, run: Run, suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done.folder, run.bench("other"))
    capsys.readouterr()
    changed = bench_student(run, suite, FakeStudent(TASKS, obedience=0.0), student_key="second", name="other")
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: student@matched, student@top, student@open, " in told
    assert f"in {changed.folder} were written anew: the student" in told
    assert "teacher, echo" not in told
    kept = ("teacher", "echo", "shuffled", "nearest")
    rows = pq.read_table(changed.folder / "completions.parquet").to_pylist()
    assert changed.reused == sum(row["block"] in kept for row in rows)
    assert changed.written == done.written - changed.reused
    assert changed.summary["command_following"]["student"]["length"]["spearman_within_input"] < 0.3
    few = bench_student(run, suite, FakeStudent(TASKS), student_key="first", name="other", seed=1, limit=3)
    assert few.reused == 0
    assert few.summary["systems"]["student@top"]["n"] == 2 * 3 * 2


@pytest.mark.slow
def test_bench_interrupted_goes_on_where_it_was(
    done: BenchReport, run: Run, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(FakeStudent):
        def generate(self, inputs: Any, commands: Any, **options: Any) -> Any:
            if any("length" in command.targets and len(command.targets) == 1 for command in commands):
                raise KeyboardInterrupt
            return super().generate(inputs, commands, **options)

    with pytest.raises(KeyboardInterrupt):
        bench_student(run, suite, Interrupted(TASKS), student_key="first", name="halted")
    assert not (run.bench("halted") / "summary.json").exists()
    resumed = bench_student(run, suite, FakeStudent(TASKS), student_key="first", name="halted")
    assert resumed.reused > 0
    assert resumed.written > 0
    timed = ("latency_ms", "tokens_per_second")
    for name, system in done.summary["systems"].items():
        other = resumed.summary["systems"][name]
        assert {k: v for k, v in system.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}


def test_bench_report_escapes_every_text_and_needs_no_network(done: BenchReport) -> None:
    page = done.report.read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert "<script>alert" not in page
    assert "<i>" not in page
    assert str(escape(HOSTILE)) in page  # as one input under three commands
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert "{{" not in page.replace("{{data}}", "")  # what stands in a text is not filled in
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert {example["input"] for example in data["examples"]} >= {HOSTILE}
    assert len(data["examples"]) == 24
    assert "prefers-color-scheme: dark" in page


def test_bench_report_is_made_again_from_the_files_alone(done: BenchReport) -> None:
    before = done.report.read_bytes()
    done.report.unlink()
    assert report(done.folder).read_bytes() == before


def test_bench_report_names_what_is_missing_or_damaged(done: BenchReport, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"summary\.json: run udrl bench"):
        report(tmp_path)
    (tmp_path / "summary.json").write_text('{"schema": 99}')
    with pytest.raises(RunError, match="schema 99"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_bytes((done.folder / "summary.json").read_bytes())
    for name in ("completions.parquet", "scores.parquet"):
        (tmp_path / name).write_bytes((done.folder / name).read_bytes()[:-50])
    with pytest.raises(RunError, match=r"completions\.parquet is damaged"):
        report(tmp_path)


def test_bench_says_which_call_is_wrong(run: Run, suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="limit"):
        bench_student(run, suite, FakeStudent(TASKS), student_key="x", limit=0)
    with pytest.raises(UsageError, match=r"unknown teacher .bultin. .did you mean builtin"):
        bench_student(run, suite, FakeStudent(TASKS), student_key="x", reference=["bultin"], name="wrong")
    with pytest.raises(TaskError, match="no held-out input"):
        bench_student(run, suite, FakeStudent(("other",)), student_key="x")
    with pytest.raises(RunError, match="no run"):
        bench(tmp_path / "nowhere")
    with pytest.raises(RunError, match="train a student first"):
        bench(run)


def test_bench_that_measures_nothing_fails_and_says_why(run: Run, suite: Suite) -> None:
    class Uncommanded(FakeStudent):
        def __init__(self) -> None:
            super().__init__(TASKS)
            self.space = replace(self.space, attributes=())

    only = replace(suite, systems=("student@top", "echo"), following=None)
    with pytest.raises(RunError, match=r"nothing was measured in .*: There is no row student@top: the student cannot"):
        bench_student(run, only, Uncommanded(), student_key="x", name="nothing")
    baselines = bench_student(run, replace(only, systems=("echo",)), Uncommanded(), student_key="x", name="echo")
    assert list(baselines.summary["systems"]) == ["echo"]


def test_bench_references_get_rows_and_a_matched_student_each(run: Run, suite: Suite) -> None:
    only = replace(suite, systems=("student@matched", "teacher"), following=None)
    found = bench_student(
        run, only, FakeStudent(TASKS), student_key="first", reference=["builtin"], name="refs"
    ).summary
    assert list(found["systems"]) == ["student@matched", "student@matched-teacher", "builtin", "teacher"]
    assert found["systems"]["builtin"]["kind"] == "reference"
    assert set(found["parity"]["student@matched"]) == {"builtin", "teacher"}
    assert set(found["parity"]["teacher"]) == {"builtin"}
    ratio = found["parity"]["teacher"]["builtin"]
    assert ratio["ratio"] == pytest.approx(1, abs=0.03)  # two draws of one system
    assert found["systems"]["teacher"]["anchored_relevance"] == {}  # no shuffled pairs, no anchor
    assert found["command_following"] == {}


def test_bench_student_key_changes_with_the_weights_only(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("card")
    key = folder_key(tmp_path)
    (tmp_path / "README.md").write_text("another card")
    assert folder_key(tmp_path) == key
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert folder_key(tmp_path) != key

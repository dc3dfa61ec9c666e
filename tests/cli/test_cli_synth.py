"""What ``udrl synth`` refuses instead of ignoring it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import udrl.cli.main as cli
from udrl.cli.synth import command, describe
from udrl.data.hashing import hash_hex
from udrl.data.inputs import input_id, split_of
from udrl.data.run import Run
from udrl.teacher.synthesis.synth import NUM_INPUTS, SAMPLES, synth

SMALL = ("--task", "search-query", "--num-inputs", "5", "--samples", "1")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run ``udrl synth`` in a new run; returns the exit code and standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        code = cli.run(["synth", "--run", str(tmp_path / "run"), *arguments])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    """A teacher of one completion."""
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"input": "a blue jay", "output": "a blue jay in a bare tree"}) + "\n")
    return f"recorded:{file}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SMALL, "--input-field", "caption"), "is a column of --inputs, which is not given"),
        ((*SMALL, "--no-score", "--reward", "novelty"), "nothing is scored with --no-score"),
    ],
)
def test_synth_command_refuses_options_without_effect(
    call: Any, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, err = call(*arguments)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [("--samples", "4"), ("--num-inputs", "2000"), ("--retry-failed",)])
def test_synth_command_refuses_what_recorded_outputs_have_no_use_for(
    call: Any, recorded: str, tmp_path: Path, given: tuple[str, ...]
) -> None:
    code, err = call("--teacher", recorded, "--no-score", *given)
    assert (code, "brings its own inputs and completions" in err) == (2, True), err
    assert not (tmp_path / "run").exists()
    assert call("--teacher", recorded, "--no-score")[0] == 0, "defaults are nobody's wish"


def test_synth_command_lets_no_score_win_over_the_configuration(call: Any, tmp_path: Path) -> None:
    config = tmp_path / "synth.yaml"
    config.write_text("reward: [novelty]\n")
    code, err = call(*SMALL, "--config", str(config), "--no-score")
    assert code == 0, err
    assert "score" not in Run(tmp_path / "run").facts().stages


def test_synth_command_shows_the_defaults_of_the_call() -> None:
    shown = {option.name: option.default for option in command.params}
    assert (shown["num_inputs"], shown["samples"]) == (NUM_INPUTS, SAMPLES)


def test_synth_takes_a_file_of_inputs_whole_unless_a_number_is_given(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("".join(f"{hash_hex('a', n)} {hash_hex('b', n)} {hash_hex('c', n)}\n" for n in range(2100)))
    task = ("text-to-image",)
    whole = synth(tmp_path / "run", tasks=task, inputs=file, samples=1, dry_run=True)
    assert (sum(whole.inputs.values()), whole.left) == (2100 - whole.exact - whole.near, 0)
    some = synth(tmp_path / "run", tasks=task, inputs=file, samples=1, num_inputs=100, dry_run=True)
    assert (sum(some.inputs.values()), some.left) == (100, 2000 - some.exact - some.near)
    assert "2,000 inputs of the file were not taken: a larger --num-inputs takes them" in describe(some)
    invented = synth(tmp_path / "run", tasks=task, samples=1, num_inputs=100, dry_run=True)
    assert invented.left == 0


@pytest.mark.parametrize(("split", "trains"), [("train", True), ("validation", False), ("test", False)])
def test_training_comes_next_only_where_a_training_episode_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, trains: bool
) -> None:
    texts = (f"a blue jay number {n}" for n in range(1000))
    text = next(text for text in texts if split_of(input_id(text)) == split)
    file, run = tmp_path / "own.jsonl", tmp_path / "run"
    file.write_text(json.dumps({"input": text, "output": "a blue jay in a bare tree"}) + "\n")
    for arguments in (["synth", "--teacher", f"recorded:{file}"], ["score", "--mismatched", "0", "--truncated", "0"]):
        assert cli.run([*arguments, "--run", str(run), *(["--reward", "novelty"])]) == 0
        told = capsys.readouterr().out
        assert (f"next: udrl train --run {run}" in told) is trains
        assert ("every episode that was kept belongs to the validation or test split" in told) is not trains

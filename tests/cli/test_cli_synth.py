"""What ``udrl synth`` refuses instead of ignoring it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import udrl.cli.main as cli
from udrl.cli.synth import command
from udrl.data.run import Run
from udrl.teacher.synthesis.synth import NUM_INPUTS, SAMPLES

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
    assert "score" not in Run(tmp_path / "run").facts()["stages"]


def test_synth_command_shows_the_defaults_of_the_call() -> None:
    shown = {option.name: option.default for option in command.params}
    assert (shown["num_inputs"], shown["samples"]) == (NUM_INPUTS, SAMPLES)

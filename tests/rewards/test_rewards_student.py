"""A student commanded in rewards other than relevance: scored, trained, calibrated, asked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import udrl
import udrl.cli.main as cli
from udrl.commands import LENGTH, Command
from udrl.errors import UsageError
from udrl.rewards.scoring import score
from udrl.teacher.synthesis.synth import synth
from udrl.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run scored with novelty, a function of one's own and a column, and a student of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_rewards.py").write_text(
        "def shouting(inputs, completions):\n"
        "    return [100 * sum(map(str.isupper, c)) / max(1, len(c)) for c in completions]\n"
        "shouting.low, shouting.high, shouting.unit = 0, 100, '%'\n"
    )
    path = folder / "run"
    sys.path.append(str(folder))
    synth(path, tasks=("search-query",), num_inputs=60, samples=3, score=False)
    score(path, rewards=("novelty", "own_rewards:shouting"), reward_fields=("fidelity=0:1:points",))
    train(path, student="gpt2-mini", steps=40, batch_size=16, vocab_size=500, calibration_inputs=1, device="cpu")
    yield path
    sys.path.remove(str(folder))
    sys.modules.pop("own_rewards", None)


def test_rewards_become_attributes_with_range_and_unit(run: Path) -> None:
    student = udrl.load(run, device="cpu")
    ranges = {a.name: (a.low, a.high, a.unit) for a in student.space.attributes}
    assert ranges[LENGTH][2] == "words"
    assert {name: found for name, found in ranges.items() if name != LENGTH} == {
        "novelty": (0.0, 1.0, ""),
        "shouting": (0.0, 100.0, "%"),
        "fidelity": (0.0, 1.0, "points"),
    }
    assert student.calibration is not None
    curves = student.calibration.curves["search-query"]
    assert set(curves) == {"novelty", "shouting", LENGTH}, "a column cannot be measured"
    for value, name in ((1.5, "novelty"), (101, "shouting"), (-1, "fidelity")):
        with pytest.raises(UsageError, match=f"target {name}="):
            student.generate(["a red fox"], [Command("search-query", {name: value})])


@pytest.mark.filterwarnings("ignore:target")
def test_rewards_of_ones_own_are_commanded_and_scored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a red fox in the snow"
    code = cli.run(["generate", "--run", str(run), "--target", "novelty=0.9", "--score", "--json", text])
    out, _ = capsys.readouterr()
    assert code == 0
    assert '"novelty": 0.9' in out
    assert '"shouting": ' in out


def test_rewards_that_can_be_gamed_are_named_before_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["train", "--run", str(run), "--student", "gpt2-mimi"])  # fails after what is tested here
    _, err = capsys.readouterr()
    assert code == 2
    told = {line.split("'")[1]: line for line in err.splitlines() if line.startswith("the reward '")}
    assert "it can be gamed" in told["novelty"]
    assert "it can be gamed" in told["shouting"]
    assert "pays an empty completion 0.00, a copy of the input 0.00, one word repeated 1.00, " in told["novelty"]
    assert "fidelity" not in err, "what a column would pay for nothing, nobody knows"

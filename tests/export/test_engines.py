"""Engines: a student that was trained, exported, verified, and asked in every way on each of them."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_trained import TASK, trained_run

import udrl
from udrl import onnx_graph
from udrl.architecture.any import AnyCausalModel
from udrl.cli.export import describe
from udrl.cli.main import run as udrl_cli
from udrl.commands import LENGTH, Command
from udrl.decoding.sampling import Sampling
from udrl.decoding.wording import Wording, contains
from udrl.errors import MissingDependency, StudentError, UsageError
from udrl.export import verification
from udrl.export.export import ExportReport, export
from udrl.student.answers import answer
from udrl.student.calibration import Calibration
from udrl.student.engines import choice
from udrl.student.engines.exports import find_export
from udrl.student.engines.onnx import GROWTH, OnnxEngine
from udrl.student.student import Student
from udrl.training.calibrate import recalibrate
from udrl.words import count_words

TEXTS = ["a red fox in the snow", "harbour", "two old friends play chess in a park at night, rain", "a cat"] * 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory)


@pytest.fixture(scope="module")
def exported(trained: Path) -> dict[str, ExportReport]:
    return {"int8": export(trained, precision="int8"), "fp32": export(trained, precision="fp32")}


@pytest.fixture(scope="module")
def run(trained: Path, exported: dict[str, ExportReport]) -> Path:
    return trained


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def students(run: Path) -> dict[str, Student]:
    return {
        "torch": udrl.load(run, device="cpu", precision="fp32", engine="torch"),
        "onnx-fp32": udrl.load(run, engine="onnx-fp32"),
        "onnx-int8": udrl.load(run, engine="onnx-int8"),
    }


def command(words: float = 15) -> Command:
    return Command(TASK, {LENGTH: words})


# -- export and its verification ---------------------------------------------------------------------------------------


def test_engines_fp32_writes_the_tokens_that_torch_writes(exported: dict[str, ExportReport]) -> None:
    found = exported["fp32"].exports[0].verification
    assert (found.passed, found.prompts, found.same_tokens) == (True, 32, 1.0)


def test_engines_int8_is_judged_by_relevance_and_obedience(exported: dict[str, ExportReport]) -> None:
    """The student is small and was trained for seconds: what is close for it is far for one that is of use."""
    found = exported["int8"].exports[0].verification
    assert found.relevance is not None
    assert found.spearman is not None
    assert found.shift is not None
    assert found.completions == 2 * 32 * 4 * 2
    assert found.spearman[LENGTH][0] > 0.2  # it does obey, so that something could be lost
    assert found.relevance[1] == pytest.approx(found.relevance[0], rel=0.15)
    assert found.spearman[LENGTH][1] > found.spearman[LENGTH][0] - 0.25
    assert found.same_tokens > 0.25
    within = (
        abs(found.relevance[1] - found.relevance[0]) <= 0.01 * found.relevance[0]
        and found.spearman[LENGTH][1] >= found.spearman[LENGTH][0] - 0.02
        and found.shift[LENGTH] <= 0.05
    )
    assert found.passed is within is (not found.reasons)
    assert exported["int8"].default == ("onnx-int8" if within else "torch")


def test_engines_int8_is_smaller_and_the_manifest_says_what_was_found(run: Path) -> None:
    sizes = {}
    for name in ("onnx-int8", "onnx-fp32"):
        one = find_export(run / "student", name)
        assert one is not None
        assert one.is_current(run / "student")
        assert one.manifest["verification"]["passed"] is one.verified
        assert one.manifest["sources"]["model.safetensors"]["bytes"] > 0
        sizes[name] = sum(file.stat().st_size for file in one.folder.iterdir())
    assert sizes["onnx-int8"] < 0.6 * sizes["onnx-fp32"]
    assert "export" in json.loads((run / "run.json").read_text())["stages"]


def test_engines_int8_that_obeys_worse_is_not_the_default(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy / "student/engines")
    monkeypatch.setattr(onnx_graph, "STEPS", 1)
    monkeypatch.setattr(verification, "PROMPTS", 12)
    report = export(copy)
    assert [one.name for one in report.exports] == ["onnx-int8", "onnx-fp32"]
    assert [one.verification.passed for one in report.exports] == [False, True]
    assert report.default == "onnx-fp32"
    assert "onnx-int8 does not pass and is kept for whoever names it: " in describe(report)
    assert udrl.load(copy, device="cpu").precision == "fp32"
    assert udrl.load(copy, engine="onnx-int8").precision == "int8"  # whoever asks for it gets it


def test_engines_export_needs_a_gpt2_a_student_and_a_run(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(udrl.errors.RunError, match="there is no run"):
        export(tmp_path / "none")
    from udrl.student.network import StudentModel

    made = StudentModel.__init__

    def other(self: StudentModel, *arguments: Any) -> None:
        made(self, *arguments)
        self.architecture = AnyCausalModel()

    monkeypatch.setattr(StudentModel, "__init__", other)
    before = sorted(copy.rglob("*"))
    with pytest.raises(StudentError, match="only GPT-2, "):
        export(copy)
    assert sorted(copy.rglob("*")) == before


# -- which engine ------------------------------------------------------------------------------------------------------


def judge(run: Path, name: str, passed: bool) -> None:
    """Let the export's verification have come out so."""
    path = run / "student/engines" / name / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["verification"]["passed"] = passed
    path.write_text(json.dumps(manifest))


def test_engines_auto_is_the_best_export_that_passed(copy: Path) -> None:
    for int8, fp32, engine, precision in (
        (True, True, "onnx", "int8"),
        (False, True, "onnx", "fp32"),
        (False, False, "torch", "float32"),
    ):
        judge(copy, "onnx-int8", int8)
        judge(copy, "onnx-fp32", fp32)
        found = udrl.load(copy, device="cpu")
        assert found.engine == engine
        assert engine == "torch" or found.precision == precision  # torch's depends on the machine
    judge(copy, "onnx-int8", True)
    asked = udrl.load(copy, device="cpu", precision="fp32")
    assert (asked.engine, asked.precision) == ("torch", "float32")
    assert udrl.load(copy, engine="onnx-int8").parameters == asked.parameters


def test_engines_that_were_exported_from_other_weights_are_not_used(copy: Path) -> None:
    file = copy / "student/model.safetensors"
    file.touch()
    assert udrl.load(copy, device="cpu").engine == "onnx"  # another time, the same contents
    weights = load_file(file)
    weights["transformer.ln_f.bias"] = weights["transformer.ln_f.bias"] + 0.01
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="exported from other weights and is not used"):
        assert udrl.load(copy, device="cpu").engine == "torch"
    with pytest.raises(StudentError, match="run udrl export again"):
        udrl.load(copy, engine="onnx-int8")


def test_engines_int8_is_verified_for_the_sampling_that_ships(copy: Path) -> None:
    judge(copy, "onnx-int8", True)
    judge(copy, "onnx-fp32", True)
    recalibrate(copy, inputs=1, engine="onnx-int8")
    assert udrl.load(copy, device="cpu").precision == "int8"
    recalibrate(copy, inputs=1, temperature=0.9, engine="onnx-fp32")
    with pytest.warns(UserWarning, match="verified with another sampling and is not used: run udrl export again"):
        other = udrl.load(copy, device="cpu")
    assert (other.engine, other.precision) == ("onnx", "fp32")
    assert udrl.load(copy, engine="onnx-int8").precision == "int8"  # whoever asks for it gets it
    assert export(copy, precision="fp32").default == "onnx-fp32", "what is said to answer is what answers"


def test_engines_are_calibrated_alike(copy: Path) -> None:
    found = []
    for engine in ("torch", "onnx-fp32"):
        precision = "fp32" if engine == "torch" else "auto"
        recalibrate(copy, inputs=2, temperature=0.0, precision=precision, engine=engine)
        calibration = Calibration.load(copy / "student")
        assert calibration is not None
        found.append(calibration.curves[TASK][LENGTH][0])
    assert found[0].positions == found[1].positions
    assert found[1].raw == pytest.approx(found[0].raw, abs=2), "the same greedy completions, but for near-ties"


def test_engines_that_cannot_be_used_are_named(copy: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="did you mean onnx-int8"):
        udrl.load(run, engine="onnx-int")
    with pytest.raises(UsageError, match="computes on the CPU in its own precision"):
        udrl.load(run, engine="onnx-int8", precision="bf16")
    (copy / "student/engines/onnx-int8/model.onnx").write_bytes(b"half")
    with pytest.raises(StudentError, match="cannot be loaded"):
        udrl.load(copy, engine="onnx-int8")
    shutil.rmtree(copy / "student/engines/onnx-int8")
    with pytest.raises(StudentError, match="make one with udrl export"):
        udrl.load(copy, engine="onnx-int8")
    monkeypatch.setattr(choice, "missing_packages", lambda: "onnxruntime")
    with pytest.raises(MissingDependency, match=r"pip install 'udrl\[onnx\]'"):
        udrl.load(copy, engine="onnx-fp32")
    with pytest.warns(UserWarning, match="onnxruntime is not installed"):
        assert udrl.load(copy, device="cpu").engine == "torch"


@pytest.mark.filterwarnings("default:target .* is beyond what")
def test_engines_on_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for engine in ("torch", "onnx-fp32"):
        arguments = ["--engine", engine, "--length", "12", "--device", "cpu", "--precision", "fp32", "a cat"]
        assert udrl_cli(["generate", "--run", str(run), *arguments]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""
    assert udrl_cli(["export", "--run", str(run), "--precision", "fp32", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["exports"][0]["verification"]["same_tokens"] == 1.0
    assert said["default"].startswith("onnx-")
    assert udrl_cli(["generate", "--run", str(run), "--engine", "onnx-int8", "--precision", "bf16", "a cat"]) == 2


# -- what sessions are for: the same on every engine -------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": Sampling(temperature=0)},
    "as shipped": {},
    "hot": {"sampling": Sampling(temperature=1.0, no_repeat=3)},
    "guided": {"sampling": Sampling(temperature=0.7, guidance=1.7)},
    "worded": {"wording": Wording(require=("lantern",), ban=("a", "the", "red"))},
}


@pytest.mark.parametrize("way", WAYS)
def test_engines_write_the_same_in_every_way(students: dict[str, Student], way: str) -> None:
    commands = [command(5 + 3 * k) for k in range(len(TEXTS))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "target .* is beyond what")
        mine, other = (
            students[name].generate(TEXTS, commands, batch_size=7, **WAYS[way]) for name in ("onnx-fp32", "torch")
        )
    assert mine == other


def test_engines_int8_obeys_the_same_rules(students: dict[str, Student]) -> None:
    student = students["onnx-int8"]
    wording = Wording(require=("lantern",), ban=("a", "the"), max_words=30)
    sampling = replace(student.sampling, guidance=1.5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "target .* is beyond what")
        for one in student.generate(TEXTS, [command()] * len(TEXTS), sampling=sampling, wording=wording):
            assert not contains(one.completion, "the")
            assert one.unmet == ()
        parts = student.stream("a cat", command())
        written = "".join(parts)
        assert written == student.generate(["a cat"], [command()])[0].completion
        rewards = {"relevance": lambda texts, completions: [float(count_words(c)) for c in completions]}
        best = next(answer(student, ["a cat"], command(), best_of=3, rewards=rewards))
    assert best.drawn == 3


def test_engines_int8_keeps_rows_apart_within_a_tolerance(students: dict[str, Student]) -> None:
    """Activations share a scale over the batch, so that logits of a row move a little with its neighbours."""
    engine = students["onnx-int8"].computes
    prompts = [[0, 5, 0, 7] * k for k in range(1, 9)]  # the id that pads is a token like any other
    together = engine.start(prompts)[1]
    alone = np.concatenate([engine.start([prompt])[1] for prompt in prompts])
    assert float(np.abs(together - alone).mean() / alone.std()) < 0.1


def test_engines_sessions_grow_and_keep_rows_as_torch_does(students: dict[str, Student]) -> None:
    prompts = [[0, 5, 0, 7] * k for k in range(1, 6)]
    rng = np.random.default_rng(0)
    begun = [students[name].computes.start(prompts) for name in ("torch", "onnx-fp32")]
    for (session, logits), (other, others) in [(begun[0], begun[1])]:
        rows = 5
        for step in range(2 * GROWTH + 5):
            assert logits.shape == (rows, students["torch"].space.base)
            assert np.allclose(logits, others, atol=2e-4)
            ids = rng.integers(0, 500, rows)
            if step in (3, GROWTH + 1):
                kept = np.array([0, 2, 3, 4][: rows - 1])
                session.keep(kept)
                other.keep(kept)
                rows, ids = rows - 1, ids[: rows - 1]
            logits, others = session.step(ids), other.step(ids)
            others += 0  # may be written to
    assert isinstance(students["onnx-fp32"].computes, OnnxEngine)


def test_engines_export_of_a_student_without_commands_is_judged_by_relevance(copy: Path) -> None:
    shutil.rmtree(copy / "student")
    udrl.train(copy, student="gpt2-700k", init="random", method="sft", steps=3, signs_inputs=0, calibration_inputs=0)
    [report] = export(copy, precision="int8").exports
    assert report.verification.relevance is not None
    assert report.verification.spearman == {}

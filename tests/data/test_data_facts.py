"""run.json as typed records: what is written, what older files mean, and what a hand-edited one is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from udrl.data.facts import (
    BenchFacts,
    CalibrateFacts,
    CostFacts,
    DecontaminationFacts,
    DuplicateFacts,
    EncoderFacts,
    ExportedFacts,
    ExportFacts,
    HygieneFacts,
    ImproveFacts,
    OriginFacts,
    PreferFacts,
    RewardFacts,
    RunFacts,
    ScoreFacts,
    SelectFacts,
    StageFacts,
    SynthFacts,
    TeacherCost,
    TeacherFacts,
    TokenFacts,
    TrainFacts,
    WeightsFacts,
)
from udrl.data.facts_json import read_facts, written
from udrl.data.run import Run
from udrl.errors import RunError

LIVE = TeacherFacts("m", "mit", "all", "/a.yaml", "http://x", {"quantization": "fp8"}, "vllm", None, 3.0)
RECORDED = TeacherFacts("gpt-4o", "mit", "recorded in own.jsonl", backend="recorded")
COST = CostFacts(2, TokenFacts(10, 20), 1.5, 0.25, 0.1, {"a": TeacherCost(5, 1, TokenFacts(10, 20), 1.5, 0.25, None)})
RECORDS: tuple[StageFacts, ...] = (
    SynthFacts(
        {"a": LIVE, "gpt-4o": RECORDED}, ("t", "u"), 7, 4, {"t": 3}, 2, {"written": 1, "failed": 0},
        DuplicateFacts(1, 2), {"earlier": 0, "written": 5, "failed": 1}, {"timeout": 1}, TokenFacts(10, 20), 1.5,
        "--max-usd 1", COST,
    ),
    HygieneFacts("mask", DecontaminationFacts(("s",), 9, 8, 1, {"equal": 1}, 13, 0.9, ("/s.yaml",))),
    ScoreFacts(
        (RewardFacts("relevance", 0, 1.0, "cosine", "relevance"),), {"total": 3}, {"relevance": {"teacher": 0.5}},
        {"relevance": 0}, {"relevance": {"overall": None}}, {"relevance": {"echo": 1.0}},
        EncoderFacts("lsa", "1", "fp32"), 2, 3, 7, 1.5, {"mismatched": 0.1},
    ),
    SelectFacts("limr-0.4", "/f", "limr", 0.4, 10, 4, 1, 30, 1.5, {"t": {"kept": 4}}, 3, "gpt2-mini", 1),
    TrainFacts(
        student="gpt2", folder="/r/student", parameters=5, episodes=10, steps=20, seconds=1.5, tokens_per_second=9.0,
        validation_loss=1.25, loss_gap=-0.5, calibrated=True, kept_step=20, signs={"relevance": 0.3},
        method={"name": "udrl"}, reward_calls=4, advice=("slower",), validation_reward=0.7, validation_calls=1,
        calibration_calls=2, stopped="--max-usd 1", machine_hours=0.5, gpu_hours=0.25, usd=1.0,
        options={"open_all": 0.1}, lora=8, seed=3, machine_usd=2.5, preset={"name": "tulu3"}, selection="limr-0.4",
        origin=OriginFacts("/o", "abc", ("t",), ("relevance",), 0),
        weights=WeightsFacts("/w", "abc", "mit"), precision="torch.float32", device="cpu",
        torch="2.9", processes=2,
    ),
    CalibrateFacts("/r/student", 16, {"top_p": 0.9}, {"t": {"relevance": (0.1, 0.8)}}, 1),
    PreferFacts(
        "/p", "preference:/p", 9, 3, (0.7, 0.6, 0.8), 5, 1.5, "relevance", 0.25, 1, 8, 1e-5, OriginFacts("/o", "abc")
    ),
    ExportFacts((ExportedFacts("onnx-int8", "/e", 100, {"passed": True}),), 1),
    ImproveFacts(2, "abc", 3, "no better"),
    BenchFacts("mine", "relevance", 1, 50, 100, {"written": 9, "reused": 1}, 1.5),
)  # fmt: skip
"""A record of each stage in which no field is as by default."""


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stage)
def test_record_of_a_stage_comes_back_as_it_was_recorded(record: StageFacts, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.writing():
        run.record(record)
    facts = run.facts()
    assert facts.stages == (record.stage,)
    read = facts.bench["mine"] if isinstance(record, BenchFacts) else getattr(facts, record.stage)
    assert read == record
    stage = json.loads((run.path / "run.json").read_text())["stages"][record.stage]
    assert [*stage] == ["finished", *written(record), "versions", "hardware"]


def test_stages_that_there_are_not_are_empty_records(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.writing():
        facts = run.facts()
    assert facts == RunFacts(schema=1, udrl=facts.udrl, created=facts.created)
    assert (facts.stages, facts.score.rewards, facts.train.origin, facts.bench) == ((), (), None, {})
    assert facts.train.knows_open


def test_what_is_not_given_is_not_written_and_what_is_nothing_is_null() -> None:
    trained = written(TrainFacts())
    assert not {"preset", "selection", "origin"} & trained.keys()
    assert (trained["machine_usd"], trained["stopped"], trained["usd"]) == (None, None, None)
    assert written(RECORDED) == {
        "model": "gpt-4o", "licence": "mit", "outputs": "recorded in own.jsonl", "backend": "recorded"
    }  # fmt: skip
    live = written(TeacherFacts("m", "mit", "all", backend="openai", revision=None, weight=1.0))
    assert live == {
        "model": "m", "licence": "mit", "outputs": "all", "backend": "openai", "revision": None, "weight": 1.0
    }  # fmt: skip
    assert "replayed" not in written(OriginFacts("/o"))
    assert written(OriginFacts("/o", replayed=0))["replayed"] == 0
    assert "name" not in written(BenchFacts("mine"))


OLD = """{"schema": 1, "udrl": "0.0.1", "stages": {
    "synth": {"finished": "2026-01-01T00:00:00Z", "seed": 3, "teachers": {"builtin": {"model": "builtin"}}},
    "score": {"rewards": [{"name": "relevance", "low": 0, "high": 1}], "encoder": {"name": "lsa"}, "gone": [1]},
    "train": {"student": "gpt2", "options": {"open_all": 0}},
    "bench relevance": {"suite": "relevance"},
    "dreamt": {"of": "sheep"}
}}"""


def test_run_made_by_an_older_version_has_the_defaults_of_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(OLD)
    facts = Run(tmp_path).facts()
    assert facts.stages == ("synth", "score", "train", "bench relevance", "dreamt")
    assert facts.synth == SynthFacts({"builtin": TeacherFacts("builtin")}, seed=3)
    assert facts.synth.cost.starts == 0
    assert facts.score == ScoreFacts((RewardFacts("relevance", 0.0, 1.0),), encoder=EncoderFacts("lsa"))
    assert facts.score.sources == {}
    assert not facts.train.knows_open
    assert facts.bench == {"relevance": BenchFacts("relevance", "relevance")}
    assert facts.hygiene == HygieneFacts()


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ({"synth": {"seed": "7"}}, "stages.synth.seed is '7', needed is a whole number"),
        ({"synth": {"seed": True}}, "stages.synth.seed is True, needed is a whole number"),
        ({"synth": {"seed": 7.0}}, "stages.synth.seed is 7.0, needed is a whole number"),
        ({"synth": {"samples": []}}, "stages.synth.samples is [], needed is a whole number"),
        ({"synth": {"tasks": "poem"}}, "stages.synth.tasks is 'poem', needed is a list"),
        ({"synth": {"tasks": ["poem", 3]}}, "stages.synth.tasks[1] is 3, needed is a text"),
        ({"synth": {"teachers": ["a"]}}, "stages.synth.teachers is ['a'], needed is an object with a value for each"),
        (
            {"synth": {"cost": {"teachers": {"a": {"seconds": "long"}}}}},
            "stages.synth.cost.teachers.a.seconds is 'long', needed is a number",
        ),
        ({"hygiene": {"pii": "on"}}, "stages.hygiene.pii is 'on', needed is one of 'off', 'mask', 'reject'"),
        ({"score": {"rewards": {}}}, "stages.score.rewards is {}, needed is a list"),
        ({"score": {"rewards": [{"low": 0, "high": 1}]}}, "stages.score.rewards[0] has no 'name', needed is a text"),
        ({"score": {"encoder": "lsa"}}, "stages.score.encoder is 'lsa', needed is an object"),
        ({"train": {"calibrated": 1}}, "stages.train.calibrated is 1, needed is true or false"),
        ({"prefer": {"accuracy": [0.5]}}, "stages.prefer.accuracy is [0.5], needed is a list of 3"),
        ({"bench mine": {"inputs": None}}, "stages.bench mine.inputs is None, needed is a whole number"),
    ],
)
def test_value_of_a_wrong_type_is_named_with_what_is_needed(tmp_path: Path, stages: Any, says: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"schema": 1, "stages": stages}))
    with pytest.raises(RunError) as told:
        Run(tmp_path).check()
    assert str(told.value).startswith(f"{file}: {says}")
    assert str(told.value).endswith("or restore the file")
    assert "\n" not in str(told.value)


def test_a_long_value_is_shown_by_its_beginning(tmp_path: Path) -> None:
    with pytest.raises(RunError) as told:
        read_facts({"schema": 1, "stages": {"train": {"steps": "x" * 500}}}, tmp_path / "run.json")
    assert len(str(told.value)) < 200 + len(str(tmp_path))


def test_copied_stages_are_as_they_were_with_what_nobody_knows(tmp_path: Path) -> None:
    source, copy = Run(tmp_path / "source"), Run(tmp_path / "copy")
    source.path.mkdir()
    copy.path.mkdir()
    (source.path / "run.json").write_text(OLD)
    stages = json.loads(OLD)["stages"]
    copy.copy_stages(source, (SynthFacts, ScoreFacts, HygieneFacts))
    made = json.loads((copy.path / "run.json").read_text())
    assert made == {**json.loads(OLD), "stages": {name: stages[name] for name in ("synth", "score")}}
    assert made["stages"]["score"]["gone"] == [1]

    with copy.writing():
        copy.record(ScoreFacts(seed=5))
        copy.copy_stages(source, (ScoreFacts, TrainFacts))
    assert (copy.facts().score, copy.facts().train.student) == (ScoreFacts(seed=5), "gpt2"), "its own stays"
    copy.copy_stages(source, (ScoreFacts,), anew=True)
    assert json.loads((copy.path / "run.json").read_text())["stages"] == {
        name: stages[name] for name in ("synth", "score", "train")
    }

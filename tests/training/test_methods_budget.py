"""Published presets, several rewards, budgets, costs and the best weights by validation reward."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from methods_run import SMALL, brevity, import_trl, methods_run, started_run
from safetensors.torch import load_file
from tiny_students import new_student

import udrl.cli.main as cli
from udrl.cli.train_method import method_from
from udrl.data.facts import RewardFacts, RunFacts, ScoreFacts
from udrl.errors import UsageError
from udrl.rewards import load_reward
from udrl.training import cost
from udrl.training.cost import Limits, Meter
from udrl.training.examples import Examples
from udrl.training.methods import METHODS, Dpo, Grpo, method_of
from udrl.training.methods.grpo import Group
from udrl.training.methods.grpo import paid as handed
from udrl.training.methods.hosting import Driver
from udrl.training.methods.method_data import affordable_steps
from udrl.training.methods.payment import Payment, payment_of
from udrl.training.methods.published import TABLE, advice, published
from udrl.training.methods.watch import WINDOW, Watch
from udrl.training.methods.writing import Judge, Prompt
from udrl.training.options import LoopOptions
from udrl.training.ranks import Rank
from udrl.training.train import train

GRPO: dict[str, Any] = {**SMALL, "replay": 0.0, "steps": 6, "batch_size": 8, "learning_rate": 2e-3}


def opening(inputs: list[str], completions: list[str]) -> list[float]:
    """Pay for completions that begin as their input does, minus one for others."""
    return [1.0 if c.split()[:1] == i.split()[:1] else -1.0 for i, c in zip(inputs, completions, strict=True)]


opening.low, opening.high = -1.0, 1.0  # type: ignore[attr-defined]


@pytest.fixture(scope="module", autouse=True)
def trl() -> None:
    import_trl()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    with pytest.MonkeyPatch.context() as patch:
        bare, started = started_run(tmp_path_factory.mktemp("budget"), patch)
        file = bare / "run.json"
        facts = json.loads(file.read_text())
        facts["stages"]["score"]["rewards"].append(
            {"name": "opening", "low": -1.0, "high": 1.0, "unit": "", "source": "test_methods_budget:opening"}
        )
        file.write_text(json.dumps(facts))
        yield bare, started


def facts_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["stages"]["train"]
    return found


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "student" / "training.jsonl").read_text().splitlines()]


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "student" / "model.safetensors") for run in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


def test_every_preset_makes_a_method_and_has_a_paper() -> None:
    for row in TABLE:
        method = method_of(row.method, row.settings)
        assert row.method in METHODS
        assert "arXiv" in row.paper
        if isinstance(method, Grpo):
            assert row.batch_size % method.group_size == 0
        if isinstance(method, Dpo):
            assert (method.strength, method.length_normalised) == (5.0, True)
    assert (published("smoltulu", "sft").learning_rate, published("smoltulu", "dpo").batch_size) == (9e-5, 12)
    rs = published("open-rs", "grpo")
    assert rs.steps is not None
    assert rs.batch_size * rs.steps == 42_000  # what the paper counts


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("smoltolu", "sft", "unknown preset 'smoltolu' .did you mean smoltulu"),
        ("open-rs", "sft", "belongs to --method grpo, not to sft: it has smoltulu, smoltulu-1207, tulu3"),
        ("tulu3", "udrl", "belongs to --method sft and dpo, not to udrl: it has none"),
    ],
)
def test_a_preset_that_the_method_has_not_is_wrong_usage(name: str, method: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        published(name, method)


def test_a_preset_holds_but_for_what_is_given_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, tiny = methods_run(tmp_path, monkeypatch)
    arguments = ["train", "--run", str(run), "--student", tiny, "--method", "sft", "--device", "cpu"]
    assert cli.run([*arguments, "--preset", "smoltulu", "--steps", "2", "--machine-usd", "36"]) == 0
    said = capsys.readouterr().out
    assert "advice: the learning rate 9e-05 was published for SmolLM2-1.7B" in said
    assert "cost: 0." in said
    facts = facts_of(run)
    assert facts["preset"]["paper"].endswith("SFT-1130")
    assert (facts["options"]["learning_rate"], facts["options"]["batch_size"], facts["options"]["steps"]) == (
        9e-5,
        8,
        2,
    )
    assert (facts["options"]["schedule"], facts["options"]["warmup"]) == ("cosine", 0.03)
    assert facts["gpu_hours"] == 0
    assert facts["usd"] == pytest.approx(36 * facts["machine_hours"], abs=1e-4)
    assert facts["machine_hours"] > 0
    assert facts["seconds"] / 3600 <= facts["machine_hours"]  # the loop is a part of the whole
    train(run, student=tiny, method="sft", preset="smoltulu", **{**SMALL, "batch_size": 4})
    assert facts_of(run)["options"]["batch_size"] == 4
    assert facts_of(run)["options"]["learning_rate"] == SMALL["learning_rate"]
    assert facts_of(run)["advice"] == []


def test_options_of_the_method_win_over_those_of_the_preset() -> None:
    from udrl.cli.train_method import OPTIONS

    given: dict[str, Any] = {**dict.fromkeys(OPTIONS), "reward": (), "preset": "open-rs"}
    made = method_from("grpo", {**given, "group_size": 4})
    assert isinstance(made, Grpo)
    assert (made.group_size, made.temperature, made.updates) == (4, 0.7, 1)
    assert list(made.reward) == ["accuracy", "format", "cosine_length"]
    made = method_from("grpo", {**given, "reward": ("accuracy=2", "format")})
    assert isinstance(made, Grpo)
    assert made.reward == {"accuracy": 2.0, "format": 1.0}
    assert method_from("grpo", {**given, "reward": ("accuracy",)}) == Grpo(
        reward="accuracy", group_size=6, temperature=0.7, updates=1
    )
    for wrong, message in (
        (("a=x",), "x is no number"),
        (("a", "a"), "names a twice"),
        (("a=0",), "must be another number than 0"),
    ):
        with pytest.raises(UsageError, match=message):
            method_from("grpo", {**given, "reward": wrong})
    with pytest.raises(UsageError, match="several times, is for --method grpo, not for dpo"):
        method_from("dpo", {**given, "preset": None, "reward": ("a", "b")})


def test_advice_on_a_published_rate_is_for_small_students_that_take_it() -> None:
    row = published("open-rs", "grpo")
    assert "hardly moves" in (advice(row, 5_000_000, 1e-6, 5e-5) or "")
    assert advice(row, 5_000_000, 2e-5, 5e-5) is None
    assert advice(row, 1_500_000_000, 1e-6, 5e-5) is None


def test_payment_is_the_weighted_sum_and_knows_its_span() -> None:
    opening_facts = RewardFacts("opening", -1.0, 1.0, source="test_methods_budget:opening")
    facts = RunFacts(score=ScoreFacts(rewards=(opening_facts,)))
    paying = payment_of({"opening": 2.0, "novelty": -0.5}, None, facts, {}, needed_by="a test")
    total, parts = paying(["a red fox", "an old ship"], ["a red fox", "the sea"])
    assert parts["opening"] == [1.0, -1.0]
    assert total == [2.0 * o - 0.5 * n for o, n in zip(parts["opening"], parts["novelty"], strict=True)]
    assert paying.span == 2.0 * 2 + 0.5 * 1
    with pytest.raises(UsageError, match="'clicks' cannot be computed for new completions, as a test needs it"):
        payment_of("clicks", None, facts, {}, needed_by="a test")


def test_limits_say_which_is_reached_and_count_earlier_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("udrl.training.cost.time.monotonic", lambda: now[0])
    limits = Limits(samples=50, usd=0.01, minutes=2, machine_usd=0.6)
    first = Meter(limits, tmp_path)
    now[0] += 40
    first.tick()
    assert not first.ends(3, 49)
    assert first.ends(4, 50)
    assert first.ended == "--max-samples 50"
    now[0] += 1000  # between the starts nothing is spent
    second = Meter(limits, tmp_path)
    assert second.seconds == 40
    now[0] += 20
    assert second.ends(9)
    assert (second.ended, second.step) == ("--max-usd 0.01", 9)
    two = Meter(Limits(minutes=2, machine_usd=1.0), tmp_path, group=Rank(0, 4), gpu=True)
    now[0] += 120
    assert two.reached() == "--max-minutes 2"
    assert two.cost.machine_hours == pytest.approx(0.05)
    assert two.cost.gpu_hours == pytest.approx(0.2)
    assert two.cost.usd == pytest.approx(0.05)
    with pytest.raises(UsageError, match="--max-usd needs the price of an hour"):
        Limits(usd=1.0)


def test_steps_are_planned_within_the_samples() -> None:
    assert affordable_steps(Grpo(updates=2), 32, 100, 1000) == 6
    assert affordable_steps(Grpo(updates=1), 32, 10_000, 20) == 20
    with pytest.raises(UsageError, match="does not suffice for one batch of 32"):
        affordable_steps(Grpo(), 32, 31, 5)


def test_grpo_keeps_the_best_weights_by_validation_reward_also_after_an_interruption(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare, started = runs
    whole, cut = (shutil.copytree(bare, tmp_path / name) for name in ("whole", "cut"))
    method = Grpo(reward={"brevity": 1.0, "opening": 0.5}, group_size=4, updates=1)
    given: dict[str, Any] = {**GRPO, "start_from": started, "method": method, "keep": "best", "validate_every": 2}
    judged = [0.1, 0.4, 0.3, 0.2]  # of steps 0, 2, 4, 6: the second is the best
    real, seen = Judge.__call__, []

    def scripted(self: Judge) -> dict[str, float]:
        found = real(self)
        seen.append(self.author.student.model.transformer.h[0].mlp.c_fc.weight.detach().clone())
        assert {"validation_reward", "validation_brevity", "validation_opening"} <= found.keys()
        return {**found, "validation_reward": judged[calls.pop(0)]}

    calls = [0, 1, 2, 3]
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "__call__", scripted)
        report = train(whole, **given)
        assert (report.kept_step, report.steps, report.validation_reward) == (2, 6, 0.4)
        calls = [0, 1]
        with pytest.raises(IndexError):  # dies at the validation of step 4
            train(cut, **{**given, "save_every": 1})
        calls = [2, 3]
        assert train(cut, **{**given, "save_every": 1}).kept_step == 2
    assert same(whole, cut)
    kept = load_file(whole / "student" / "model.safetensors")["transformer.h.0.mlp.c_fc.weight"]
    assert [torch.equal(kept, one) for one in seen[:4]] == [False, True, False, False]
    logged = lines(whole)
    assert [line["step"] for line in logged if "validation_reward" in line] == [0, 2, 4, 6]
    step = next(line for line in logged if "loss" in line)
    assert step["reward"] == pytest.approx(step["reward_brevity"] + 0.5 * step["reward_opening"], abs=1e-5)
    assert step["length"] > 0
    assert step["reward_std"] >= 0
    facts = facts_of(whole)
    assert facts["method"]["reward"] == {"brevity": 1.0, "opening": 0.5}
    assert (facts["reward_calls"], facts["validation_calls"]) == (6 * 8, 4 * 4)


def test_grpo_ends_after_the_step_that_reaches_its_budget_with_the_student_so_far(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, started = runs
    planned, timed = (shutil.copytree(bare, tmp_path / name) for name in ("planned", "timed"))
    arguments = ["train", "--from", str(started), "--method", "grpo", "--method-reward", "brevity", "--group-size", "4"]
    arguments += ["--batch-size", "8", "--device", "cpu", "--steps", "50", "--replay", "0"]
    assert cli.run([*arguments, "--run", str(planned), "--max-samples", "20"]) == 0
    said = capsys.readouterr().out
    assert "ended by --max-samples 20" in said
    facts = facts_of(planned)
    assert (facts["steps"], facts["reward_calls"], facts["options"]["steps"]) == (4, 16, 4)
    assert cli.run([*arguments, "--run", str(timed), "--max-minutes", "1e-5"]) == 0
    facts = facts_of(timed)
    assert (facts["steps"], facts["kept_step"], facts["stopped"]) == (1, 1, "--max-minutes 1e-05")
    assert not (timed / "student" / cost.SPENT).exists()
    assert cli.run([*arguments, "--run", str(timed), "--max-usd", "1"]) == 2
    assert "give --machine-usd, too" in capsys.readouterr().err
    assert cli.run([*arguments[:2], str(started), "--method", "dpo", "--max-samples", "9", "--run", str(timed)]) == 2
    assert "is about completions that --method grpo writes" in capsys.readouterr().err


@pytest.mark.parametrize(("samples", "ended_at"), [(16, 4), (20, 4), (12, 2)])
def test_grpo_makes_every_update_on_what_it_has_written(tmp_path: Path, samples: int, ended_at: int) -> None:
    """Two batches of 8 with two updates each; whether a third batch fits is asked where it would be written."""
    student, options = new_student(), LoopOptions(steps=6, batch_size=8, save_every=99)
    watch, meter = Watch(Grpo(updates=2)), Meter(Limits(samples=samples))
    nothing = Examples((), [], [], [])
    driver = Driver(
        student, options, dtype=torch.float32, validation=nothing, watch=watch, log=lambda *_: None,
        state_file=tmp_path / "state.pt", fingerprint="x", meter=meter,
    )  # fmt: skip
    for step in range(1, 5):
        watch.scored = 8 * -(-step // 2)
        driver.after(step, {"loss": 1.0}, takes_up=step % 2 == 0)
        if meter.ended:
            break
    assert (meter.step, meter.ended) == (ended_at, f"--max-samples {samples}")


def test_own_loop_ends_at_its_budget_and_goes_on_only_where_it_was_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tiny = methods_run(tmp_path, monkeypatch)
    given: dict[str, Any] = {"method": "sft", "student": tiny, **SMALL, "steps": 3}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("udrl.student.network.save_model", killed)
            with pytest.raises(KeyboardInterrupt):
                train(run, **given, max_minutes=1e-5)

    interrupted()
    report = train(run, **given, max_minutes=1e-5)
    assert (report.steps, report.kept_step, report.stopped) == (1, 1, "--max-minutes 1e-05")
    assert report.validation_loss is not None
    interrupted()
    report = train(run, **given, max_minutes=60)
    assert (report.steps, report.stopped) == (3, None)
    assert [line["step"] for line in lines(run) if "loss" in line] == [1, 2, 3]


def test_dpo_keeps_the_best_weights_where_its_reward_can_be_computed(runs: tuple[Path, Path], tmp_path: Path) -> None:
    bare, started = runs
    run = shutil.copytree(bare, tmp_path / "dpo")
    given: dict[str, Any] = {**GRPO, "start_from": started, "keep": "best", "validate_every": 2, "steps": 4}
    report = train(run, method=Dpo(reward="brevity"), **given)
    rewards = {int(line["step"]): line["validation_reward"] for line in lines(run) if "validation_reward" in line}
    assert list(rewards) == [0, 2, 4]
    assert report.validation_reward == max(rewards.values()) == rewards[report.kept_step]
    with pytest.raises(UsageError, match="cannot be computed for new completions, as --keep best needs it"):
        train(run, method=Dpo(reward="relevance", gap=0.0), **given)


def test_watch_tells_of_lengths_that_collapse_and_of_a_reward_that_falls() -> None:
    watch = Watch(Grpo(kl=0.1), learning_rate=1e-4)
    watch.span = 2.0
    for _ in range(WINDOW):
        watch.take({"length": 40.0, "reward": 0.8})
    resumed = Watch(Grpo(kl=0.1), learning_rate=1e-4)
    resumed.span = 2.0
    resumed.recall(watch.recalled)
    for one in (watch, resumed):
        for _ in range(WINDOW):
            one.take({"length": 15.0, "reward": 0.5})
        assert len(one.advice) == 2
        assert any("shorter, from 40 to" in line and "--kl (now 0.1)" in line for line in one.advice)
        assert any("has fallen from 0.80 to" in line and "--keep best" in line for line in one.advice)
    steady = Watch(Grpo(), learning_rate=1e-4)
    for _ in range(3 * WINDOW):
        steady.take({"length": 40.0, "reward": 0.8})
    assert steady.advice == []


def test_payment_of_one_reward_pays_its_values() -> None:
    paid, parts = Payment(((load_reward("test_methods_budget:opening"), 1.0),))(["a b"], ["a c"])
    assert paid == parts["opening"] == [1.0]
    assert brevity(["a"], ["b c"]) == [1 / 3]


class Latin:
    """Pays one for each completion, and knows no Greek, as an encoder does."""

    name, low, high, unit = "latin", 0.0, 1.0, ""

    def scorable(self, inputs: list[str], completions: list[str]) -> list[bool]:
        return [text.isascii() for text in completions]

    def __call__(self, inputs: list[str], completions: list[str]) -> list[float]:
        assert all(text.isascii() for text in completions)
        return [1.0] * len(completions)


def test_completion_that_cannot_be_scored_is_not_paid_and_teaches_nothing() -> None:
    opens = load_reward("test_methods_budget:opening")
    payment = Payment(((Latin(), 2.0), (opens, 1.0)))
    paid, parts = payment(["a b"] * 3, ["a c", "λόγος", "b c"])
    assert paid == [3.0, None, 1.0]
    assert parts == {"latin": [1.0, None, 1.0], "opening": [1.0, -1.0, -1.0]}
    assert payment.lowest == -1.0
    group = Group(Prompt("t", "a b", [1]), [[1], [2], [3]], paid, [{"latin": value} for value in parts["latin"]])
    assert group.told == [3.0, 2.0, 1.0]  # the mean of the others: no advantage
    assert Group(group.prompt, group.written, [None] * 3, group.parts).flat


def test_completions_that_cannot_be_scored_are_counted() -> None:
    figures: dict[str, float] = {}
    parts: list[dict[str, float | None]] = [{"latin": 1.0, "novelty": 0.5}, {"latin": None, "novelty": 0.25}]
    told = handed(paid=[1.0, 1.0], parts=parts, flat=[0.0], unscored=[0.5], log_metric=figures.__setitem__)
    assert told == [1.0, 1.0]
    assert figures == {"zero_variance": 0.0, "unscored": 0.5, "reward_latin": 1.0, "reward_novelty": 0.375}
    watch = Watch(Grpo())
    watch.take({"unscored": 0.5})
    watch.finish()
    assert "50% of the completions cannot be scored" in watch.advice[0]

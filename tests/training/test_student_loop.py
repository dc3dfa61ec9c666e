"""The training loop: what it must not change, when it ends, what it keeps, and what it says."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tiny_students import examples, fit, new_student, options

from udrl.architecture import attention
from udrl.architecture.gpt2 import forward
from udrl.errors import MissingDependency, StudentError, UsageError
from udrl.student.network import StudentModel
from udrl.training import loop
from udrl.training.checkpoint import STATE
from udrl.training.distributed import Replica
from udrl.training.examples import batch_of
from udrl.training.loop import BEST
from udrl.training.monitor import EVENTS, Monitor
from udrl.training.options import LoopOptions, rate
from udrl.training.validation import Validation, best_of, out_of_patience


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("changed", [{"micro_batch": 3}, {"checkpointing": True}], ids=["micro batch", "checkpointing"])
def test_loop_saving_memory_gives_the_gradients_of_the_whole_batch(changed: dict[str, Any]) -> None:
    gradients = []
    for made in (options(), options(**changed)):
        student = new_student()
        student.train()
        if made.checkpointing:
            loop.switch_checkpointing(student.model, "enable")
        loop._gradients(Replica(student), examples(40), np.arange(7), 0, made, torch.float32)
        gradients.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    whole, parts = gradients
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=1e-4)


def test_loop_checkpointing_computes_blocks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    inner = forward.run_block
    monkeypatch.setattr(forward, "run_block", lambda *a: calls.append(1) or inner(*a))
    fit(options(steps=1), validation=None)
    plain = len(calls)
    fit(options(steps=1, checkpointing=True), validation=None)
    assert (plain, len(calls)) == (2, 6)  # two blocks forward; the second time twice


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("rows", [None, 0.02])
def test_loop_resumed_at_any_step_is_bit_identical(rows: float | None, stop: int, tmp_path: Path) -> None:
    made = options(save_every=1, keep="best", row_learning_rate=rows)

    def interrupt(step: int, figures: Mapping[str, float]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    whole, validations = fit(made, dropout=0.2, state_file=tmp_path / "a" / STATE)
    with pytest.raises(KeyboardInterrupt):
        fit(made, dropout=0.2, state_file=tmp_path / "b" / STATE, log=interrupt)
    resumed, again = fit(made, dropout=0.2, state_file=tmp_path / "b" / STATE)
    assert equal(whole, resumed)
    assert validations == again


def test_loop_signs_leave_the_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def signs() -> Mapping[str, float]:
        calls.append(1)
        torch.rand(3)  # each step seeds what it draws itself
        return {"stop_rate": 0.5}

    monkeypatch.setattr(loop, "SIGNS_SHARE", 1.0)  # thirty steps are too few for the default
    calls: list[int] = []
    said: list[Mapping[str, float]] = []
    made = options(steps=30, validate_every=15)
    plain, _ = fit(made, dropout=0.2)
    watched, _ = fit(made, dropout=0.2, signs=signs, log=lambda _, figures: said.append(figures))
    assert calls
    assert equal(plain, watched)
    assert any("stop_rate" in figures and "validation_loss" in figures for figures in said)


def test_loop_signs_stay_a_small_share_of_the_time() -> None:
    spent = loop.Spending()
    measured = 0
    for step in range(1, 2001):
        spent.step(0.1)
        if step % 20 == 0 and spent.allows():
            spent.signs(1.5)
            measured += 1
    assert measured >= 4
    assert spent.measured <= 0.05 * spent.trained


def test_loop_keeps_the_best_weights_where_asked(tmp_path: Path) -> None:
    made = options(steps=40, learning_rate=0.05, validate_every=4)  # fast enough to get worse on other episodes
    last, validations = fit(made)
    assert best_of(validations).step < 40
    kept, again = fit(options(steps=40, learning_rate=0.05, validate_every=4, keep="best"), state_file=tmp_path / STATE)
    assert validations == again
    assert not equal(last, kept)
    saved = torch.load(tmp_path / BEST, weights_only=True)
    assert saved["step"] == best_of(validations).step
    assert equal(kept, saved["student"])


def test_loop_ends_when_patience_is_over(tmp_path: Path) -> None:
    made = options(steps=40, learning_rate=0.05, validate_every=2, patience=3)
    _, validations = fit(made, state_file=tmp_path / STATE)
    assert validations[-1].step < 40
    assert best_of(validations) == validations[-4]


def test_loop_patience_counts_validations_without_a_lower_loss() -> None:
    def of(*losses: float) -> list[Validation]:
        return [Validation(i, loss, loss) for i, loss in enumerate(losses)]

    assert not out_of_patience(of(3, 4, 5), 0)
    assert not out_of_patience(of(3, 4), 2)
    assert out_of_patience(of(3, 4, 3), 2)
    assert not out_of_patience(of(3, 4, 2.9), 2)
    assert not out_of_patience(of(5, 4, 4.5, 3, 3.5), 2)


def test_loop_without_validation_cannot_choose() -> None:
    for changed in ({"keep": "best"}, {"patience": 2}):
        with pytest.raises(UsageError, match="need validation episodes"):
            fit(options(**changed), validation=examples(0))


def test_loop_out_of_memory_names_the_setting_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StudentModel, "losses", lambda *_, **__: torch.empty(2**60))  # torch's own failure
    with pytest.raises(StudentError, match=r"out of memory at step 0, with 3 sequences .* lower --micro-batch \(now 3"):
        fit(options(micro_batch=3))
    with pytest.raises(StudentError, match="turn on --gradient-checkpointing"):
        fit(options(micro_batch=1))
    with pytest.raises(StudentError, match="smaller student"):
        fit(options(micro_batch=1, checkpointing=True))


def test_loop_other_failures_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StudentModel, "losses", lambda *_, **__: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        fit(options())


def test_loop_rows_of_commands_learn_at_a_rate_of_their_own() -> None:
    made = options(steps=1, learning_rate=1e-3, row_learning_rate=0.1, weight_decay=0.0, warmup=1.0)
    before, (after, _) = new_student().state_dict(), fit(made)
    moved = {name: float((after[name] - before[name]).abs().max()) for name in after}
    assert moved["rows.weight"] == pytest.approx(0.1, rel=1e-3)  # AdamW's first step is the rate, whatever the gradient
    assert max(far for name, far in moved.items() if name != "rows.weight") == pytest.approx(1e-3, rel=1e-3)


def test_loop_schedules() -> None:
    for schedule, middle, end in (("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)):
        made = LoopOptions(steps=1000, learning_rate=1.0, warmup=0.1, schedule=schedule)  # type: ignore[arg-type]
        assert rate(49, made) == pytest.approx(0.5)
        assert rate(99, made) == pytest.approx(1.0)
        assert rate(550, made) == pytest.approx(middle, abs=0.01)
        assert rate(999, made) == pytest.approx(end, abs=0.01)


def test_loop_variable_length_attention_is_told_the_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's function is replaced by a plain one, sequence by sequence: what it is given must be right."""

    def plain(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, same: torch.Tensor,
        longest: int, also: int, *, window_size: tuple[int, int],
    ) -> torch.Tensor:  # fmt: skip
        assert starts.dtype == torch.int32
        assert window_size == (-1, 0)
        bounds = starts.tolist()
        assert longest == also == max(b - a for a, b in itertools.pairwise(bounds))
        out = []
        for a, b in itertools.pairwise(bounds):
            parts = (t[a:b].transpose(0, 1)[None] for t in (q, k, v))
            out.append(torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)[0].transpose(0, 1))
        return torch.cat(out)

    student, made = new_student(), examples(9)
    batch = batch_of(made, range(9), student.space)
    groups = student.losses(batch)
    assert attention.variable_length(torch.zeros(1, dtype=torch.bfloat16), 64, 0.0) is None  # not on a CPU
    monkeypatch.setattr(attention, "variable_length", lambda *_: plain)
    torch.testing.assert_close(student.losses(batch), groups, atol=1e-5, rtol=1e-5)


def test_monitor_writes_lines_events_and_a_readable_line(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monitor = Monitor(tmp_path, name="gpt2-mini", steps=2)
    step = {"loss": 2.0, "gradient_norm": 1.0, "learning_rate": 0.1, "tokens": 100, "seconds": 0.5}
    signs = {"spearman_length": 0.9, "stop_rate": 1.0, "diversity": 0.8, "completions": 8.0, "signs_seconds": 0.1}
    monitor.log(0, step)
    monitor.log(0, {"validation_loss": 2.5, "loss_gap": 0.25, **signs})
    assert monitor.line() == (
        "loss 2.00, validation 2.50 (+0.25 if commands lie), obeys length 0.90, ends 100%, diversity 0.80, 200 tokens/s"
    )
    assert monitor.signs == signs
    assert (tmp_path / "training.jsonl").read_text().count("\n") == 2, "a kill now would lose none"
    monitor.close()
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 1]
    events = EventAccumulator(str(tmp_path / EVENTS))
    events.Reload()
    assert events.Scalars("train/loss")[0].value == 2.0
    assert events.Scalars("validation/spearman_length")[0].value == pytest.approx(0.9)


def test_monitor_tracker_that_is_not_installed_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingDependency, match="pip install trackio"):
        Monitor(tmp_path, name="a", steps=1, tracker="trackio")


@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_monitor_sends_everything_to_a_tracker_that_is_installed(
    tracker: Literal["trackio", "wandb"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{tracker}.py").write_text(
        "calls = []\n"
        "def init(*, project, name, config): calls.append(('init', project, name, config))\n"
        "def log(metrics, step=None): calls.append(('log', metrics, step))\n"
        "def finish(): calls.append(('finish',))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, tracker, raising=False)
    monitor = Monitor(tmp_path, name="gpt2-mini", steps=1, tracker=tracker, config={"seed": 3})
    monitor.log(0, {"loss": 2.0, "tokens": 10, "seconds": 0.5})
    monitor.log(0, {"validation_loss": 2.5})
    monitor.close()
    assert sys.modules.pop(tracker).calls == [
        ("init", "udrl", "gpt2-mini", {"seed": 3}),
        ("log", {"train/loss": 2.0, "train/tokens": 10, "train/seconds": 0.5}, 1),
        ("log", {"validation/validation_loss": 2.5}, 1),
        ("finish",),
    ]


def test_monitor_counts_what_an_interrupted_training_spent_once(tmp_path: Path) -> None:
    def step(monitor: Monitor, number: int, seconds: float) -> None:
        monitor.log(number, {"loss": 1.0, "tokens": 10, "seconds": seconds})

    first = Monitor(tmp_path, name="a", steps=4)
    for number in range(3):
        step(first, number, 1.0)
    first.log(2, {"validation_loss": 1.0, "loss_gap": 0.1})
    first.close()
    with (tmp_path / "training.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # killed while it wrote
    second = Monitor(tmp_path, name="a", steps=4)
    step(second, 2, 5.0)  # from the state of step 2: the third is done again
    step(second, 3, 1.0)
    second.close()
    assert (second.tokens, second.seconds) == (40, 8.0)
    whole = [line for line in (tmp_path / "training.jsonl").read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["step"] for line in whole] == [1, 2, 3, 3, 3, 4]

"""One list of options: what `udrl.train` takes, what the command line gives it, and what they come to."""

from __future__ import annotations

import inspect
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, cast

import pytest

import udrl
from udrl.cli.train import command
from udrl.cli.train_method import OPTIONS
from udrl.errors import UsageError
from udrl.training.methods import Dpo, Grpo, Sft, Udrl
from udrl.training.options import LoopOptions, TrainOptions, decisive
from udrl.training.recipe import recipe_of
from udrl.training.starting_point import preset_of

NAMES = {one.name for one in fields(TrainOptions)}


def test_options_are_the_arguments_of_train() -> None:
    parameters = inspect.signature(udrl.train).parameters
    assert list(parameters) == ["run", *(one.name for one in fields(TrainOptions))]
    assert parameters["run"].default == "runs/default"
    assert {name: one.default for name, one in parameters.items() if name != "run"} == vars(TrainOptions())


def test_options_of_the_command_line_are_those_of_python() -> None:
    given = {one.name for one in command.params} - {"run", "as_json", "config", "debug", "help"} - OPTIONS.keys()
    # not offered there: how much is calibrated, how often the state is saved, and what the rounds alone ask for
    assert NAMES - given == {"calibration_inputs", "save_every", "refit"}
    assert given - NAMES == set()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stepz": 3}, "got an unexpected keyword argument 'stepz'"),
        ({"keep": "first"}, "unknown keep 'first'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin' .did you mean cosine"),
        ({"commands": 3}, "unknown commands '3'"),
        ({"tracker": "paper"}, "unknown tracker 'paper'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"run": 3}, "run must be a path"),
        ({"start_from": "x", "student": "gpt2"}, "keeps its model, tokenizer and kind of command"),
        ({"start_from": "x", "commands": "text"}, "keeps its model, tokenizer and kind of command"),
    ],
)
def test_options_that_do_not_fit_are_told_before_anything_is_read(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        udrl.train(**given)


def test_options_come_to_the_plan_of_the_steps() -> None:
    plan = recipe_of(TrainOptions(student="gpt2-700k", epochs=2, seed=5)).plan(320)
    loop = LoopOptions(
        steps=20, batch_size=32, micro_batch=32, learning_rate=3e-3, row_learning_rate=3e-3, save_every=100, seed=5
    )
    assert (plan.loop, plan.usual_rate, plan.shortened) == (loop, 3e-3, False)


def test_options_rows_of_commands_learn_faster_beside_pretrained_weights() -> None:
    def rates(**given: Any) -> tuple[float, float | None]:
        loop = recipe_of(TrainOptions(**given)).plan(320).loop
        return loop.learning_rate, loop.row_learning_rate

    assert rates(student="smollm2") == (4e-4, 4e-3)
    assert rates(student="gpt2", init="random") == (3e-4, 3e-4)
    assert rates(student="smollm2", learning_rate=6e-3) == (6e-3, 6e-3)
    assert rates(student="smollm2", row_learning_rate=1e-3) == (4e-4, 1e-3)
    assert rates(student="gpt2-mini", row_learning_rate=1e-2) == (2.5e-3, 1e-2)
    assert rates(student="smollm2", method="sft") == (4e-4, 4e-4)
    known = preset_of("gpt2", "auto", cast(Any, SimpleNamespace(name="smollm2", starter=False)))
    assert (known.learning_rate, known.row_rate) == (pytest.approx(4e-5), pytest.approx(4e-4))
    with pytest.raises(UsageError, match="row_learning_rate must be above 0, got 0"):
        TrainOptions(row_learning_rate=0)


def test_options_of_a_paper_give_way_to_what_is_given() -> None:
    paper = recipe_of(TrainOptions(student="gpt2-mini", method="sft", preset="smoltulu"))
    assert (paper.method, paper.commanded) == (Sft(), False)
    assert (paper.plan(80).loop.learning_rate, paper.plan(80).loop.batch_size, paper.plan(80).loop.steps) == (
        9e-5, 8, 30,
    )  # fmt: skip
    given = recipe_of(TrainOptions(student="gpt2-mini", method="sft", preset="smoltulu", batch_size=4, steps=7))
    assert (given.plan(80).loop.learning_rate, given.plan(80).loop.batch_size, given.plan(80).loop.steps) == (
        9e-5, 4, 7,
    )  # fmt: skip
    dpo = recipe_of(TrainOptions(method="dpo", preset="tulu3"))
    assert dpo.method == Dpo(length_normalised=True, beta=5.0)


def test_options_plan_within_the_completions_that_are_paid_for() -> None:
    recipe = recipe_of(TrainOptions(method=Grpo(updates=2), batch_size=8, steps=50, max_samples=20))
    plan = recipe.plan(99)
    assert (plan.loop.steps, plan.shortened) == (4, True)
    assert plan.usual_rate == pytest.approx(0.2 * 3e-4)
    assert recipe_of(TrainOptions()).method == Udrl()


def test_options_that_may_change_leave_the_request_alone() -> None:
    other = TrainOptions(restart=True, tracker="wandb", save_every=3, micro_batch=2, gradient_checkpointing=True)
    assert other.decisive == TrainOptions().decisive
    assert TrainOptions(seed=1).decisive != TrainOptions().decisive
    one, two = (recipe_of(options).plan(64).loop for options in (other, TrainOptions()))
    assert decisive(one) == decisive(two)

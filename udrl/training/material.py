"""What a training works with, before it begins: the run's material for its method, and the plan of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.known_answers import Answers, read_answers
from udrl.data.run import Run
from udrl.errors import StudentError
from udrl.training.methods import GENTLE, Method, Udrl, through_trl
from udrl.training.methods.method_data import Pool, affordable_steps, own, pool_of
from udrl.training.methods.published import Published
from udrl.training.origin import Origin, joined_facts, replayed, with_replay
from udrl.training.presets import Preset
from udrl.training.selection.impact import selected

if TYPE_CHECKING:
    from udrl.training.options import LoopOptions

EPOCHS = 3.0
EPOCHS_TRL = 1.0


@dataclass(frozen=True)
class Material:
    """What there is to learn from. held: the validation episodes; replayed: how many of the origin's are among the
    pool's; facts, answers: the run's, joined with the origin's."""

    pool: Pool
    held: list[Episode]
    replayed: int
    facts: Mapping[str, Any]
    answers: Answers


def gather(
    run: Run, method: Method, origin: Origin | None, *, selection: str | None, replay: float, seed: int
) -> Material:
    """Return what ``method`` learns from: of the run, or of its ``selection``, and a share of the origin's again.

    Raises StudentError where nothing is left to learn from.
    """
    every = read_episodes(run.episodes, splits=("train",))
    if not every:
        raise StudentError(f"{run.episodes} holds no training episodes that were kept: run udrl synth first")
    episodes = every if selection is None else selected(run, selection, every)
    held, facts, answers = validation_of(run, origin)
    again = 0
    if origin is not None:
        joined, again = with_replay(origin, every, share=replay, seed=seed)  # what was not selected is not replayed
        episodes = episodes + joined[len(every) :]
    return Material(pool_of(method, episodes), held if isinstance(method, Udrl) else own(held), again, facts, answers)


def validation_of(run: Run, origin: Origin | None) -> tuple[list[Episode], Mapping[str, Any], Answers]:
    """Return the validation episodes, facts and answers of the run, joined with those of the origin's run."""
    held, facts, answers = read_episodes(run.episodes, splits=("validation",)), run.facts(), read_answers(run.path)
    if origin is None:
        return held, facts, answers
    before = read_answers(origin.run.path) if origin.run else {}
    again = replayed(origin, held, share=1.0, split="validation", seed=0)
    return held + again, joined_facts(facts, origin), {**before, **answers}


@dataclass(frozen=True)
class Plan:
    """How the steps are made. usual_rate: the learning rate where none is given; shortened: whether the budget of
    completions allows fewer steps than were wanted."""

    options: LoopOptions
    usual_rate: float
    shortened: bool


def plan(
    method: Method,
    preset: Preset,
    published: Published | None,
    size: int,
    *,
    steps: int | None,
    epochs: float | None,
    batch_size: int | None,
    micro_batch: int | None,
    learning_rate: float | None,
    warmup: float | None,
    max_samples: int | None,
    **others: Any,
) -> Plan:
    """Return the options of the loop: what is given, else what was ``published``, else the ``preset`` of the student.

    size: examples of an epoch; max_samples: completions that GRPO may write; others: further `LoopOptions`, None where
    one was not given.
    """
    from udrl.training.options import LoopOptions

    if published is not None:
        batch_size, learning_rate = batch_size or published.batch_size, learning_rate or published.learning_rate
        steps, epochs = steps or (None if epochs else published.steps), epochs or published.epochs
        warmup = published.warmup if warmup is None else warmup
        others["schedule"] = others["schedule"] or published.schedule
    batch = batch_size or preset.batch_size
    passes = epochs or (EPOCHS_TRL if through_trl(method) else EPOCHS)
    usual = preset.learning_rate * (GENTLE if through_trl(method) else 1.0)
    wanted = steps or max(1, round(passes * size / batch))
    affordable = affordable_steps(method, batch, max_samples, wanted)
    options = LoopOptions(
        steps=affordable,
        batch_size=batch,
        micro_batch=min(micro_batch or batch, batch),
        learning_rate=learning_rate or usual,
        **{name: value for name, value in {"warmup": warmup, **others}.items() if value is not None},
    )
    return Plan(options, usual, shortened=affordable < wanted)

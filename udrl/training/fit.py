"""The steps of a training: in our own loop or by TRL, watched while they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from udrl.student.student import SAMPLING, Student
from udrl.training.calibrate import first_inputs, rewards_of
from udrl.training.cost import Meter
from udrl.training.methods import through_trl
from udrl.training.methods.watch import Watch
from udrl.training.monitor import Monitor
from udrl.training.prepare import Prepared
from udrl.training.ranks import Rank
from udrl.training.signs import signs_of

if TYPE_CHECKING:
    from udrl.training.loop import Log, Signs
    from udrl.training.sweep import Score
    from udrl.training.validation import Validation


@dataclass(frozen=True)
class Trial:
    """The student that is trained as one that answers, to be measured while it learns and after.

    rewards: those of its attributes that can be computed for what it writes; none where nothing is measured.
    """

    student: Student
    rewards: Mapping[str, Score]
    measured: bool


@dataclass(frozen=True)
class Fitted:
    """What a training did, beside the weights. seconds, tokens: of the loop; signs: the last ones of obedience."""

    validations: Sequence[Validation]
    watch: Watch
    signs: Mapping[str, float]
    seconds: float
    tokens: float


def trial_of(prepared: Prepared) -> Trial:
    """Return how the student is measured. What a reward lacks is missed here, before the first step.

    Warns of episodes that the student cannot learn from; raises StudentError where there are no others.
    """
    from udrl.student.engines.pytorch import TorchEngine
    from udrl.training.examples import warn_of_long

    options, material, learner = prepared.recipe.options, prepared.material, prepared.learner
    warn_of_long(prepared.examples, len(material.pool.episodes), learner.model.context)
    student = Student(
        TorchEngine(learner.model, prepared.dtype),
        learner.tokenizer,
        name=prepared.run.path.name,
        sampling=replace(SAMPLING, max_tokens=prepared.max_tokens),
        ends=learner.model.ends,
    )
    inputs = options.signs_inputs or options.calibration_inputs
    measured = bool(material.validation_episodes and learner.space.attributes and inputs)
    rewards = rewards_of(student, options.encoder, material.facts, material.answers) if measured else {}
    return Trial(student, rewards, measured)


def fit(prepared: Prepared, trial: Trial, meter: Meter, group: Rank) -> Fitted:
    """Train the student in place, as the first process does; its figures go to the folder and to the tracker."""
    from udrl.training.lora import merge_lora

    recipe, plan, model = prepared.recipe, prepared.plan, prepared.learner.model
    options = recipe.options
    watch = Watch(
        recipe.method,
        scored=prepared.material.pool.scored,
        learning_rate=plan.loop.learning_rate,
        max_tokens=prepared.max_tokens,
    )
    monitor = Monitor(
        prepared.folder,
        name=recipe.preset.name,
        steps=plan.loop.steps,
        tracker=options.tracker,
        config=asdict(plan.loop),
    )

    def log(step: int, figures: Mapping[str, float]) -> None:
        monitor.log(step, figures)
        meter.tick()

    try:
        if through_trl(recipe.method):
            from udrl.training.methods.trl import run_trl

            validations = run_trl(prepared, watch=watch, log=log, meter=meter)
        else:
            signs = None
            if trial.measured and options.signs_inputs:
                watched = first_inputs(prepared.material.validation_episodes, options.signs_inputs)
                signs = signs_of(trial.student, watched, trial.rewards, seed=options.seed)
            validations = _loop(prepared, meter, group, log=log, signs=signs)
    finally:
        monitor.close()
    if options.lora:
        merge_lora(model)
    return Fitted(validations, watch, watch.means or monitor.signs, monitor.seconds, monitor.tokens)


def follow(prepared: Prepared, meter: Meter, group: Rank) -> None:
    """Train along with the first process, which watches and writes."""
    _loop(prepared, meter, group)


def _loop(
    prepared: Prepared, meter: Meter, group: Rank, *, log: Log | None = None, signs: Signs | None = None
) -> list[Validation]:
    from udrl.training.loop import run_loop

    return run_loop(
        prepared.learner.model,
        prepared.examples,
        prepared.plan.loop,
        dtype=prepared.dtype,
        validation=prepared.validation,
        state_file=prepared.state_file,
        fingerprint=prepared.fingerprint,
        log=log,
        signs=signs,
        group=group,
        shard=prepared.recipe.options.shard,
        meter=meter if meter.limits.any else None,
    )

"""``udrl train``: from episodes to a calibrated student in the run folder."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from udrl.arguments import by_keywords
from udrl.data.facts import TrainFacts, TrainFigures
from udrl.data.run import Run
from udrl.training.calibrate import calibrate_on
from udrl.training.checkpoint import end, request_of
from udrl.training.cost import Meter
from udrl.training.fit import Fitted, Trial, fit, follow, trial_of
from udrl.training.methods import record
from udrl.training.methods.published import advice
from udrl.training.model_card import write_card
from udrl.training.options import TrainOptions
from udrl.training.prepare import Prepared, prepare
from udrl.training.ranks import Rank, joined
from udrl.training.recipe import recipe_of


@dataclass(frozen=True, kw_only=True)
class TrainReport(TrainFigures):
    """What a training did, by which method, and where the student is."""

    folder: Path
    method: str = "udrl"


@by_keywords(TrainOptions)
def train(run: Path | str, options: TrainOptions) -> TrainReport:
    """Train a student on the run's episodes and put it into ``RUN/student``.

    Called as ``train(run, student="gpt2-mini", steps=20)``: every field of `TrainOptions` is an argument.

    Started by ``torchrun`` or ``accelerate launch``, the processes share each batch (``batch_size`` is that of all
    together); shard: each also keeps only a part of the weights (see `udrl.training.distributed`).

    An interrupted call is continued by the next one with the same arguments, to bit-identical weights on a CPU;
    micro_batch, gradient_checkpointing and save_every may be others, such as after running out of memory. Raises
    StudentError or UsageError for what cannot be trained; the student of an earlier training stays until the new one is
    finished.
    """
    started, run_folder = time.monotonic(), Run(run)
    recipe = recipe_of(options)
    with joined() as group, run_folder.writing() if group.first else nullcontext():
        recipe = recipe.settled(group)
        asked = request_of(run_folder, recipe.origin, options.decisive)
        report = finished(run_folder, asked, group, restart=options.restart)
        if report is not None:
            return report
        prepared = prepare(run_folder, recipe, group)
        gpu, folder = prepared.device.type == "cuda", prepared.folder if group.first else None
        meter = Meter(recipe.limits, folder, started=started, group=group, gpu=gpu)
        if group.first:
            trial = trial_of(prepared)
            fitted = fit(prepared, trial, meter, group)
            completions = calibrate(prepared, trial)
            report = report_of(prepared, fitted, meter, completions)
            publish(prepared, report, asked, group)
        else:  # the first one watches, calibrates and writes
            follow(prepared, meter, group)
        from udrl.training.distributed import from_first

        return cast(TrainReport, from_first(report, group))


def finished(run: Run, asked: str, group: Rank, *, restart: bool) -> TrainReport | None:
    """Return the report of a call that asked for the same, and was killed when its student was in its place already."""
    told = run.finished(run.student, asked) if group.first and not restart else None
    if group.count > 1:
        from udrl.training.distributed import from_first

        told = from_first(told, group)
    if told is None:
        return None
    if group.first:
        end(run)
    return TrainReport(**{**told, "advice": tuple(told["advice"]), "folder": Path(told["folder"])})


def calibrate(prepared: Prepared, trial: Trial) -> int:
    """Measure what the trained student achieves under which command; return how many completions were scored."""
    options, validation = prepared.recipe.options, prepared.material.validation_episodes
    if not options.calibration_inputs:
        return 0
    return calibrate_on(
        trial.student, validation, prepared.folder, trial.rewards, count=options.calibration_inputs, seed=options.seed
    )


def report_of(prepared: Prepared, fitted: Fitted, meter: Meter, completions: int) -> TrainReport:
    """Return what the training did. completions: those that were written and scored to calibrate the student."""
    from udrl.training.validation import best_of

    recipe, plan, model = prepared.recipe, prepared.plan, prepared.learner.model
    options, validations, watch, cost = recipe.options, fitted.validations, fitted.watch, meter.cost
    last = validations[-1] if validations else None
    if last and options.keep == "best":
        last = best_of(validations)
    slow = recipe.published and advice(
        recipe.published, model.parameter_count, plan.loop.learning_rate, plan.usual_rate
    )
    steps = validations[-1].step if validations else meter.step if meter.ended else plan.loop.steps
    swept = completions if prepared.learner.space.attributes else 0
    return TrainReport(
        student=recipe.preset.name,
        folder=prepared.run.student,
        parameters=model.parameter_count,
        episodes=len(prepared.examples),
        steps=steps,
        seconds=round(fitted.seconds, 1),
        tokens_per_second=round(fitted.tokens / max(fitted.seconds, 1e-9), 1),
        validation_loss=last.loss if last else None,
        loss_gap=last.gap if last and recipe.commanded else None,
        calibrated=swept > 0,
        kept_step=last.step if last else steps,
        signs=fitted.signs,
        method=recipe.method.name,
        reward_calls=watch.scored,
        advice=(*watch.advice, *([slow] if slow else [])),
        validation_reward=last.reward if last else None,
        validation_calls=watch.judged,
        calibration_calls=swept,
        stopped=meter.ended or (f"--max-samples {options.max_samples:,}" if plan.shortened else None),
        machine_hours=cost.machine_hours,
        gpu_hours=cost.gpu_hours,
        usd=cost.usd,
    )


def publish(prepared: Prepared, report: TrainReport, asked: str, group: Rank) -> None:
    """Write weights and model card, put the student in its place in the run, and record the training, as one step."""
    import torch

    from udrl.architecture import kind_of
    from udrl.student.network import save_model

    recipe, run, learner = prepared.recipe, prepared.run, prepared.learner
    options, origin = recipe.options, recipe.origin
    save_model(learner.model, prepared.folder)
    told = {**asdict(report), "folder": str(run.student)}
    kept: dict[str, Any] = {**told, "method": record(recipe.method)}
    trained = TrainFacts(
        **kept,
        options=asdict(prepared.plan.loop),
        lora=options.lora,
        freeze=options.freeze,
        seed=options.seed,
        machine_usd=options.machine_usd,
        preset=recipe.published.record() if recipe.published else None,
        selection=options.selection,
        origin=origin.record(prepared.material.replayed) if origin else None,
        weights=learner.weights,
        precision=str(prepared.dtype),
        device=str(prepared.device),
        torch=torch.__version__,
        processes=group.count,
    )
    teachers = prepared.material.facts.synth.teachers
    kind = kind_of(learner.model.model.config)
    write_card(prepared.folder, space=learner.space, kind=kind, trained=trained, teachers=teachers)
    run.publish(run.student, trained, asked=asked, report=told)
    end(run)

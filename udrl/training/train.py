"""``udrl train``: from episodes to a calibrated student in the run folder."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from udrl.arguments import checked
from udrl.data.run import Run
from udrl.errors import UsageError
from udrl.files import partial_of
from udrl.training.calibrate import INPUTS, calibrate_on, first_inputs, rewards_of
from udrl.training.checkpoint import STATE, begun, clean, fingerprint, request_of, take_up
from udrl.training.cost import Limits, Meter
from udrl.training.material import gather, plan
from udrl.training.methods import Method, Udrl, check_trainable, method_of, record, through_trl
from udrl.training.methods.published import advice, published
from udrl.training.methods.watch import Watch
from udrl.training.model_card import write_card
from udrl.training.monitor import Monitor, Tracker
from udrl.training.origin import REPLAY, find_origin
from udrl.training.ranks import Rank, joined
from udrl.training.starting_point import Rendering, begin, preset_of

MAY_CHANGE = ("run", "restart", "tracker", "save_every", "micro_batch", "gradient_checkpointing")
"""Arguments that may be others when an interrupted call is repeated."""
SIGNS_INPUTS = 4
"""Validation inputs a task that the signs of obedience are measured on."""
Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class TrainReport:
    """What a training did; seconds and tokens_per_second are the loop's own, the losses the last validation's."""

    student: str
    folder: Path
    parameters: int
    episodes: int
    steps: int
    seconds: float
    tokens_per_second: float
    validation_loss: float | None
    loss_gap: float | None
    calibrated: bool
    kept_step: int
    """The step whose weights the student has."""
    signs: Mapping[str, float]
    """The last signs of obedience (`udrl.training.signs`), or of the method (`udrl.training.methods.watch`)."""
    method: str = "udrl"
    reward_calls: int = 0
    """Returns that the method has looked at: of the episodes, and of completions while training."""
    advice: tuple[str, ...] = ()
    """What was seen to go wrong, and what to do."""
    validation_reward: float | None = None
    """What the student's completions for validation inputs were paid, where that is measured."""
    validation_calls: int = 0
    """Reward calls that only validation made."""
    calibration_calls: int = 0
    """Completions that were written and scored to calibrate the student."""
    stopped: str | None = None
    """The limit that ended the training before its steps were done, or that they were planned within."""
    machine_hours: float = 0.0
    """Wall-clock time of all starts, calibration included; times the machines."""
    gpu_hours: float = 0.0
    usd: float | None = None


@checked
def train(
    run: Path | str = "runs/default",
    *,
    method: str | Method = "udrl",
    student: str | None = None,
    init: str = "auto",
    start_from: Path | str | None = None,
    replay: float = REPLAY,
    refit: Sequence[str] = (),
    selection: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    vocab_size: int | None = None,
    attributes: Sequence[str] = (),
    commands: Rendering = "ids",
    balance: bool = False,
    curriculum: float = 0.0,
    open_each: float = 0.1,
    open_all: float = 0.1,
    calibration_inputs: int = INPUTS,
    encoder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    restart: bool = False,
    save_every: int = 100,
    micro_batch: int | None = None,
    schedule: Schedule | None = None,
    warmup: float | None = None,
    weight_decay: float = 0.05,
    clip: float = 1.0,
    gradient_checkpointing: bool = False,
    validate_every: int = 200,
    signs_inputs: int = SIGNS_INPUTS,
    keep: Literal["last", "best"] = "last",
    patience: int = 0,
    tracker: Tracker | None = None,
    lora: int = 0,
    shard: bool = False,
    preset: str | None = None,
    max_samples: int | None = None,
    max_usd: float | None = None,
    max_minutes: float | None = None,
    machine_usd: float | None = None,
) -> TrainReport:
    """Train a student on the run's episodes and put it into ``RUN/student``.

    method: what it is trained by, see `udrl.training.methods`: a name, or a method with its options.
    student: a preset (gpt2, gpt2-100m, gpt2-mini), a hub id or a local path of a causal language model; None: gpt2.
    init: "pretrained", "random" (a GPT-2 of the preset's shape), or "auto": pretrained where there are weights.
    start_from: the run or checkpoint of a trained student, instead of ``student``: its tokenizer, weights, rows and
    bins are kept, and rows are added for tasks and attributes that it does not know (see `udrl.training.origin`).
    replay: share of that run's own training episodes that are trained on again, against forgetting. refit: attributes
    whose bins are fitted anew to what is trained on, instead of kept.
    selection: name of a choice among the run's training episodes (`udrl.select`); None: all of them.
    commands: "ids" renders commands as control ids, "text" as words (`udrl.text_commands`). balance: draw episodes
    by bin (`udrl.training.balance`).
    steps: optimiser steps; None: as many as ``epochs`` passes take (None: 3, and 1 by DPO and GRPO). attributes:
    rewards to be commanded in (none: all that the episodes have; length always is one). curriculum: see `LoopOptions`.
    calibration_inputs: validation inputs a task (0: no calibration). restart: forget an interrupted training instead
    of continuing it. save_every: steps between the states that an interrupted training continues from.

    micro_batch, schedule, warmup, weight_decay, clip, open_each, open_all, gradient_checkpointing, validate_every,
    keep, patience: see `LoopOptions`; micro_batch None is the whole batch, schedule None cosine, warmup None 0.03.
    signs_inputs: validation inputs a task whose signs of obedience are watched (0: none). tracker: send the figures
    there too.

    lora: rank of the changes that are trained instead of the pretrained matrices (0: train the matrices, see
    `udrl.training.lora`).

    preset: published hyper-parameters of the method (`methods.published`), for what is not given here; the
    options of the method itself come from it where ``method`` is a name.

    max_samples: completions that GRPO may write and score in all (the steps are planned within); max_usd, max_minutes:
    what the training may cost, ended after the step that reaches it; machine_usd: US dollars an hour of this machine.

    Started by ``torchrun`` or ``accelerate launch``, the processes share each batch (``batch_size`` is that of all
    together); shard: each also keeps only a part of the weights (see `udrl.training.distributed`).

    An interrupted call is continued by the next one with the same arguments, to bit-identical weights on a CPU;
    micro_batch, gradient_checkpointing and save_every may be others, such as after running out of memory. Raises
    StudentError or UsageError for what cannot be trained; the student of an earlier training stays until the new one is
    finished.
    """
    arguments = {name: value for name, value in locals().items() if name not in MAY_CHANGE}
    started, place = time.monotonic(), Run(run)
    origin = None if start_from is None else find_origin(start_from)
    if origin is not None and (student is not None or vocab_size is not None or init != "auto" or commands != "ids"):
        raise UsageError(
            f"a student that starts from {start_from} keeps its model, tokenizer and kind of command: leave student, "
            "init, vocab-size and commands out"
        )
    if not 0 <= replay <= 1:
        raise UsageError(f"replay is a share, within [0, 1], found {replay:g}")
    known = preset_of(student or "gpt2", init, origin)
    if lora and origin is None and known.hub is None:
        raise UsageError(
            f"--lora changes trained weights a little, and {known.name} would start without: name --from, or a "
            "--student with pretrained weights"
        )
    student = known.name
    wanted = None if preset is None else published(preset, method if isinstance(method, str) else method.name)
    how = method_of(method, wanted.settings if wanted else None) if isinstance(method, str) else method
    limits = Limits(max_samples, max_usd, max_minutes, machine_usd)
    commanded = isinstance(how, Udrl)
    with joined() as group, place.writing() if group.first else nullcontext():
        used = {"curriculum": curriculum, "balance": balance, "attribute": attributes, "lora": lora, "shard": shard}
        used |= {"patience": patience, "max-samples": max_samples}
        check_trainable(how, starts_from=origin is not None, processes=group.count, used=used)
        if origin is not None:  # again: what an interrupted call has finished is recorded only now
            origin = find_origin(origin.folder)
        asked = request_of(place, origin, arguments)
        if (report := _finished(place, asked, group, restart=restart)) is not None:
            return report
        material = gather(place, how, origin, selection=selection, replay=replay, seed=seed)
        pool, held, facts, answers = material.pool, material.held, material.facts, material.answers
        episodes = pool.episodes
        import torch

        from udrl.student.engines.pytorch import TorchEngine, pick_device, pick_dtype
        from udrl.student.network import save_model
        from udrl.student.student import SAMPLING, Student
        from udrl.training.distributed import from_first, own_device
        from udrl.training.examples import make_examples, warn_of_long
        from udrl.training.loop import run_loop
        from udrl.training.lora import add_lora, merge_lora
        from udrl.training.options import decisive
        from udrl.training.signs import signs_of
        from udrl.training.validation import best_of

        where = own_device(pick_device(device), group)
        dtype = pick_dtype(precision, where)
        planned = plan(
            how,
            known,
            wanted,
            pool.size,
            steps=steps,
            epochs=epochs,
            batch_size=batch_size,
            micro_batch=micro_batch,
            learning_rate=learning_rate,
            warmup=warmup,
            max_samples=max_samples,
            schedule=schedule,
            weight_decay=weight_decay,
            clip=clip,
            curriculum=curriculum,
            open_each=open_each,
            open_all=open_all,
            balance=balance,
            checkpointing=gradient_checkpointing,
            save_every=save_every,
            validate_every=validate_every,
            keep=keep,
            patience=patience,
            seed=seed,
        )
        options = planned.options
        partial = partial_of(place.student)
        began = (how, student, init, vocab_size, attributes, commands, lora, origin and origin.weights, *refit)
        mark = fingerprint(episodes, decisive(options), *began, str(dtype))
        state = partial / STATE
        start = functools.partial(
            begin,
            episodes,
            known,
            partial,
            vocab_size=vocab_size,
            attributes=attributes,
            facts=facts,
            seed=seed,
            rendering=commands,
            origin=origin,
            commanded=commanded,
            refit=refit,
        )
        if group.first:
            goes_on = take_up(partial, mark, restart=restart)
            _end(place)  # of a call before this one
            made = start(keep=not goes_on)
            begun(partial, mark)
        from_first(None, group)
        meter = Meter(limits, partial if group.first else None, started=started, group=group, gpu=where.type == "cuda")
        model, tokenizer, space = made if group.first else start(keep=False)
        held = [one for one in held if one.task in space.tasks]  # others have nothing that was trained on
        if lora:
            add_lora(model, lora)
        model = model.to(where)
        context = model.context
        encoded = functools.partial(
            make_examples, tokenizer=tokenizer, space=space, context=context, commanded=commanded
        )
        examples, validation = encoded(episodes, weights=pool.weights), encoded(held)
        shared: dict[str, Any] = {"dtype": dtype, "validation": validation, "state_file": state, "fingerprint": mark}
        shared["meter"] = meter if limits.any else None
        loop = functools.partial(run_loop, model, examples, options, group=group, shard=shard, **shared)
        if not group.first:  # the first one watches, calibrates and writes
            loop()
            return cast(TrainReport, from_first(None, group))

        warn_of_long(examples, len(episodes), context)
        longest = max(max(map(len, examples.completions)), 0 if origin is None else origin.max_tokens)
        sampling = replace(SAMPLING, max_tokens=longest)
        trained = Student(
            TorchEngine(model, dtype), tokenizer, name=place.path.name, sampling=sampling, ends=model.ends
        )
        watched = first_inputs(held, signs_inputs)
        needed = bool(held and space.attributes and (signs_inputs or calibration_inputs))
        rewards = rewards_of(trained, encoder, facts, answers) if needed else {}  # what is missing is missed now
        watch = Watch(how, scored=pool.scored, learning_rate=options.learning_rate, max_tokens=longest)
        monitor = Monitor(partial, name=student, steps=options.steps, tracker=tracker, config=asdict(options))

        def log(step: int, figures: Mapping[str, float]) -> None:
            monitor.log(step, figures)
            meter.tick()

        try:
            if through_trl(how):
                from udrl.training.methods.trl import run_trl

                shared |= {"student": model, "options": options, "watch": watch, "log": log, "held": held}
                shared |= {
                    "context": context,
                    "max_tokens": longest,
                    "encoder": encoder,
                    "facts": facts,
                    "answers": answers,
                }
                validations = run_trl(how, pool, tokenizer, space, **shared)
            else:
                validations = loop(
                    log=log,
                    signs=signs_of(trained, watched, rewards, seed=seed) if needed and signs_inputs else None,
                )
        finally:
            monitor.close()
        if lora:
            merge_lora(model)
        swept = calibration_inputs and calibrate_on(
            trained, held, partial, rewards, count=calibration_inputs, seed=seed
        )
        save_model(model, partial)
        last = validations[-1] if validations else None
        if last and keep == "best":
            last = best_of(validations)
        stopped = meter.ended or (f"--max-samples {max_samples:,}" if planned.shortened else None)
        slow = wanted and advice(wanted, model.parameter_count, options.learning_rate, planned.usual_rate)
        done_steps = validations[-1].step if validations else meter.step if meter.ended else options.steps
        cost = meter.cost
        report = TrainReport(
            student=student,
            folder=place.student,
            parameters=model.parameter_count,
            episodes=len(examples),
            steps=done_steps,
            seconds=round(monitor.seconds, 1),
            tokens_per_second=round(monitor.tokens / max(monitor.seconds, 1e-9), 1),
            validation_loss=last.loss if last else None,
            loss_gap=last.gap if last and commanded else None,
            calibrated=swept > 0 and bool(space.attributes),
            kept_step=last.step if last else done_steps,
            signs=watch.means or monitor.signs,
            method=how.name,
            reward_calls=watch.scored,
            advice=(*watch.advice, *([slow] if slow else [])),
            validation_reward=last.reward if last else None,
            validation_calls=watch.judged,
            calibration_calls=swept if space.attributes else 0,
            stopped=stopped,
            machine_hours=cost.machine_hours,
            gpu_hours=cost.gpu_hours,
            usd=cost.usd,
        )
        told = {**asdict(report), "folder": str(place.student)}
        done = {**told, "options": asdict(options), "lora": lora, "seed": seed}
        done["method"] = record(how)
        done["machine_usd"] = machine_usd
        if wanted is not None:
            done["preset"] = wanted.record()
        if selection is not None:
            done["selection"] = selection
        if origin is not None:
            done["origin"] = {**origin.record(), "replayed": material.replayed}
        write_card(partial, space=space, report=done, run_facts=facts)
        done |= {"precision": str(dtype), "device": str(where), "torch": torch.__version__, "processes": group.count}
        place.publish(place.student, "train", asked=asked, report=told, **done)
        _end(place)
        return from_first(report, group)


def _finished(run: Run, asked: str, group: Rank, *, restart: bool) -> TrainReport | None:
    """Return the report of a call that asked for the same, and was killed when its student was in its place already."""
    report = run.finished(run.student, asked) if group.first and not restart else None
    if group.count > 1:
        from udrl.training.distributed import from_first

        report = from_first(report, group)
    if report is None:
        return None
    if group.first:
        _end(run)
    lists = {"advice": tuple(report["advice"]), "folder": Path(report["folder"])}
    return TrainReport(**{**report, **lists})


def _end(run: Run) -> None:
    """End a call that published the run's student: nothing of it has to be gone on with any more."""
    clean(run.student)
    run.done(run.student)

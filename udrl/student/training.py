"""``udrl train``: from episodes to a calibrated student in the run folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.data.episodes import Episode, read_episodes
from udrl.data.run import Run
from udrl.errors import StudentError, UsageError, suggestion
from udrl.progress import track
from udrl.student.presets import PRESETS, Preset

EPOCHS = 3
CALIBRATION_INPUTS = 16
"""Validation inputs a task that calibration sweeps."""
LONGEST = 1000.0
"""Declared upper end of the length attribute, in words (raised where training completions are longer)."""


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


def train(
    run: Path | str = "runs/default",
    *,
    student: str = "gpt2",
    init: str = "auto",
    steps: int | None = None,
    epochs: float = EPOCHS,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    vocab_size: int | None = None,
    attributes: Sequence[str] = (),
    curriculum: float = 0.0,
    open_each: float = 0.1,
    open_all: float = 0.1,
    calibration_inputs: int = CALIBRATION_INPUTS,
    encoder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    restart: bool = False,
    save_every: int = 100,
) -> TrainReport:
    """Train a student on the run's episodes and put it into ``RUN/student``.

    student: a preset (gpt2, gpt2-100m, gpt2-mini), a hub id or a local path of a causal language model.
    init: "pretrained", "random" (a GPT-2 of the preset's shape), or "auto": pretrained where there are weights.
    steps: optimiser steps; None: as many as ``epochs`` passes take. attributes: rewards to be commanded in (none: all
    that the episodes have; length always is one). curriculum: see `LoopOptions`. calibration_inputs: validation inputs
    a task (0: no calibration). restart: forget an interrupted training instead of continuing it. save_every: steps
    between the states that an interrupted training continues from.

    An interrupted call is continued by the next one with the same arguments, to bit-identical weights on a CPU.
    Raises StudentError or UsageError for what cannot be trained; the student of an earlier training stays until the
    new one is finished.
    """
    place = Run(run)
    preset = _preset(student, init)
    with place.writing():
        episodes = read_episodes(place.episodes, splits=("train",))
        if not episodes:
            raise StudentError(f"{place.episodes} holds no training episodes that were kept: run udrl synth first")
        import torch

        from udrl.student.examples import make_examples
        from udrl.student.loop import STATE, LoopOptions, run_loop
        from udrl.student.model import save_model
        from udrl.student.student import SAMPLING, Student, pick_device, pick_dtype

        where = pick_device(device)
        dtype = pick_dtype(precision, where)
        batch = batch_size or preset.batch_size
        options = LoopOptions(
            steps=steps or max(1, round(epochs * len(episodes) / batch)),
            batch_size=batch,
            micro_batch=batch,
            learning_rate=learning_rate or preset.learning_rate,
            curriculum=curriculum,
            open_each=open_each,
            open_all=open_all,
            save_every=save_every,
            seed=seed,
        )
        partial = place.path / ".student.partial"
        mark = _fingerprint(episodes, options, student, init, vocab_size, attributes, str(dtype))
        state = partial / STATE
        if restart or not (partial / "fingerprint").exists() or (partial / "fingerprint").read_text() != mark:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        made = _begin(
            episodes,
            preset,
            partial,
            vocab_size=vocab_size,
            attributes=attributes,
            facts=place.facts(),
            seed=seed,
        )
        (partial / "fingerprint").write_text(mark)
        model, tokenizer, space = made[0].to(where), made[1], made[2]
        context = int(model.model.config.max_position_embeddings)
        examples = make_examples(episodes, tokenizer, space, context=context)
        held = read_episodes(place.episodes, splits=("validation",))
        validation = make_examples(held, tokenizer, space, context=context)

        counted = {"tokens": 0.0, "seconds": 0.0, "loss": 0.0, "gap": 0.0, "step": 0}
        log_file = (partial / "training.jsonl").open("a", encoding="utf-8")
        bar = track(f"train {student}", total=options.steps, unit="steps")

        def log(step: int, figures: Mapping[str, float]) -> None:
            log_file.write(json.dumps({"step": step + 1, **figures}) + "\n")
            if "loss" not in figures:
                counted["gap"] = figures["loss_gap"]
                return
            bar.update(step + 1 - counted["step"])
            counted["step"] = step + 1
            counted["tokens"] += figures["tokens"]
            counted["seconds"] += figures["seconds"]
            counted["loss"] = 0.95 * counted["loss"] + 0.05 * figures["loss"] if counted["loss"] else figures["loss"]
            speed = counted["tokens"] / counted["seconds"]
            bar.set_postfix_str(f"loss {counted['loss']:.2f}, command gap {counted['gap']:.2f}, {speed:,.0f} tokens/s")

        try:
            validations = run_loop(
                model,
                examples,
                options,
                dtype=dtype,
                validation=validation,
                state_file=state,
                fingerprint=mark,
                log=log,
            )
        finally:
            log_file.close()
            bar.close()
        sampling = replace(SAMPLING, max_tokens=max(map(len, examples.completions)))
        trained = Student(model, tokenizer, name=place.path.name, sampling=sampling, dtype=dtype)
        calibrated = calibration_inputs > 0 and _calibrate(
            trained, held, partial, count=calibration_inputs, encoder=encoder, facts=place.facts(), seed=seed
        )
        save_model(model, partial)
        last = validations[-1] if validations else None
        report = TrainReport(
            student=student,
            folder=place.student,
            parameters=model.parameter_count,
            episodes=len(episodes),
            steps=options.steps,
            seconds=round(counted["seconds"], 1),
            tokens_per_second=round(counted["tokens"] / max(counted["seconds"], 1e-9), 1),
            validation_loss=last.loss if last else None,
            loss_gap=last.gap if last else None,
            calibrated=calibrated,
        )
        facts = {**asdict(report), "folder": str(place.student), "options": asdict(options), "seed": seed}
        from udrl.student.card import write_card

        write_card(partial, space=space, report=facts, run_facts=place.facts())
        _publish(partial, place.student)
        place.record("train", **facts, precision=str(dtype), device=str(where), torch=torch.__version__)
        return report


def _preset(student: str, init: str) -> Preset:
    if init not in ("auto", "pretrained", "random"):
        raise UsageError(f"unknown init '{init}'; known: auto, pretrained, random")
    known = PRESETS.get(student)
    if known is None:
        if init == "random":
            raise UsageError(f"--init random needs a preset ({', '.join(PRESETS)}), '{student}' is none")
        if "/" not in student and not Path(student).exists() and suggestion(student, PRESETS):
            raise UsageError(f"unknown student '{student}'{suggestion(student, PRESETS)}; known: {', '.join(PRESETS)}, "
                             "or a hub id or local path of a causal language model")  # fmt: skip
        return Preset(student, student, 0, 0, 0, 0, 0, 2e-4, 32)
    if init == "pretrained" and known.hub is None:
        raise UsageError(f"student '{student}' has no pretrained weights: use --init random, or --student gpt2")
    return replace(known, hub=None) if init == "random" else known


def _fingerprint(episodes: Sequence[Episode], *parts: object) -> str:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for episode in episodes:
        digest.update(f"{episode.episode_id}{sorted(episode.returns.items())}".encode())
    return digest.hexdigest()


def _begin(
    episodes: Sequence[Episode],
    preset: Preset,
    folder: Path,
    *,
    vocab_size: int | None,
    attributes: Sequence[str],
    facts: Mapping[str, Any],
    seed: int,
) -> tuple[Any, Any, CommandSpace]:
    """Make the tokenizer, the command space and the untrained model; the first two are kept in ``folder``."""
    import torch

    from udrl.student.initialise import scratch_gpt2
    from udrl.student.model import StudentModel
    from udrl.student.tokenizer import load_tokenizer, train_tokenizer

    if preset.hub is not None:
        model, tokenizer = _pretrained(preset.hub)
        base = len(model.get_input_embeddings().weight)
    elif (folder / "tokenizer.json").exists():
        tokenizer = load_tokenizer(folder, local_files_only=True)
        base, model = len(tokenizer), None
    else:
        texts = {e.input for e in episodes} | {e.completion for e in episodes}
        tokenizer = train_tokenizer(sorted(texts), vocab_size or preset.vocab_size)
        base, model = len(tokenizer), None
    if model is None:
        model = scratch_gpt2(
            vocab_size=base,
            layers=preset.layers,
            width=preset.width,
            heads=preset.heads,
            context=preset.context,
            eos=tokenizer.eos_token_id,
            seed=seed,
        )
    space = _space(episodes, base, attributes, facts)
    tokenizer.save_pretrained(folder)
    space.save(folder)
    torch.manual_seed(seed)
    return StudentModel(model, space), tokenizer, space


def _pretrained(source: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    from udrl.student.tokenizer import load_tokenizer

    try:
        tokenizer = load_tokenizer(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise StudentError(
            f"the weights of '{source}' cannot be loaded ({first}): check the name, accept its licence and set "
            "HF_TOKEN if it is gated, download it where the hub is reachable and pass the folder, or train from "
            "scratch with --init random"
        ) from error
    if tokenizer.eos_token_id is None:
        raise StudentError(f"the tokenizer of '{source}' has no end token: use another model")
    return model, tokenizer


def _space(episodes: Sequence[Episode], base: int, wanted: Sequence[str], facts: Mapping[str, Any]) -> CommandSpace:
    from udrl.student.examples import achieved

    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for episode in episodes:
        for name, value in achieved(episode).items():
            if value is not None:
                values[episode.task][name].append(value)
    scored = sorted({name for of_task in values.values() for name in of_task} - {LENGTH})
    for name in wanted:
        if name not in (*scored, LENGTH):
            raise UsageError(f"attribute '{name}' is not among the episodes' rewards{suggestion(name, scored)}; "
                             f"known: {', '.join([*scored, LENGTH])}")  # fmt: skip
    chosen = [n for n in (wanted or scored) if n != LENGTH]
    ranges = {
        r["name"]: r for r in facts.get("stages", {}).get("score", {}).get("rewards", []) if isinstance(r, Mapping)
    }
    made = []
    for name in chosen:
        every = [v for of_task in values.values() for v in of_task[name]]
        declared = ranges.get(name, {})
        made.append(
            Attribute(
                name,
                float(declared.get("low", 0.0 if min(every) >= 0 else min(every))),
                float(declared.get("high", 1.0 if max(every) <= 1 else max(every))),
                str(declared.get("unit", "")),
            )
        )
    longest = max(v for of_task in values.values() for v in of_task[LENGTH])
    made.append(Attribute(LENGTH, 1.0, max(LONGEST, longest), "words"))
    return CommandSpace.fit(base, made, values)


def _calibrate(
    student: Any,
    held: Sequence[Episode],
    folder: Path,
    *,
    count: int,
    encoder: str | None,
    facts: Mapping[str, Any],
    seed: int,
) -> bool:
    """Sweep commands over validation inputs, with the rewards that can be computed; False where there are none.

    Rewards and their encoder are those that the run was scored with, unless ``encoder`` names another.
    """
    from udrl.rewards import computable
    from udrl.student.measure import calibrate

    inputs: dict[str, dict[str, None]] = defaultdict(dict)
    for episode in held:
        inputs[episode.task][episode.input] = None
    chosen = {task: list(texts)[:count] for task, texts in inputs.items()}
    if not any(chosen.values()):
        return False
    scored = facts["stages"].get("score", {})
    rewards = computable(
        [a for a in student.attributes if a != LENGTH],
        encoder=encoder or (scored.get("encoder") or {}).get("name"),
        sources={reward["name"]: reward["source"] for reward in scored.get("rewards", [])},
    )
    cells = sum(len(texts) * student.space.bins * (1 + 4 * len(rewards)) for texts in chosen.values())
    bar = track("calibrate", total=cells, unit="completions")
    calibration = calibrate(student, chosen, rewards, seed=seed, progress=bar.update)
    bar.close()
    calibration.save(folder)
    return True


def _publish(partial: Path, folder: Path) -> None:
    """Put the finished student in place of an earlier one."""
    for name in ("fingerprint", "training_state.pt"):
        (partial / name).unlink(missing_ok=True)
    old = folder.with_name(".student.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

"""What a training starts with: tokenizer, command space and weights, made anew or taken from a trained student."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from udrl.arguments import fitting_seed
from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.data.episode import Episode
from udrl.errors import UsageError, suggestion
from udrl.text_commands import TextCommands
from udrl.tokenizer import encode, student_tokenizer, train_tokenizer
from udrl.training.origin import GENTLER, Origin
from udrl.training.presets import PRESETS, Preset

if TYPE_CHECKING:
    from udrl.student.network import StudentModel

LONGEST = 1000.0
"""Declared upper end of the length attribute, in words (raised where training completions are longer)."""
GENERIC = Preset("", None, 0, 0, 0, 0, 0, 2e-4, 32)
"""Training defaults of a model that is no preset."""
Rendering = Literal["ids", "text"]


def preset_of(student: str, init: str, origin: Origin | None = None) -> Preset:
    """Return the preset of that name, or one of a hub id or path; raises UsageError for a name that is neither.

    With an origin, its weights are what is started from, and the preset gives training defaults only.
    """
    if init not in ("auto", "pretrained", "random"):
        raise UsageError(f"unknown init '{init}'; known: auto, pretrained, random")
    if origin is not None:
        base = PRESETS.get(origin.name, GENERIC)
        return replace(base, name=origin.name, hub=None, learning_rate=GENTLER * base.learning_rate)
    known = PRESETS.get(student)
    if known is None:
        if init == "random":
            raise UsageError(f"--init random needs a preset ({', '.join(PRESETS)}), '{student}' is none")
        if "/" not in student and not Path(student).exists() and suggestion(student, PRESETS):
            raise UsageError(f"unknown student '{student}'{suggestion(student, PRESETS)}; known: {', '.join(PRESETS)}, "
                             "or a hub id or local path of a causal language model")  # fmt: skip
        return replace(GENERIC, name=student, hub=student)
    if init == "pretrained" and known.hub is None:
        raise UsageError(f"student '{student}' has no pretrained weights: use --init random, or --student gpt2")
    return replace(known, hub=None) if init == "random" else known


def begin(
    episodes: Sequence[Episode],
    preset: Preset,
    folder: Path,
    *,
    vocab_size: int | None,
    attributes: Sequence[str],
    facts: Mapping[str, Any],
    seed: int,
    rendering: Rendering = "ids",
    origin: Origin | None = None,
    keep: bool = True,
    commanded: bool = True,
    refit: Sequence[str] = (),
) -> tuple[StudentModel, Any, CommandSpace]:
    """Make the tokenizer, the command space and the untrained model; the first two are kept in ``folder``.

    attributes: rewards to be commanded in (none: all that the episodes have). facts: what the run knows of them.
    With an origin, its tokenizer, weights, bins and rendering are kept, and ``attributes`` says which are added.
    keep: write the two; processes that train together leave that to one of them. commanded: whether the student is
    to learn commands; else it has no attributes but its origin's. refit: attributes of the origin whose bins are fitted
    anew to ``episodes``.
    """
    import torch

    from udrl.architecture import architecture_of
    from udrl.architecture.gpt2.scratch import scratch_gpt2
    from udrl.student.network import StudentModel, grown, load_model
    from udrl.training.admission import admit, check_computation, settle_ends, warn_of_lost
    from udrl.training.examples import fitting

    model, context = None, preset.context
    if origin is not None:
        tokenizer = student_tokenizer(origin.folder)
        known, base = load_model(origin.folder, origin.space), origin.space.base
        settle_ends(known.model, tokenizer, str(origin.folder))  # earlier versions kept what the config named
        context = known.context
        rendering = "ids" if origin.space.text is None else "text"
    elif preset.hub is not None:
        model, tokenizer = admit(preset.hub)
        base = len(model.get_input_embeddings().weight)
        context = architecture_of(model.config).context(model.config)
    elif (folder / "tokenizer.json").exists():
        tokenizer = student_tokenizer(folder)
        base = len(tokenizer)
    else:
        texts = {e.input for e in episodes} | {e.completion for e in episodes}
        tokenizer = train_tokenizer(sorted(texts), vocab_size or preset.vocab_size)
        base = len(tokenizer)
    learned = fitting(episodes, tokenizer, context) or episodes
    space = _space(learned, base, attributes, facts, origin, commanded, refit)
    if rendering == "text":
        names = [a.name for a in space.attributes]
        pieces = partial(encode, tokenizer)
        space = replace(space, text=TextCommands.make(pieces, tasks=space.tasks, attributes=names, bins=space.bins))
    if origin is not None:
        made = grown(known, space)
    else:
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
        made = StudentModel(model, space)
    if preset.hub is not None:
        check_computation(made, encode(tokenizer, [f"{e.input} {e.completion}" for e in learned[:3]]), preset.hub)
    if keep and (origin is not None or preset.hub is not None):
        warn_of_lost(tokenizer, sorted({text for e in episodes for text in (e.input, e.completion)}))
    if keep:
        tokenizer.save_pretrained(folder)
        space.save(folder)
    torch.manual_seed(fitting_seed(seed))
    return made, tokenizer, space


def _space(
    episodes: Sequence[Episode],
    base: int,
    wanted: Sequence[str],
    facts: Mapping[str, Any],
    origin: Origin | None,
    commanded: bool,
    refit: Sequence[str],
) -> CommandSpace:
    from udrl.training.examples import achieved

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
    known = () if origin is None else tuple(a.name for a in origin.space.attributes if a.name in scored)
    chosen = [n for n in dict.fromkeys([*known, *(wanted or scored)]) if n != LENGTH]
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
    made = made if commanded else []
    if origin is not None:
        return origin.space.extended(made, values, refit=refit)
    return CommandSpace.fit(base, made, values)

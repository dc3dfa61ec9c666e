"""What a training starts with: tokenizer, command space and weights, made anew or taken from a trained student."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udrl.arguments import fitting_seed
from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.data.episode import Episode
from udrl.data.facts import RewardFacts, RunFacts, WeightsFacts
from udrl.errors import UsageError, suggestion
from udrl.text_commands import TextCommands
from udrl.tokenizer import encode, student_tokenizer, train_tokenizer
from udrl.training.checkpoint import begun, take_up
from udrl.training.options import Rendering
from udrl.training.origin import GENTLER, STARTED, Origin
from udrl.training.presets import FROM_SCRATCH, PRESETS, ROW_RATE, Preset
from udrl.weights.sources import Weights, find_weights

if TYPE_CHECKING:
    from udrl.student.network import StudentModel
    from udrl.training.examples import Examples

LONGEST = 1000.0
"""Declared upper end of the length attribute, in words (raised where training completions are longer)."""
GENERIC = Preset("", None, 0, 0, 0, 0, 0, 2e-4, 32, row_rate=ROW_RATE)
"""Training defaults of a model that is no preset."""


@dataclass(frozen=True)
class Source:
    """What a student is made from.

    With an ``origin``, its tokenizer, weights, bins and rendering are kept; else the ``preset`` names the pretrained
    weights, or the shape of a GPT-2 from scratch with a tokenizer of ``vocab_size`` (None: the preset's) and weights
    that ``seed`` decides. attributes: rewards to be commanded in (none: all that the episodes have); with an origin,
    those that are added. refit: attributes of the origin whose bins are fitted anew. commanded: whether the student is
    to learn commands; else it has no attributes but its origin's.
    """

    preset: Preset
    origin: Origin | None = None
    vocab_size: int | None = None
    attributes: Sequence[str] = ()
    rendering: Rendering = "ids"
    refit: Sequence[str] = ()
    commanded: bool = True
    seed: int = 0

    def weights(self) -> Weights | None:
        """Find the pretrained weights, None where there are none to begin with; raises as `find_weights` does."""
        if self.preset.hub is None:
            return None
        return find_weights(self.preset.hub, package=self.preset.package, instead=FROM_SCRATCH)


@dataclass(frozen=True)
class Learner:
    """A student as training has it: network, tokenizer and command space; ``commanded``: see `Source`.

    weights: the pretrained ones that it began with, None where there were none.
    """

    model: StudentModel
    tokenizer: Any
    space: CommandSpace
    commanded: bool
    weights: WeightsFacts | None = None

    def examples(self, episodes: Sequence[Episode], weights: Sequence[float] | None = None) -> Examples:
        """Return ``episodes`` as it learns them; weights: how much each counts in the loss."""
        from udrl.training.examples import make_examples

        return make_examples(
            episodes,
            self.tokenizer,
            self.space,
            context=self.model.context,
            commanded=self.commanded,
            weights=weights,
        )


def preset_of(student: str, init: str, origin: Origin | None = None) -> Preset:
    """Return the preset of that name, or one of a hub id or path; raises UsageError for a name that is neither.

    With an origin, its weights are what is started from, and the preset gives training defaults only.
    """
    if init not in ("auto", "pretrained", "random"):
        raise UsageError(f"unknown init '{init}'; known: auto, pretrained, random")
    if origin is not None:
        base = PRESETS.get(origin.name, GENERIC)
        share = STARTED if origin.starter else GENTLER
        rows = None if base.row_rate is None else share * base.row_rate
        return replace(base, name=origin.name, hub=None, learning_rate=share * base.learning_rate, row_rate=rows)
    known = PRESETS.get(student)
    if known is None:
        if init == "random":
            scratch = ", ".join(name for name, preset in PRESETS.items() if preset.layers)
            raise UsageError(f"--init random needs a preset ({scratch}), '{student}' is none")
        if "/" not in student and not Path(student).exists() and suggestion(student, PRESETS):
            raise UsageError(f"unknown student '{student}'{suggestion(student, PRESETS)}; known: {', '.join(PRESETS)}, "
                             "or a hub id or local path of a causal language model")  # fmt: skip
        return replace(GENERIC, name=student, hub=student)
    if init == "random" and not known.layers:
        raise UsageError(f"student '{student}' is pretrained only: leave --init out, or name a preset from scratch")
    if init == "pretrained" and known.hub is None:
        raise UsageError(f"student '{student}' has no pretrained weights: use --init random, or --student gpt2")
    return replace(known, hub=None, row_rate=None) if init == "random" else known


def begin_or_resume(
    source: Source,
    episodes: Sequence[Episode],
    facts: RunFacts,
    folder: Path,
    mark: str,
    *,
    restart: bool,
) -> Learner:
    """Begin a training of the fingerprint ``mark`` in ``folder``, or the one that was interrupted there once more.

    Raises StudentError where a training of another fingerprint has saved steps there, unless it is to ``restart``.
    """
    goes_on = take_up(folder, mark, restart=restart)
    learner = begin(source, episodes, facts, folder, keep=not goes_on)
    begun(folder, mark)
    return learner


def begin(source: Source, episodes: Sequence[Episode], facts: RunFacts, folder: Path, *, keep: bool = True) -> Learner:
    """Make the tokenizer, the command space and the untrained network; the first two are kept in ``folder``.

    facts: what the run knows of the ``episodes``. keep: write the two; processes that train together leave that to one
    of them.
    """
    import torch

    from udrl.architecture import architecture_of
    from udrl.student.network import StudentModel, grown, load_model
    from udrl.training.admission import admit, check_computation, settle_ends, warn_of_lost
    from udrl.training.examples import fitting

    origin, weights = source.origin, source.weights()
    began = None if origin is None else origin.facts.train.weights
    if origin is not None:
        tokenizer = student_tokenizer(origin.folder)
        known, base = load_model(origin.folder, origin.space), origin.space.base
        settle_ends(known.model, tokenizer, str(origin.folder))  # earlier versions kept what the config named
        context = known.context
    else:
        if weights is not None:
            network, tokenizer = admit(weights)
            began = WeightsFacts(weights.source, weights.sha256, source.preset.licence)
            if keep:
                weights.tell()
        else:
            network, tokenizer = _from_scratch(source, episodes, folder)
        base = len(network.get_input_embeddings().weight)
        context = architecture_of(network.config).context(network.config)
    learned = fitting(episodes, tokenizer, context) or episodes
    space = _space(source, learned, base, facts)
    if source.rendering == "text" if origin is None else origin.space.text is not None:
        names = [a.name for a in space.attributes]
        pieces = partial(encode, tokenizer)
        space = replace(space, text=TextCommands.make(pieces, tasks=space.tasks, attributes=names, bins=space.bins))
    model = grown(known, space) if origin is not None else StudentModel(network, space)
    if weights is not None:
        texts = [f"{e.input} {e.completion}" for e in learned[:3]]
        check_computation(model, encode(tokenizer, texts), weights.name)
    if keep and (origin is not None or weights is not None):
        warn_of_lost(tokenizer, sorted({text for e in episodes for text in (e.input, e.completion)}))
    if keep:
        tokenizer.save_pretrained(folder)
        space.save(folder)
    torch.manual_seed(fitting_seed(source.seed))
    return Learner(model, tokenizer, space, source.commanded, began)


def _from_scratch(source: Source, episodes: Sequence[Episode], folder: Path) -> tuple[Any, Any]:
    """Return a GPT-2 of the preset's shape, and the tokenizer in ``folder``, or one of the texts of ``episodes``."""
    from udrl.architecture.gpt2.scratch import scratch_gpt2

    preset = source.preset
    if (folder / "tokenizer.json").exists():
        tokenizer = student_tokenizer(folder)
    else:
        texts = {e.input for e in episodes} | {e.completion for e in episodes}
        tokenizer = train_tokenizer(sorted(texts), source.vocab_size or preset.vocab_size)
    network = scratch_gpt2(
        vocab_size=len(tokenizer),
        layers=preset.layers,
        width=preset.width,
        heads=preset.heads,
        context=preset.context,
        eos=tokenizer.eos_token_id,
        seed=source.seed,
    )
    return network, tokenizer


def _space(source: Source, episodes: Sequence[Episode], base: int, facts: RunFacts) -> CommandSpace:
    """Return the command space of what ``episodes`` achieved; control ids begin at ``base``."""
    from udrl.training.examples import achieved

    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for episode in episodes:
        for name, value in achieved(episode).items():
            if value is not None:
                values[episode.task][name].append(value)
    scored = sorted({name for of_task in values.values() for name in of_task} - {LENGTH})
    origin = source.origin
    for name in source.attributes:
        if name not in (*scored, LENGTH):
            raise UsageError(f"attribute '{name}' is not among the episodes' rewards{suggestion(name, scored)}; "
                             f"known: {', '.join([*scored, LENGTH])}")  # fmt: skip
    known = () if origin is None else tuple(a.name for a in origin.space.attributes if a.name in scored)
    chosen = [n for n in dict.fromkeys([*known, *(source.attributes or scored)]) if n != LENGTH]
    ranges = {reward.name: reward for reward in facts.score.rewards}
    made = []
    for name in chosen:
        every = [v for of_task in values.values() for v in of_task[name]]
        seen = RewardFacts(name, 0.0 if min(every) >= 0 else min(every), 1.0 if max(every) <= 1 else max(every))
        known_as = ranges.get(name, seen)
        made.append(Attribute(name, float(known_as.low), float(known_as.high), known_as.unit))
    longest = max(v for of_task in values.values() for v in of_task[LENGTH])
    made.append(Attribute(LENGTH, 1.0, max(LONGEST, longest), "words"))
    made = made if source.commanded else []
    if origin is not None:
        return origin.space.extended(made, values, refit=source.refit)
    return CommandSpace.fit(base, made, values)

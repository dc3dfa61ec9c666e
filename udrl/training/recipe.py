"""What the options of a training come to: the method, the student and the limits that they name, and the steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from udrl.errors import UsageError
from udrl.progress import say
from udrl.student.location import shipped_students
from udrl.training.cost import Limits
from udrl.training.methods import GENTLE, Method, Udrl, check_trainable, method_of, through_trl
from udrl.training.methods.method_data import affordable_steps
from udrl.training.methods.published import Published, published
from udrl.training.options import NOTHING, LoopOptions, TrainOptions
from udrl.training.origin import Origin, find_origin
from udrl.training.presets import STARTERS, Preset
from udrl.training.ranks import Rank
from udrl.training.starting_point import Source, preset_of

EPOCHS = 3.0
EPOCHS_TRL = 1.0


@dataclass(frozen=True)
class Plan:
    """How the steps are made. usual_rate: the learning rate where none is given; shortened: whether the budget of
    completions allows fewer steps than were wanted."""

    loop: LoopOptions
    usual_rate: float
    shortened: bool


@dataclass(frozen=True)
class Recipe:
    """How a student is trained, before anything is known of what it is trained on.

    preset: what the student is made from, and its defaults; published: the hyper-parameters of a paper, where they are
    asked for; origin: the trained student that is started from.
    """

    options: TrainOptions
    method: Method
    preset: Preset
    published: Published | None
    origin: Origin | None
    limits: Limits

    @property
    def commanded(self) -> bool:
        """Whether the student is to learn commands."""
        return isinstance(self.method, Udrl)

    @property
    def source(self) -> Source:
        """What the student is made from."""
        options = self.options
        return Source(
            self.preset,
            origin=self.origin,
            vocab_size=options.vocab_size,
            attributes=options.attributes,
            rendering=options.commands,
            refit=options.refit or self._refit,
            commanded=self.commanded,
            seed=options.seed,
        )

    @property
    def _refit(self) -> tuple[str, ...]:
        """The attributes whose bins are fitted anew: all of a starter's, which were fitted to other texts."""
        origin = self.origin
        return () if origin is None or not origin.starter else tuple(a.name for a in origin.space.attributes)

    def settled(self, group: Rank) -> Recipe:
        """Return the recipe as the processes of ``group`` follow it, once they may write the run.

        Raises as `check_trainable`.
        """
        options = self.options
        used = {"curriculum": options.curriculum, "balance": options.balance, "attribute": options.attributes,
                "lora": options.lora, "freeze": options.freeze, "shard": options.shard, "patience": options.patience,
                "max-samples": options.max_samples}  # fmt: skip
        check_trainable(self.method, starts_from=self.origin is not None, processes=group.count, used=used)
        # again: what an interrupted call has finished is recorded only now
        return self if self.origin is None else replace(self, origin=find_origin(self.origin.folder))

    def plan(self, size: int) -> Plan:
        """Return how the steps are made: what is given, else what was published, else the preset of the student.

        size: examples of an epoch.
        """
        given = self.options
        batch_size, learning_rate, steps, epochs = given.batch_size, given.learning_rate, given.steps, given.epochs
        warmup, schedule = given.warmup, given.schedule
        if (paper := self.published) is not None:
            batch_size, learning_rate = batch_size or paper.batch_size, learning_rate or paper.learning_rate
            steps, epochs = steps or (None if epochs else paper.steps), epochs or paper.epochs
            warmup, schedule = paper.warmup if warmup is None else warmup, schedule or paper.schedule
        batch = batch_size or self.preset.batch_size
        passes = epochs or (EPOCHS_TRL if through_trl(self.method) else EPOCHS)
        usual = self.preset.learning_rate * (GENTLE if through_trl(self.method) else 1.0)
        wanted = steps or max(1, round(passes * size / batch))
        affordable = affordable_steps(self.method, batch, given.max_samples, wanted)
        peak = learning_rate or usual
        rows = max(peak, self.preset.row_rate or peak) if self.commanded else peak
        loop = LoopOptions(
            steps=affordable,
            batch_size=batch,
            micro_batch=min(given.micro_batch or batch, batch),
            learning_rate=peak,
            row_learning_rate=given.row_learning_rate or rows,
            warmup=LoopOptions.warmup if warmup is None else warmup,
            schedule=schedule or LoopOptions.schedule,
            weight_decay=given.weight_decay,
            clip=given.clip,
            open_each=given.open_each,
            open_all=given.open_all,
            curriculum=given.curriculum,
            balance=given.balance,
            checkpointing=given.gradient_checkpointing,
            save_every=given.save_every,
            validate_every=given.validate_every,
            keep=given.keep,
            patience=given.patience,
            seed=given.seed,
        )
        return Plan(loop, usual, shortened=affordable < wanted)


def origin_of(options: TrainOptions) -> Origin | None:
    """Return the student that is started from: the one that is named, else the starter of the preset, or nothing.

    Upside-down RL with control ids alone has use for what a starter knows: other methods begin with the weights.
    """
    source: Path | str | None = options.start_from
    if source is None and options.student in STARTERS and options.starts_anew:
        source = shipped_students().get(STARTERS[options.student])
        if source is not None:
            say(f"starting from the student '{source.name}', which knows commands (--from none: without it)")
    return None if source is None or str(source) == NOTHING else find_origin(source)


def recipe_of(options: TrainOptions) -> Recipe:
    """Look up what ``options`` name. Raises UsageError or StudentError for what there is not, or cannot be trained."""
    origin = origin_of(options)
    preset = preset_of(options.student or "gpt2", options.init, origin)
    for name, does in (("lora", "changes trained weights a little"), ("freeze", "keeps trained weights")):
        if getattr(options, name) and origin is None and preset.hub is None:
            raise UsageError(
                f"--{name} {does}, and {preset.name} would start without: name --from, or a --student with pretrained "
                "weights"
            )
    method = options.method
    name = method if isinstance(method, str) else method.name
    paper = None if options.preset is None else published(options.preset, name)
    if isinstance(method, str):
        method = method_of(method, paper.settings if paper else None)
    limits = Limits(options.max_samples, options.max_usd, options.max_minutes, options.machine_usd)
    return Recipe(options, method, preset, paper, origin, limits)

"""What a training has before its first step: episodes, plan, untrained student, and the folder that it fills."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from udrl.data.run import Run
from udrl.files import partial_of
from udrl.hardware import torch_device, torch_dtype
from udrl.training.checkpoint import STATE, end, fingerprint
from udrl.training.material import Material, gather
from udrl.training.options import decisive
from udrl.training.ranks import Rank
from udrl.training.recipe import Plan, Recipe
from udrl.training.starting_point import Learner, begin, begin_or_resume

if TYPE_CHECKING:
    import torch

    from udrl.training.examples import Examples


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs, and nothing trained yet.

    examples, validation: the training episodes of the ``material`` and its held-out ones, encoded. fingerprint: of all
    that decides what the student becomes: an interrupted training goes on under the same one only.
    """

    run: Run
    recipe: Recipe
    material: Material
    plan: Plan
    learner: Learner
    examples: Examples
    validation: Examples
    dtype: torch.dtype
    fingerprint: str

    @property
    def folder(self) -> Path:
        """The folder that is filled, before it takes the place of the run's student."""
        return partial_of(self.run.student)

    @property
    def state_file(self) -> Path:
        """What an interrupted training goes on from."""
        return self.folder / STATE

    @property
    def device(self) -> torch.device:
        """Where the student is trained."""
        return self.learner.model.rows.weight.device

    @property
    def max_tokens(self) -> int:
        """The most tokens that a completion may have: those of the longest that the student or its origin has seen."""
        origin = self.recipe.origin
        return max(max(map(len, self.examples.completions)), 0 if origin is None else origin.max_tokens)


def prepare(run: Run, recipe: Recipe, group: Rank) -> Prepared:
    """Gather what is learned from, plan the steps, and make the student, or take up what an interrupted call made.

    The first process of ``group`` fills the folder, the others read there what it has written. Raises StudentError
    where there is nothing to learn from, UsageError for options that do not fit the run.
    """
    from udrl.training.distributed import from_first, own_device
    from udrl.training.freeze import freeze
    from udrl.training.lora import add_lora

    options, origin = recipe.options, recipe.origin
    material = gather(run, recipe.method, origin, selection=options.selection, replay=options.replay, seed=options.seed)
    pool, facts, folder = material.pool, material.facts, partial_of(run.student)
    device = own_device(torch_device(options.device), group)
    dtype = torch_dtype(options.precision, device)
    plan = recipe.plan(pool.size)
    mark = _fingerprint(recipe, material, plan, dtype)
    if group.first:
        learner = begin_or_resume(recipe.source, pool.episodes, facts, folder, mark, restart=options.restart)
        end(run)  # a call before this one
    from_first(None, group)
    if not group.first:
        learner = begin(recipe.source, pool.episodes, facts, folder, keep=False)
    if options.lora:
        add_lora(learner.model, options.lora)
    if options.freeze:
        freeze(learner.model, options.freeze)
    learner.model.to(device)
    # of other tasks there is nothing that is trained on
    validation = [one for one in material.validation_episodes if one.task in learner.space.tasks]
    return Prepared(
        run=run,
        recipe=recipe,
        material=replace(material, validation_episodes=validation),
        plan=plan,
        learner=learner,
        examples=learner.examples(pool.episodes, pool.weights),
        validation=learner.examples(validation),
        dtype=dtype,
        fingerprint=mark,
    )


def _fingerprint(recipe: Recipe, material: Material, plan: Plan, dtype: torch.dtype) -> str:
    options, origin, weights = recipe.options, recipe.origin, recipe.source.weights()
    return fingerprint(
        material.pool.episodes,
        decisive(plan.loop),
        recipe.method,
        recipe.preset.name,
        options.init,
        options.vocab_size,
        options.attributes,
        options.commands,
        options.lora,
        options.freeze,
        origin and origin.weights,
        *options.refit,
        str(dtype),
        *([] if weights is None else [weights.sha256]),
    )

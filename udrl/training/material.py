"""What a training learns from: the run's material for its method."""

from __future__ import annotations

from dataclasses import dataclass

from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.facts import RunFacts
from udrl.data.known_answers import Answers, read_answers
from udrl.data.run import Run
from udrl.errors import StudentError
from udrl.training.methods import Method, Udrl
from udrl.training.methods.method_data import Pool, pool_of, without_derived
from udrl.training.origin import Origin, joined_facts, replayed, with_replay
from udrl.training.selection.impact import selected


@dataclass(frozen=True)
class Material:
    """What there is to learn from. replayed: how many of the origin's are among the
    pool's; facts, answers: the run's, joined with the origin's."""

    pool: Pool
    validation_episodes: list[Episode]
    replayed: int
    facts: RunFacts
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
    held_out, facts, answers = validation_of(run, origin)
    again = 0
    if origin is not None:
        joined, again = with_replay(origin, every, share=replay, seed=seed)  # what was not selected is not replayed
        episodes = episodes + joined[len(every) :]
    validation = held_out if isinstance(method, Udrl) else without_derived(held_out)
    return Material(pool_of(method, episodes), validation, again, facts, answers)


def validation_of(run: Run, origin: Origin | None) -> tuple[list[Episode], RunFacts, Answers]:
    """Return the validation episodes, facts and answers of the run, joined with those of the origin's run."""
    episodes, facts, answers = read_episodes(run.episodes, splits=("validation",)), run.facts(), read_answers(run.path)
    if origin is None:
        return episodes, facts, answers
    before = read_answers(origin.run.path) if origin.run else {}
    again = replayed(origin, episodes, share=1.0, split="validation", seed=0)
    return episodes + again, joined_facts(facts, origin), {**before, **answers}

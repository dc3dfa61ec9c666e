"""The files of rounds: what each did, which one is kept, and the table that compares them.

RUN/rounds.json            the verdicts, the round that is kept, why the rounds ended
RUN/rounds/0/              the student that the rounds began with: student/, measured.json, round.json
RUN/rounds/N/              a run folder of its own (`udrl generate --run RUN/rounds/N` works)
  plan.jsonl               options, aims, and every completion that is to be written, with its command
  explored/*.json          those completions
  episodes/                what was trained on, and what was rejected, with the rule
  student/                 the student after the round, calibrated
  measured.json            its figures by validation input
  round.json               the round's record; it is there when the round is finished
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from udrl import __version__
from udrl.data.facts_json import typed
from udrl.data.run import Run
from udrl.errors import RunError, UsageError, damaged, expect
from udrl.eval.figures import DIVERSITY
from udrl.files import atomic_write
from udrl.rounds.options import RoundOptions
from udrl.rounds.quality import TOP, Measured

SCHEMA = 1
STATE, RECORD, MEASURED = "rounds.json", "round.json", "measured.json"
_ADVICE = "restore it, or move the rounds away to begin anew"
KEPT, LESS_DIVERSE, NO_BETTER = "kept", "less diverse", "no better"


@dataclass(frozen=True)
class Round:
    """One finished round. parent: the round whose student it trained on from (None: round 0); weights: their hash.

    explored: completions written; rejected: how many by rule; added: new episodes in its pool; pool, originals: what it
    was trained on; training: steps, seconds and losses; figures: means and 95 % intervals of `Measured`; gain: the
    paired gain over round 0 of each; diversity: the lowest of the diversity figures as a share of round 0's; verdict:
    ``kept``, ``less diverse`` or ``no better``.
    """

    round: int
    parent: int | None
    weights: str
    explored: int
    rejected: Mapping[str, int]
    added: int
    pool: int
    originals: int
    training: Mapping[str, Any]
    figures: Mapping[str, tuple[float, float, float]]
    gain: Mapping[str, tuple[float, float, float]]
    diversity: float
    verdict: str
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class State:
    """Where the rounds stand. head: the round that the next one trains on from; kept: whose student the run has.

    misses: rounds since the kept one that were no better. stopped: why no further round is made, or None.
    """

    rounds: tuple[Round, ...]
    kept: int
    head: int
    misses: int = 0
    stopped: str | None = None

    def record(self, number: int) -> Round:
        """Return the record of a round; raises UsageError naming those there are."""
        for one in self.rounds:
            if one.round == number:
                return one
        known = ", ".join(str(one.round) for one in self.rounds)
        raise UsageError(f"there is no finished round {number}: the run has {known}")


def judge(state: State, top: float, diversity: float, options: RoundOptions) -> str:
    """Return the verdict on a round: its diversity first, then whether its top is above the kept round's."""
    if diversity < options.diversity_floor:
        return LESS_DIVERSE
    return KEPT if top > state.record(state.kept).figures[TOP][0] else NO_BETTER


def advanced(state: State, done: Round, options: RoundOptions) -> State:
    """Return the state after a round: it is kept, or counted as a miss, or it ends the rounds."""
    rounds = (*state.rounds, done)
    if done.verdict == KEPT:
        return State(rounds, done.round, done.round)
    if done.verdict == LESS_DIVERSE:
        why = (
            f"round {done.round} kept {done.diversity:.3f} of round 0's diversity, under the floor of "
            f"{options.diversity_floor:g}"
        )
        return replace(state, rounds=rounds, stopped=why)
    misses = state.misses + 1
    best = state.record(state.kept).figures[TOP][0]
    why = f"round {done.round} was no better on validation inputs ({done.figures[TOP][0]:.4f}, kept {best:.4f})"
    return replace(
        state, rounds=rounds, head=done.round, misses=misses, stopped=why if misses >= options.patience else None
    )


def diversity_share(now: Measured, before: Measured) -> float:
    """Return the lowest of the diversity figures within tasks as a share of what it was ``before``."""
    shares = [now.interval(name).mean / was if (was := before.interval(name).mean) > 0 else 1.0 for name in DIVERSITY]
    return min(shares)


def figures_of(now: Measured, before: Measured) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return every figure as (mean, low, high), and its paired gain over ``before`` in the same form."""
    figures = {name: now.interval(name) for name in now.values}
    return figures, {name: now.gain(before, name) for name in now.values if name in before.values}


# -- files ---------------------------------------------------------------------------------------------------------


def folder_of(run: Run, number: int) -> Path:
    """Return the folder of a round."""
    return run.path / "rounds" / str(number)


def write_round(folder: Path, done: Round, options: RoundOptions) -> None:
    """Write ``round.json``, with which a round is finished."""
    data = {"schema": SCHEMA, "udrl": __version__, **asdict(done), "options": asdict(options)}
    atomic_write(folder / RECORD, json.dumps(data, indent=1) + "\n")


def read_round(folder: Path) -> tuple[Round, RoundOptions] | None:
    """Return the record in ``folder`` and the options it was made under, None where the round is not finished."""
    path = folder / RECORD
    if not path.exists():
        return None
    data = _read(path)
    return typed(Round, data, str(path)), typed(RoundOptions, data.get("options"), f"{path}: options")


def write_state(run: Run, state: State) -> None:
    """Write ``rounds.json``."""
    data = {"schema": SCHEMA, "udrl": __version__, **asdict(state)}
    atomic_write(run.path / STATE, json.dumps(data, indent=1) + "\n")


def read_state(run: Run) -> State | None:
    """Return where the run's rounds stand, None where there are none; raises RunError for a newer schema."""
    path = run.path / STATE
    if not path.exists():
        return None
    state: State = typed(State, _read(path), str(path))
    for number in (state.kept, state.head):
        if number not in [one.round for one in state.rounds]:
            raise RunError(f"{path}: names the round {number}, which is none of its rounds: {_ADVICE}")
    return state


def _read(path: Path) -> dict[str, Any]:
    with damaged(RunError, path, _ADVICE):
        data: dict[str, Any] = expect(json.loads(path.read_text(encoding="utf-8")), dict, "all of it")
    if data.get("schema") != SCHEMA:
        raise RunError(
            f"{path}: written by udrl {data.get('udrl', 'unknown')} with schema {data.get('schema')}, this udrl "
            f"{__version__} reads {SCHEMA}: install udrl {data.get('udrl', 'of that version')}"
        )
    return data


# -- the table -----------------------------------------------------------------------------------------------------


def comparison(rounds: Sequence[Round]) -> list[list[str]]:
    """Return the rows of the table that compares rounds, the header first."""
    followed = sorted({name for one in rounds for name in one.figures if name.startswith("spearman/")})
    rows = [
        ["round", "from", "top", "gain over 0", "matched", *followed, *DIVERSITY, "diversity", "new", "pool", "verdict"]
    ]
    for one in rounds:
        gain = one.gain[TOP]
        rows.append(
            [
                str(one.round),
                "" if one.parent is None else str(one.parent),
                _shown(one.figures[TOP]),
                "" if one.parent is None else f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]",
                _shown(one.figures["matched"]),
                *(_shown(one.figures[name]) for name in (*followed, *DIVERSITY)),
                f"{one.diversity:.3f}",
                f"{one.added:,} of {one.explored:,}" if one.parent is not None else "",
                f"{one.pool:,} + {one.originals:,}" if one.parent is not None else "",
                one.verdict,
            ]
        )
    return rows


def _shown(figure: tuple[float, float, float]) -> str:
    return f"{figure[0]:.3f} [{figure[1]:.3f}, {figure[2]:.3f}]"

"""``udrl improve``: rounds of exploring, scoring, relabelling and training on; each can be resumed and returned to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from udrl.arguments import checked
from udrl.data.facts import ImproveFacts
from udrl.data.run import Run
from udrl.errors import RunError, StudentError, UsageError
from udrl.files import copy_folder, remove_folder
from udrl.rounds import history
from udrl.rounds.history import Round, State, folder_of
from udrl.rounds.inputs import Source
from udrl.rounds.options import RoundOptions
from udrl.rounds.round import Work
from udrl.training.origin import find_origin

JUDGED_BY = ("reward", "encoder", "validation_inputs", "sweep_inputs", "seed")
"""Options that decide what the rounds are measured on: the same for all rounds of a run."""


@dataclass(frozen=True)
class ImproveReport:
    """What rounds there are. made: those that this call finished; kept: whose student ``student`` is now.

    stopped: why no further round is made, or None.
    """

    run: Path
    rounds: tuple[Round, ...]
    made: tuple[int, ...]
    kept: int
    stopped: str | None
    student: Path


@checked
def improve(
    run: Path | str = "runs/default",
    *,
    rounds: int = 3,
    options: RoundOptions | None = None,
    inputs: Path | str | None = None,
    input_field: str | None = None,
    tasks: Sequence[str] = (),
    device: str = "auto",
    precision: str = "auto",
    restart: bool = False,
) -> ImproveReport:
    """Improve the run's student for ``rounds`` rounds, those that it has already counted in.

    A round draws commands from the best episodes, lets the student write under them for training inputs, scores that
    with the run's rewards, keeps what is not degenerate in a bounded pool, trains on from the last weights with
    original episodes as an anchor, calibrates, and measures on validation inputs (`udrl.rounds.quality`).
    ``RUN/student`` is the best round's student; all rounds' students stay in ``RUN/rounds``. The rounds end early
    where a student is less diverse than the floor allows, or no better than the best one before.

    inputs: a file of further inputs to explore on instead (``input_field``: its column); no teacher is asked. tasks:
    which are explored (none: all of the student's). restart: forget an
    unfinished round instead of continuing it.

    An interrupted call is continued by the next one with the same arguments; nothing is generated twice. Raises
    UsageError for options that contradict, or that an unfinished round was not begun with, StudentError where there is
    no calibrated student or it is none of the rounds', RunError where the run has no episodes, InputError (inputs).
    """
    options = options or RoundOptions()
    if input_field is not None and inputs is None:
        raise UsageError(f"'{input_field}' names a column of a file of inputs: give --inputs, too, or leave it out")
    run_folder = Run(run)
    run_folder.check()
    with run_folder.writing():
        work = Work(run_folder, options, Source(inputs, input_field, tasks), device, precision)
        state = _caught_up(run_folder) or work.begin()
        _check_judged(run_folder, options)
        _install(run_folder, state)
        if restart:
            remove_folder(folder_of(run_folder, _next(state)))
        made = []
        while state.stopped is None and _next(state) <= rounds:
            number = _next(state)
            state = history.advanced(state, work.round(state, number), options)
            history.write_state(run_folder, state)
            _install(run_folder, state)
            made.append(number)
        return _report(run_folder, state, made)


@checked
def keep(run: Path | str, number: int) -> ImproveReport:
    """Make the student of round ``number`` the run's (0: the one that the rounds began with); nothing is deleted.

    Further rounds train on from it, also where the rounds had stopped. Raises RunError where the run has no rounds,
    UsageError where it has no such round, StudentError where ``RUN/student`` is none of them.
    """
    run_folder = Run(run)
    run_folder.check()
    with run_folder.writing():
        state = _caught_up(run_folder)
        if state is None:
            raise RunError(f"{run_folder.path} has no rounds: make some with udrl improve --run {run_folder.path}")
        state.record(number)
        state = replace(state, kept=number, head=number, misses=0, stopped=None)
        history.write_state(run_folder, state)
        _install(run_folder, state)
        return _report(run_folder, state, [])


def _next(state: State) -> int:
    return 1 + max(one.round for one in state.rounds)


def _caught_up(run: Run) -> State | None:
    """Return the state with every finished round in it: a kill may have come between the two files."""
    state = history.read_state(run)
    while state is not None and (done := history.read_round(folder_of(run, _next(state)))) is not None:
        state = history.advanced(state, *done)
        history.write_state(run, state)
    return state


def _install(run: Run, state: State) -> None:
    """Make ``RUN/student`` the kept round's; raises StudentError where it is none of the rounds' (trained since)."""
    kept = state.record(state.kept)
    installed = find_origin(run.student).weights if run.student.is_dir() else None
    if installed not in (None, *(one.weights for one in state.rounds)):
        raise StudentError(
            f"{run.student} is none of the students in {run.path / 'rounds'}, so it was trained since: to improve "
            f"it, move {run.path / 'rounds'} and {run.path / history.STATE} away; to return to the rounds, move "
            "the student away and say which with --keep"
        )
    if installed != kept.weights:
        copy_folder(folder_of(run, state.kept) / "student", run.student)
    facts = ImproveFacts(kept.round, kept.weights, len(state.rounds) - 1, state.stopped)
    if facts != run.facts().improve:
        run.record(facts)


def _check_judged(run: Run, options: RoundOptions) -> None:
    first_round = history.read_round(folder_of(run, 0))
    first = options if first_round is None else first_round[1]
    for name in JUDGED_BY:
        was, now = getattr(first, name), getattr(options, name)
        if was != now:
            raise UsageError(
                f"the rounds of {run.path} are measured with {name}={was}, found {name}={now}: give the same, or "
                f"move {run.path / 'rounds'} and {run.path / history.STATE} away to begin anew"
            )


def _report(run: Run, state: State, made: Sequence[int]) -> ImproveReport:
    return ImproveReport(run.path, state.rounds, tuple(made), state.kept, state.stopped, run.student)

"""Answers: what ``udrl generate`` gives for an input under a command, scored and picked if asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from udrl.arguments import checked
from udrl.commands import LENGTH, Command
from udrl.data.known_answers import read_answers
from udrl.data.run import Run
from udrl.errors import UsageError
from udrl.rewards import computable, scored_rewards
from udrl.rewards.protocol import known_pairs
from udrl.words import count_words

if TYPE_CHECKING:
    from udrl.decoding.sampling import Sampling
    from udrl.decoding.wording import Wording
    from udrl.student.student import Generation, Student
    from udrl.student.targets import Clamped

Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""A reward as a plain function of inputs and completions."""


@dataclass(frozen=True)
class Answer:
    """One completion, with what was asked for and what was achieved. One JSON object of ``udrl generate
    --json``.

    command: the targets by attribute; an attribute that is not in it was left open. achieved: the value of every
    attribute that can be measured for this input, or None where scoring was not asked for. finish_reason: "stop" or
    "length". seed: gives this completion again for this input and command, with one sample and one candidate, by the
    same engine and precision; where that is not float32, only if ``together`` is 1. drawn: candidates that were
    written; chosen: which of them this is, from 0. unmet: required words that are not in it. clamped: targets that the
    student cannot reach. engine, precision: what computed it; together: completions that were computed at once, this
    one among them (at most ``batch_size``).
    """

    input: str
    task: str
    completion: str
    command: Mapping[str, float]
    achieved: Mapping[str, float] | None
    finish_reason: str
    seed: int
    drawn: int = 1
    chosen: int = 0
    unmet: tuple[str, ...] = ()
    clamped: Mapping[str, Clamped] = field(default_factory=lambda: MappingProxyType({}))
    engine: str = ""
    precision: str = ""
    together: int = 1


@checked
def answer(
    student: Student,
    inputs: Iterable[str],
    command: Command,
    *,
    num: int = 1,
    best_of: int = 1,
    closest_of: int = 1,
    seed: int = 0,
    rewards: Mapping[str, Score] | None = None,
    sampling: Sampling | None = None,
    wording: Wording | None = None,
    batch_size: int = 64,
) -> Iterator[Answer]:
    """Yield ``num`` answers for each input, in order, reading ``inputs`` only a batch ahead.

    best_of: candidates of each answer, of which the most relevant one is kept; closest_of: the same, and the one whose
    achieved values come closest to the command is kept (`distance`). Either needs ``rewards``; with either, what lacks
    required words stands back. seed: answer k of an input has the seeds from ``seed + k * candidates``, whatever the
    other inputs are. rewards: those to score with (None: not scored). sampling: None is what ships with the student.
    Raises UsageError for counts under 1, both counts at once, and where there is nothing to pick by.
    """
    student.space.check(command)
    check_candidates(command, best_of, closest_of, rewards)
    drawn = max(best_of, closest_of)
    answers = ((text, number) for text in inputs for number in range(num))
    for some in _batches(answers, max(1, batch_size // drawn)):
        flat = [text for text, _ in some for _ in range(drawn)]
        seeds = [seed + number * drawn + k for _, number in some for k in range(drawn)]
        written = student.generate(
            flat, [command] * len(flat), seeds=seeds, sampling=sampling, wording=wording, batch_size=batch_size
        )
        made = pick(
            student, command, flat, written, seeds=seeds, drawn=drawn, by_distance=closest_of > 1, rewards=rewards
        )
        for one in made:
            if one.unmet:
                warn_unmet(one.input, one.unmet)
            yield one


def pick(
    student: Student,
    command: Command,
    inputs: Sequence[str],
    written: Sequence[Generation],
    *,
    seeds: Sequence[int],
    drawn: int = 1,
    by_distance: bool = False,
    rewards: Mapping[str, Score] | None = None,
    warn: bool = True,
) -> list[Answer]:
    """Score what was ``written`` for ``inputs`` by ``seeds``, and keep the best one of every ``drawn`` in a row.

    by_distance: the best is the one whose achieved values come closest to the command, else the most relevant one;
    what lacks required words stands back. warn: of commanded attributes that cannot be measured for an input.
    """
    spans = {name: student.reachable(command.task, name) for name in command.targets} if by_distance else {}
    values = {} if rewards is None else achieved(inputs, [one.completion for one in written], rewards)
    if warn:
        _warn_unscored(command, inputs, values, rewards or {})
    answers = []
    for start in range(0, len(inputs), drawn):
        best = min(range(start, start + drawn), key=lambda row: _rank(command, written[row], values, row, spans))
        answers.append(
            Answer(
                input=inputs[best],
                task=command.task,
                completion=written[best].completion,
                command=dict(command.targets),
                achieved=_measured(values, best) if values else None,
                finish_reason=written[best].finish_reason,
                seed=seeds[best],
                drawn=drawn,
                chosen=best - start,
                unmet=written[best].unmet,
                clamped=written[best].clamped,
                engine=student.engine,
                precision=student.precision,
                together=written[best].together,
            )
        )
    return answers


def _rank(
    command: Command,
    written: Generation,
    values: Mapping[str, Sequence[float | None]],
    row: int,
    spans: Mapping[str, tuple[float, float]],
) -> tuple[float, ...]:
    """Return what the best candidate has least of: words that it lacks, distance to the command, irrelevance.

    spans: see `distance`; none where the distance does not count.
    """
    of_row = _measured(values, row)
    far = distance(command, of_row, spans) if spans else 0.0
    return len(written.unmet), far, -of_row.get("relevance", 0.0)


def _warn_unscored(
    command: Command,
    inputs: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    rewards: Mapping[str, Score],
) -> None:
    """Warn of commanded attributes that cannot be measured for an input, once for each."""
    for name in command.targets.keys() & values.keys():
        for text, value in dict(zip(inputs, values[name], strict=True)).items():
            if value is None:
                needs = getattr(rewards.get(name), "needs", "it does not know this input")
                warnings.warn(f"{name} is not scored for '{text[:40]}': {needs}", stacklevel=3)


def check_candidates(command: Command, best_of: int, closest_of: int, rewards: Mapping[str, Score] | None) -> None:
    """Raise UsageError where there is nothing to pick the best of several candidates by, or two things to do so."""
    if best_of > 1 and closest_of > 1:
        raise UsageError(
            "best-of keeps the most relevant candidate, closest-of the one nearest to the command: take one"
        )
    if best_of > 1 and "relevance" not in (rewards or ()):
        raise UsageError("best-of picks by relevance: score with it")
    if closest_of > 1 and not command.targets.keys() & {*(rewards or ()), LENGTH}:
        raise UsageError("closest-of needs a command that can be measured: give a target, such as --length 20")


def student_run(folder: Path) -> Run | None:
    """Return the run that ``folder`` is, or whose student it is."""
    return next((Run(path) for path in (folder, folder.parent) if (path / "run.json").exists()), None)


def student_rewards(folder: Path, student: Student) -> dict[str, Score]:
    """Return what achieved values are measured with: relevance and the other rewards of ``student``, from ``folder``.

    Where ONNX Runtime answers, it also encodes: torch would take longer to come than both together.
    """
    names = dict.fromkeys(("relevance", *(name for name in student.attributes if name != LENGTH)))
    precision = "light" if student.engine == "onnx" else "auto"
    run = student_run(folder)
    if run is None:
        return dict(computable(names, precision=precision, answers=read_answers(folder)))
    return dict(scored_rewards(run, names, precision=precision))


def warn_unmet(text: str, unmet: Sequence[str]) -> None:
    """Warn that the completion for the input ``text`` lacks required words."""
    short = text if len(text) <= 40 else text[:39] + "…"
    warnings.warn(
        f"the completion for '{short}' has no room for what is required: {', '.join(unmet)}; allow more "
        "(--max-tokens, --max-words)",
        stacklevel=3,
    )


def achieved(
    inputs: Sequence[str], completions: Sequence[str], rewards: Mapping[str, Score]
) -> dict[str, list[float | None]]:
    """Return what ``completions`` achieved, by attribute: every reward, and the length in words.

    None: the reward does not know the input, or the pair.
    """
    values: dict[str, list[float | None]] = {}
    for name, reward in rewards.items():
        known = known_pairs(reward, inputs, completions)
        known_values = reward([inputs[row] for row in known], [completions[row] for row in known]) if known else []
        values[name] = [None] * len(inputs)
        for row, value in zip(known, known_values, strict=True):
            values[name][row] = float(value)
    return {**values, LENGTH: [float(count_words(text)) for text in completions]}


def _measured(values: Mapping[str, Sequence[float | None]], row: int) -> dict[str, float]:
    return {name: value for name, of_all in values.items() if (value := of_all[row]) is not None}


def distance(command: Command, values: Mapping[str, float], spans: Mapping[str, tuple[float, float]]) -> float:
    """Return how far achieved ``values`` are from a command: the sum over the attributes that were measured.

    spans: lowest and highest value of each attribute that the student reaches; distances are shares of that range.
    """
    return sum(
        abs(values[name] - target) / (spans[name][1] - spans[name][0] or 1.0)
        for name, target in command.targets.items()
        if name in values
    )


def _batches(answers: Iterable[tuple[str, int]], size: int) -> Iterator[list[tuple[str, int]]]:
    source = iter(answers)
    while batch := list(islice(source, size)):
        yield batch

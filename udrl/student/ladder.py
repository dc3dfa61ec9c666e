"""A ladder: one input under several commands, such as faithful to free, or short to long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from udrl.commands import Command, Target
from udrl.data.inputs import normalise
from udrl.decoding.sampling import Sampling
from udrl.decoding.wording import Wording
from udrl.student.answers import Answer, Score, check_candidates, pick, warn_unmet
from udrl.student.student import Student


def ladder_commands(
    student: Student, task: str, targets: Mapping[str, Target], ladder: Mapping[str, Sequence[Target]]
) -> list[Command]:
    """Return the commands of all combinations of the values in ``ladder``, the first attribute's changing slowest.

    targets: what every rung asks for beside it. Rungs that become the same ids, such as two targets beyond what the
    student reaches, are one. Raises UsageError as `Student.commanded` does.
    """
    combined = [dict(zip(ladder, values, strict=True)) for values in product(*ladder.values())]
    commands = [student.commanded(task, {**targets, **one}) for one in combined]
    rungs: dict[tuple[int, ...], Command] = {}
    for command, (control, _) in zip(commands, student.rendered(commands, warn=False), strict=True):
        rungs.setdefault(tuple(control), command)
    return list(rungs.values())


def climb(
    student: Student,
    inputs: Iterable[str],
    commands: Sequence[Command],
    *,
    best_of: int = 1,
    closest_of: int = 1,
    seed: int = 0,
    rewards: Mapping[str, Score] | None = None,
    sampling: Sampling | None = None,
    wording: Wording | None = None,
    batch_size: int = 64,
) -> Iterator[Answer]:
    """Yield the answers of an input under each of ``commands`` (`ladder_commands`), input by input.

    A rung whose text an earlier one of its input has, but for case and white space, is left out. Each rung is what
    `udrl.student.answers.answer` gives for its command; the other arguments are those of that.
    """
    check_candidates(commands[0], best_of, closest_of, rewards)
    drawn = max(best_of, closest_of)
    seeds = list(range(seed, seed + drawn))
    for text in inputs:
        written = student.generate(
            [text] * (len(commands) * drawn),
            [command for command in commands for _ in range(drawn)],
            seeds=seeds * len(commands),
            sampling=sampling,
            wording=wording,
            batch_size=batch_size,
        )
        said: set[str] = set()
        for rung, command in enumerate(commands):
            candidates = written[rung * drawn : (rung + 1) * drawn]
            [one] = pick(
                student, command, [text] * drawn, candidates, seeds=seeds, drawn=drawn, by_distance=closest_of > 1,
                rewards=rewards,
            )  # fmt: skip
            if one.unmet:
                warn_unmet(text, one.unmet)
            if normalise(one.completion) not in said:
                said.add(normalise(one.completion))
                yield one

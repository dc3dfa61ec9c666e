"""Exploration: commands drawn from the best episodes, and what the student writes under them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, Literal

from udrl.commands import LENGTH, Command, CommandSpace
from udrl.data.episode import Episode
from udrl.data.facts_json import typed
from udrl.data.hashing import hash_int, hash_unit
from udrl.errors import RunError, damaged, expect
from udrl.files import atomic_write
from udrl.progress import track
from udrl.rounds.options import RoundOptions
from udrl.student.targets import positions_of

if TYPE_CHECKING:
    from udrl.student.calibration import Calibration
    from udrl.student.student import Student

CHUNK = 256
"""Completions in a file of exploration: what a kill loses at most, and what is generated together."""
_ADVICE = "start the round anew with --restart"
Kind = Literal["ahead", "best_bin", "random"]


@dataclass(frozen=True)
class Aim:
    """What a task's best episodes achieved: mean and standard deviation of their return, and their horizons."""

    mean: float
    deviation: float
    horizons: tuple[int, ...]


@dataclass(frozen=True)
class Wish:
    """A completion to be written. positions: the command, in the student's command space; kind: how it was drawn.

    targets: what ``ahead`` asked for, before calibration and clamping; empty for the others.
    """

    task: str
    input_id: str
    input: str
    sample: int
    kind: Kind
    targets: Mapping[str, float]
    positions: Mapping[str, float]
    seed: int


@dataclass(frozen=True)
class Written:
    """The completion of a wish, as it stands in the files of exploration."""

    completion: str
    finish_reason: str


def aims_of(episodes: Sequence[Episode], *, reward: str, share: float) -> dict[str, Aim]:
    """Return what the best ``share`` of each task's episodes by ``reward`` achieved; at least one episode a task.

    Episodes without a value are passed over; a task that has none gets no aim.
    """
    by_task: dict[str, list[tuple[float, str, int]]] = defaultdict(list)
    for episode in episodes:
        value = episode.returns.get(reward)
        if value is not None:
            by_task[episode.task].append((-value, episode.episode_id, episode.horizon))
    aims = {}
    for task, rows in sorted(by_task.items()):
        best = sorted(rows)[: max(1, round(share * len(rows)))]
        values = [-value for value, _, _ in best]
        aims[task] = Aim(fmean(values), pstdev(values), tuple(horizon for _, _, horizon in best))
    return aims


def make_wishes(
    inputs: Mapping[str, Sequence[tuple[str, str]]],
    aims: Mapping[str, Aim],
    space: CommandSpace,
    calibration: Calibration | None,
    options: RoundOptions,
    *,
    number: int,
) -> list[Wish]:
    """Return what round ``number`` writes: ``samples`` completions for ``num_inputs`` of each task's ``inputs``.

    inputs: by task, pairs of id and text; which are taken, and every command, is a hash of the seed and the round.
    ahead: return uniform in [mean, mean + deviation] of the aim, the horizon of one of its episodes (Srivastava et al.
    2019, section 2.2, take the horizons' mean, which would narrow the lengths); best_bin: the reward's highest bin with
    all else open (Quark, 2205.13636); random: any position of every attribute.
    """
    wishes = []
    for task in sorted(set(inputs) & set(aims)):
        drawn = sorted(set(inputs[task]), key=lambda one: hash_int(options.seed, number, "input", task, one[0]))
        for identity, text in drawn[: options.num_inputs]:
            for sample in range(options.samples):
                key = (options.seed, number, task, identity, sample)
                kind, targets, positions = _command(key, task, aims[task], space, calibration, options)
                seed = hash_int("explore", *key, bits=31)
                wishes.append(Wish(task, identity, text, sample, kind, targets, positions, seed))
    return wishes


def _command(
    key: tuple[object, ...],
    task: str,
    aim: Aim,
    space: CommandSpace,
    calibration: Calibration | None,
    options: RoundOptions,
) -> tuple[Kind, dict[str, float], dict[str, float]]:
    draw = hash_unit("kind", *key)
    if draw < options.random:
        return "random", {}, {a.name: hash_unit(a.name, *key) * (space.bins - 1) for a in space.attributes}
    if draw < options.random + options.best_bin:
        return "best_bin", {}, {options.reward: space.bins - 1.0}
    declared = {a.name: a for a in space.attributes}
    wanted = {
        options.reward: aim.mean + hash_unit("return", *key) * aim.deviation,
        LENGTH: float(aim.horizons[hash_int("horizon", *key) % len(aim.horizons)]),
    }
    targets = {name: min(max(value, declared[name].low), declared[name].high) for name, value in wanted.items()}
    positions = positions_of(Command(task, targets), space, calibration).of  # beyond what is reached is where it goes
    return "ahead", targets, {name: position for name, position in positions.items() if position is not None}


def write_wishes(path: Path, wishes: Sequence[Wish], about: Mapping[str, Any]) -> None:
    """Write the plan of a round, ``about`` first, atomically."""
    lines = [json.dumps(about), *(json.dumps(asdict(wish), ensure_ascii=False) for wish in wishes)]
    atomic_write(path, "\n".join(lines) + "\n")


def read_wishes(path: Path) -> tuple[dict[str, Any], list[Wish]]:
    """Return what `write_wishes` wrote; raises RunError where the file is damaged."""
    with damaged(RunError, path, _ADVICE):
        lines = path.read_text(encoding="utf-8").split("\n")  # an input may hold what splitlines() also splits at
        about, *rows = (expect(json.loads(line), dict, "a line") for line in lines if line)
        expect(about["options"], dict, "options")
        expect(about["parent"], int, "parent")
    return about, [typed(Wish, row, f"{path}, line {number}") for number, row in enumerate(rows, start=2)]


def explore(student: Student, wishes: Sequence[Wish], folder: Path, *, temperature: float) -> list[Written]:
    """Return the completions of ``wishes``; each CHUNK of them is a file in ``folder``, and none is written twice.

    The student's own sampling holds but for the temperature. Chunks are always generated whole, so that an interrupted
    exploration ends as one that was not.
    """
    folder.mkdir(exist_ok=True)
    sampling = replace(student.sampling, temperature=temperature)
    bar = track("explore", total=len(wishes), unit="completions")
    written: list[Written] = []
    for start in range(0, len(wishes), CHUNK):
        part = wishes[start : start + CHUNK]
        file = folder / f"{start // CHUNK:05d}.json"
        if not file.exists():
            made = student.generate_ids(
                [wish.input for wish in part],
                [student.space.render(wish.task, dict(wish.positions)) for wish in part],
                seeds=[wish.seed for wish in part],
                sampling=sampling,
            )
            rows = [[one.completion, one.finish_reason] for one in made]
            atomic_write(file, json.dumps(rows, ensure_ascii=False, indent=0))
        with damaged(RunError, file, _ADVICE):
            rows = typed(tuple[tuple[str, str], ...], json.loads(file.read_text(encoding="utf-8")), str(file))
        if len(rows) != len(part):
            raise RunError(f"{file} holds {len(rows)} completions for {len(part)}: start the round anew with --restart")
        written += [Written(*row) for row in rows]
        bar.update(len(part))
    bar.close()
    return written

"""Measures a trained student on validation inputs: the sweep behind its calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from udrl.commands import LENGTH
from udrl.errors import StudentError, is_out_of_memory
from udrl.rewards.protocol import known_inputs
from udrl.student.calibration import Calibration, Curve, length_knots, sweep_positions
from udrl.student.student import Student
from udrl.words import count_words

Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""A reward as a plain function of inputs and completions."""
BATCH = 256
"""Completions at once; where the memory does not suffice for them, a quarter, and so on."""
T = TypeVar("T")


def with_less_at_once(write: Callable[[int], T], batch: int = BATCH) -> T:
    """Return ``write(batch)``, with a quarter of the batch where memory does not suffice, and so on down to 1.

    What is written must not depend on how much of it is written at once.
    """
    while True:
        try:
            return write(batch)
        except Exception as error:
            if not is_out_of_memory(error) or batch == 1:
                raise
            batch = max(1, batch // 4)


@dataclass(frozen=True)
class _Cell:
    """One commanded point: all inputs of ``task`` under these positions; a missing attribute is open."""

    task: str
    attribute: str
    positions: tuple[tuple[str, float], ...]


def calibrate(
    student: Student,
    inputs: Mapping[str, Sequence[str]],
    rewards: Mapping[str, Score],
    *,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Callable[[int], object] | None = None,
) -> Calibration:
    """Sweep every bin of every attribute over ``inputs`` (by task) and fit achieved against commanded.

    rewards: those that can be computed for new completions; an attribute without one, other than length, gets no
    curve, and none in a task of whose inputs the reward knows none. A reward is swept with length open and at three
    commanded lengths.
    """
    if not any(inputs.values()):
        raise StudentError("calibration needs validation inputs: synthesize more inputs (udrl synth --num-inputs)")
    cells = [cell for task in student.tasks if inputs.get(task) for cell in _cells(student, task, rewards)]
    known = {
        (task, name): known_inputs(rewards.get(name), texts)
        for task, texts in inputs.items()
        for name in student.attributes
    }
    flat = [(cell, text) for cell in cells for text in known[cell.task, cell.attribute]]
    controls = {cell: student.space.render(cell.task, dict(cell.positions)) for cell in cells}
    written = student.generate_ids(
        [text for _, text in flat],
        [controls[cell] for cell, _ in flat],
        seeds=seed,
        batch_size=batch_size,
        progress=progress,
    )
    lengths = [float(count_words(g.completion)) for g in written]
    achieved: dict[str, list[float]] = {LENGTH: lengths}
    for name, reward in rewards.items():
        rows = [i for i, (cell, _) in enumerate(flat) if cell.attribute == name]
        values = reward([flat[i][1] for i in rows], [written[i].completion for i in rows])
        achieved[name] = [float("nan")] * len(flat)
        for i, value in zip(rows, values, strict=True):
            achieved[name][i] = float(value)
    curves: dict[str, dict[str, list[Curve]]] = {}
    knots: dict[tuple[str, str, float | None], list[int]] = {}
    for index, (cell, _) in enumerate(flat):
        given = dict(cell.positions).get(LENGTH) if cell.attribute != LENGTH else None
        knots.setdefault((cell.task, cell.attribute, given), []).append(index)
    for (task, attribute, given), rows in knots.items():
        curve = Curve.fit(
            [dict(flat[i][0].positions)[attribute] for i in rows],
            [achieved[attribute][i] for i in rows],
            length=sum(lengths[i] for i in rows) / len(rows),
            length_position=given,
        )
        curves.setdefault(task, {}).setdefault(attribute, []).append(curve)
    frozen = {task: {name: tuple(cs) for name, cs in of.items()} for task, of in curves.items()}
    return Calibration(frozen, asdict(student.sampling), max(map(len, inputs.values())))


def _cells(student: Student, task: str, rewards: Mapping[str, Score]) -> list[_Cell]:
    cells = []
    for name in student.attributes:
        if name != LENGTH and name not in rewards:
            continue
        for position in sweep_positions(student.space):
            cells.append(_Cell(task, name, ((name, position),)))
            if name != LENGTH:
                cells += [_Cell(task, name, ((name, position), (LENGTH, k))) for k in length_knots(student.space)]
    return cells

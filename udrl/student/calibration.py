"""Calibration: which command achieves which value, measured on validation inputs after training.

A command asks for a position in the training distribution; what the student achieves there is another matter. After
training, positions are swept, the completions scored, and achieved values fitted against positions with an isotonic
regression per task and attribute, rewards *given* length, since the two are not independent. A target is then turned
into the position that achieves it, and clamped, with a warning, to what the student reaches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from udrl.commands import LENGTH, CommandSpace
from udrl.errors import StudentError
from udrl.files import atomic_write

SCHEMA = 1
FILE = "calibration.json"


@dataclass(frozen=True)
class Curve:
    """Mean achieved value at each commanded position, monotone; ``raw`` keeps the means before the fit.

    length: the mean achieved length in words of these completions; length_position: the length position that was
    commanded with them (None: open).
    """

    positions: tuple[float, ...]
    achieved: tuple[float, ...]
    raw: tuple[float, ...]
    length: float
    length_position: float | None = None

    @staticmethod
    def fit(
        positions: Sequence[float],
        achieved: Sequence[float],
        *,
        length: float,
        length_position: float | None = None,
    ) -> Curve:
        """Fit a non-decreasing curve to single samples (position, achieved)."""
        from sklearn.isotonic import IsotonicRegression

        grid = np.unique(np.asarray(positions, dtype=float))
        values = np.asarray(achieved, dtype=float)
        raw = [float(values[np.asarray(positions) == g].mean()) for g in grid]
        counts = [int((np.asarray(positions) == g).sum()) for g in grid]
        smooth = IsotonicRegression().fit(grid, raw, sample_weight=counts).predict(grid)
        return Curve(tuple(map(float, grid)), tuple(map(float, smooth)), tuple(raw), float(length), length_position)

    @property
    def reachable(self) -> tuple[float, float]:
        """Lowest and highest mean that some position achieves."""
        return self.achieved[0], self.achieved[-1]

    def position(self, target: float) -> float:
        """Return the position whose mean is ``target``, clamped to the ends; the middle of a flat stretch."""
        low, high = self.reachable
        target = min(max(target, low), high)
        left = np.interp(target, _strict(self.achieved, 1e-9), self.positions)
        right = np.interp(target, _strict(self.achieved, -1e-9), self.positions)
        return float((left + right) / 2)


def _strict(values: Sequence[float], nudge: float) -> npt.NDArray[np.float64]:
    """Make a non-decreasing sequence strictly increasing: ties resolve to their last (nudge < 0: first) element."""
    steps = np.arange(len(values)) * abs(nudge)
    return np.asarray(values, dtype=np.float64) + (steps if nudge > 0 else steps - steps[-1])


@dataclass(frozen=True)
class Calibration:
    """Curves by task and attribute. The first curve of an attribute has length open, the others have it commanded.

    sampling: the settings that the curves were measured with, which are those that the student ships with;
    inputs: validation inputs a task.
    """

    curves: Mapping[str, Mapping[str, tuple[Curve, ...]]]
    sampling: Mapping[str, Any]
    inputs: int

    def curve(self, task: str, attribute: str, length: float | None = None) -> Curve | None:
        """Return the curve of ``attribute``, at an achieved length of ``length`` words where that is given.

        Between the lengths that were measured, curves are interpolated. None where nothing was measured.
        """
        curves = self.curves.get(task, {}).get(attribute)
        if not curves:
            return None
        given = sorted((c for c in curves if c.length_position is not None), key=lambda c: c.length)
        if length is None or attribute == LENGTH or not given:
            return curves[0]
        lengths = [c.length for c in given]
        position = float(np.interp(length, lengths, range(len(given))))
        low, high = given[int(position)], given[min(int(position) + 1, len(given) - 1)]
        share = position - int(position)

        def mix(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
            return tuple(x * (1 - share) + y * share for x, y in zip(a, b, strict=True))

        return Curve(low.positions, mix(low.achieved, high.achieved), mix(low.raw, high.raw), length)

    def save(self, folder: Path) -> None:
        """Write ``calibration.json`` into ``folder``."""
        data = {
            "schema": SCHEMA,
            "sampling": dict(self.sampling),
            "inputs": self.inputs,
            "curves": {t: {a: [asdict(c) for c in cs] for a, cs in of.items()} for t, of in self.curves.items()},
        }
        atomic_write(folder / FILE, json.dumps(data, indent=1))

    @staticmethod
    def load(folder: Path) -> Calibration | None:
        """Read a student's calibration; None where it has none. Raises StudentError for a newer schema."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema"] != SCHEMA:
                raise StudentError(f"{path} has schema {data['schema']}, this version reads {SCHEMA}: update udrl")
            curves = {
                task: {name: tuple(_curve(c) for c in cs) for name, cs in of.items()}
                for task, of in data["curves"].items()
            }
            return Calibration(curves, data["sampling"], data["inputs"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudentError(f"{path} is damaged ({error}): delete it and run udrl calibrate") from None


def _curve(data: Mapping[str, Any]) -> Curve:
    sequences = {name: tuple(data[name]) for name in ("positions", "achieved", "raw")}
    if len({len(values) for values in sequences.values()}) > 1:
        raise ValueError("a curve's values are not as many as its positions")
    return Curve(**sequences, length=data["length"], length_position=data["length_position"])


def sweep_positions(space: CommandSpace) -> list[float]:
    """Positions that calibration measures: every bin."""
    return [float(k) for k in range(space.bins)]


def length_knots(space: CommandSpace) -> list[float]:
    """Length positions at which rewards are measured given length: short, middle, long."""
    return [0.0, (space.bins - 1) / 2, space.bins - 1.0]

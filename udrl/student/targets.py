"""What is asked for, as positions of the command space: the positions that achieve it, as far as calibration knows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from udrl.commands import LENGTH, Command, CommandSpace
from udrl.student.calibration import Calibration


@dataclass(frozen=True)
class Clamped:
    """A target that cannot be reached: the nearest value of the range ``reachable`` is commanded instead."""

    asked: float
    reachable: tuple[float, float]


@dataclass(frozen=True)
class Positions:
    """What a command becomes. of: positions by attribute (None: open); clamped: the targets beyond what is reachable.

    Nearest values of discrete attributes are commanded as they are, and are not clamped.
    """

    of: Mapping[str, float | None]
    clamped: Mapping[str, Clamped]


def positions_of(command: Command, space: CommandSpace, calibration: Calibration | None) -> Positions:
    """Turn a command's targets into positions; without calibration, into those of the training episodes.

    A target beyond what calibration found reachable, or beyond the training episodes where nothing was measured, is
    clamped; of a discrete attribute the nearest value is commanded as it is. Raises UsageError for unknown tasks and
    attributes and for targets out of range.
    """
    space.check(command)
    length = command.targets.get(LENGTH)
    positions: dict[str, float | None] = {}
    clamped: dict[str, Clamped] = {}
    for name, target in command.targets.items():
        scale = space.scales[command.task][name]
        if scale.is_discrete:  # right or wrong: a mean between is reached by no command, so there is nothing to invert
            positions[name] = scale.settled(scale.position(target))
            continue
        curve = calibration.curve(command.task, name, length if name != LENGTH else None) if calibration else None
        positions[name] = scale.position(target) if curve is None else curve.position(target)
        low, high = (scale.quantiles[0], scale.quantiles[-1]) if curve is None else curve.reachable
        slack = 0.02 * (high - low) + 1e-9
        if not low - slack <= target <= high + slack:
            clamped[name] = Clamped(float(target), (float(low), float(high)))
    return Positions(positions, clamped)


def warn_clamped(command: Command, clamped: Mapping[str, Clamped], calibration: Calibration | None) -> None:
    """Warn of every target of ``command`` that was clamped, with the range that can be reached."""
    length = command.targets.get(LENGTH)
    for name, one in clamped.items():
        if calibration is None or calibration.curve(command.task, name) is None:
            beyond = f"what this student was trained on in task '{command.task}'"
        else:
            where = f" at {length:g} words" if length is not None and name != LENGTH else ""
            beyond = f"what this student reaches on task '{command.task}'{where}"
        low, high = one.reachable
        warnings.warn(
            f"target {name}={one.asked:g} is beyond {beyond}, {low:.2f} to {high:.2f}: the nearest is asked for",
            stacklevel=4,
        )

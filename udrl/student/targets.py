"""What is asked for, as positions of the command space: the positions that achieve it, as far as calibration knows."""

from __future__ import annotations

import warnings

from udrl.commands import LENGTH, Command, CommandSpace
from udrl.student.calibration import Calibration


def positions_of(command: Command, space: CommandSpace, calibration: Calibration | None) -> dict[str, float | None]:
    """Turn a command's targets into positions; without calibration, into those of the training episodes.

    A target beyond what calibration found reachable, or beyond the training episodes where nothing was measured, is
    clamped, with a warning that names the range; of a discrete attribute the nearest value is commanded as it is.
    Raises UsageError for unknown tasks and attributes and for targets out of range.
    """
    space.check(command)
    length = command.targets.get(LENGTH)
    result: dict[str, float | None] = {}
    for name, target in command.targets.items():
        scale = space.scales[command.task][name]
        if scale.is_discrete:  # right or wrong: a mean between is reached by no command, so there is nothing to invert
            result[name] = scale.settled(scale.position(target))
            continue
        given = length if name != LENGTH else None
        curve = calibration.curve(command.task, name, given) if calibration else None
        if curve is None:
            result[name] = scale.position(target)
            low, high = scale.quantiles[0], scale.quantiles[-1]
            beyond = f"what this student was trained on in task '{command.task}'"
        else:
            result[name] = curve.position(target)
            low, high = curve.reachable
            where = f" at {length:g} words" if given is not None else ""
            beyond = f"what this student reaches on task '{command.task}'{where}"
        slack = 0.02 * (high - low) + 1e-9
        if not low - slack <= target <= high + slack:
            warnings.warn(
                f"target {name}={target:g} is beyond {beyond}, {low:.2f} to {high:.2f}: the nearest is asked for",
                stacklevel=4,
            )
    return result

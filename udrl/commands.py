"""Commands and the command space: the one place where control tokens exist.

A command is rendered as plain token ids, right before the completion::

    input ids   <task> <attribute 1> <attribute 2> ...   completion ids   <end>

The ids of the command lie *above* the saved tokenizer's vocabulary: no text, typed by whomever, can encode to them.
The training sequence and the generation prompt come from the same function (`CommandSpace.prompt`), so that they
cannot drift apart.

Each attribute of each task has about ten quantile bins. A value is a *position*: 0 stands for the median of the
lowest bin, ``bins - 1`` for that of the highest, and values between are interpolated. The student learns one embedding
row a bin (`base` rows); what a value between two bins means is the interpolation of its neighbours' rows, in training
as in use. What is saved is the `fine` table, ``FINE`` rows a bin, so that every engine sees plain ids.

With the plain-text rendering (`udrl.text_commands`), the same positions become ordinary words of the tokenizer instead:
there are no control ids, and a prompt can be written by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from udrl.errors import StudentError, UsageError, expect, unknown
from udrl.text_commands import TextCommands

SCHEMA = 1
SCHEMA_TEXT = 2
"""Schema of a space whose commands are rendered as text: versions that know control ids only refuse it."""
FILE = "command_space.json"
FINE = 8
"""Saved rows a bin: a value is rendered to the nearest eighth of a bin."""
BINS = 10
FEW = 5
"""An attribute with so few different values (right or wrong) has a bin of its own for each of them."""
MIN_PER_BIN = 50
MIN_PER_TASK = 100
LENGTH = "length"
"""The attribute whose achieved value is the horizon: the completion's length in words."""
AUTO: Literal["auto"] = "auto"
"""Instead of a value: the highest one that the student reaches, see `Student.commanded`."""
Target = float | Literal["auto"]
_QUANTILES = tuple(round(0.05 * k, 2) for k in range(21))


@dataclass(frozen=True)
class Command:
    """What is asked for: a task and, for some or all attributes, the desired value. A missing attribute is open."""

    task: str
    targets: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Attribute:
    """What a command can set: a reward by its name, or ``length``; values lie in [low, high], ``unit`` for people."""

    name: str
    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True)
class Scale:
    """How one task's values of one attribute map to positions.

    centres: medians of the bins, strictly increasing; positions: where each stands on 0 .. bins - 1 (ties merge bins,
    so there may be fewer centres than bins); quantiles: the training values' 0, 5, ... 100 % quantiles.
    """

    centres: tuple[float, ...]
    positions: tuple[float, ...]
    quantiles: tuple[float, ...]

    @staticmethod
    def fit(values: Sequence[float], bins: int = BINS, min_per_bin: int = MIN_PER_BIN) -> Scale:
        """Fit about ``bins`` quantile bins of at least ``min_per_bin`` values each; equal values share a bin.

        Where there are only two to FEW different values, each of them has its own, however rare.
        """
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        quantiles = tuple(float(q) for q in np.quantile(ordered, _QUANTILES))
        different, counts = np.unique(ordered, return_counts=True)
        if 1 < len(different) <= FEW:
            middles = (np.cumsum(counts) - counts / 2) / len(ordered)
            positions = np.clip(bins * middles - 0.5, 0, bins - 1)
            # the rare ones, too, a bin apart
            rungs = np.arange(len(positions)) * min(1.0, (bins - 1) / (len(positions) - 1))
            positions = np.minimum(np.maximum.accumulate(positions - rungs), bins - 1 - rungs[-1]) + rungs
            return Scale(tuple(map(float, different)), tuple(map(float, positions)), quantiles)
        count = max(1, min(bins, len(ordered) // min_per_bin))
        merged: dict[float, list[float]] = {}
        for k in range(count):
            part = ordered[(len(ordered) * k) // count : (len(ordered) * (k + 1)) // count]
            # the middle of the k-th of `count` bins, on the scale of the full number of bins
            merged.setdefault(float(np.median(part)), []).append(bins * (k + 0.5) / count - 0.5)
        return Scale(
            centres=tuple(merged),
            positions=tuple(float(np.clip(np.mean(p), 0, bins - 1)) for p in merged.values()),
            quantiles=quantiles,
        )

    @cached_property
    def is_discrete(self) -> bool:
        """Whether the values are a few different ones with nothing between them, as right and wrong are."""
        between = sum(quantile not in self.centres for quantile in self.quantiles)
        return 1 < len(self.centres) <= FEW and between < len(self.centres)

    def settled(self, position: float) -> float:
        """Return the nearest position that was trained, where the values are discrete; else ``position`` itself."""
        return min(self.positions, key=lambda trained: abs(trained - position)) if self.is_discrete else position

    def position(self, value: float) -> float:
        """Return the position of ``value``, clamped to the lowest and highest centre."""
        return float(np.interp(value, self.centres, self.positions))

    def value(self, position: float) -> float:
        """Return the value that stands at ``position``: the inverse of `position` between the outer centres."""
        return float(np.interp(position, self.positions, self.centres))


@dataclass(frozen=True)
class CommandSpace:
    """Which tasks and attributes a student can be commanded in, and how a command becomes token ids.

    base: the first control id, equal to the number of ids that the tokenizer can produce. text: the pieces of the
    plain-text rendering, or None where commands are control ids. Saved with the student; bins are never refitted
    silently.
    """

    base: int
    tasks: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    scales: Mapping[str, Mapping[str, Scale]]
    bins: int = BINS
    text: TextCommands | None = None

    @staticmethod
    def fit(
        base: int,
        attributes: Sequence[Attribute],
        values: Mapping[str, Mapping[str, Sequence[float]]],
        *,
        bins: int = BINS,
    ) -> CommandSpace:
        """Fit the bins to the achieved values of training episodes, ``values[task][attribute]``.

        A task with fewer than MIN_PER_TASK values of an attribute uses the bins of all tasks together. Raises
        StudentError where an attribute has no value at all.
        """
        scales: dict[str, dict[str, Scale]] = {task: {} for task in values}
        for attribute in attributes:
            pooled = [v for task in values for v in values[task].get(attribute.name, ())]
            if not pooled:
                raise StudentError(
                    f"no training episode has a value for '{attribute.name}': score the run with it first (udrl score)"
                )
            for task in values:
                achieved = values[task].get(attribute.name, ())
                scales[task][attribute.name] = Scale.fit(achieved if len(achieved) >= MIN_PER_TASK else pooled, bins)
        return CommandSpace(base, tuple(sorted(values)), tuple(attributes), scales, bins)

    def extended(
        self,
        attributes: Sequence[Attribute],
        values: Mapping[str, Mapping[str, Sequence[float]]],
        *,
        refit: Sequence[str] = (),
    ) -> CommandSpace:
        """Return this space with the tasks and attributes of further episodes, for `udrl train --from`.

        What is known keeps its order and its bins; only a declared range widens where the other one is wider. What is
        new comes after it, with bins fitted to ``values[task][attribute]`` as `fit` does. A new task without any value
        of a known attribute gets the bins of all known tasks together.

        refit: known attributes whose bins are fitted to ``values`` anew in every task that has enough of them. Rows
        belong to positions, so that training on moves what they mean (as Quark does, arXiv 2205.13636).
        """
        declared = {a.name: a for a in attributes}
        names = {a.name for a in self.attributes}
        kept = [
            replace(a, low=min(a.low, new.low), high=max(a.high, new.high)) if (new := declared.get(a.name)) else a
            for a in self.attributes
        ]
        every = (*kept, *(a for a in attributes if a.name not in names))
        tasks = (*self.tasks, *sorted(set(values) - set(self.tasks)))
        scales: dict[str, dict[str, Scale]] = {task: dict(self.scales.get(task, {})) for task in tasks}
        for attribute in every:
            name = attribute.name
            pooled = [v for of_task in values.values() for v in of_task.get(name, ())] or self._spread(name)
            for task in tasks:
                achieved = values.get(task, {}).get(name, ())
                if name not in scales[task] or (name in refit and len(achieved) >= MIN_PER_TASK):
                    scales[task][name] = Scale.fit(achieved if len(achieved) >= MIN_PER_TASK else pooled, self.bins)
        return replace(self, tasks=tasks, attributes=every, scales=scales, text=None)

    def _spread(self, attribute: str) -> list[float]:
        """Return values spread as those that the bins of all tasks were fitted to."""
        shares = np.linspace(0, 1, self.bins * MIN_PER_BIN)
        spread = [np.interp(shares, _QUANTILES, of_task[attribute].quantiles) for of_task in self.scales.values()]
        return [float(v) for v in np.concatenate(spread)]

    # -- rows and ids ------------------------------------------------------------------------------------------------

    @property
    def fine_rows(self) -> int:
        """Rows of one attribute in the saved table, without its open row."""
        return (self.bins - 1) * FINE + 1

    @property
    def size(self) -> int:
        """Number of control ids; 0 where commands are text."""
        if self.text is not None:
            return 0
        return len(self.tasks) + len(self.attributes) * (1 + self.fine_rows)

    @property
    def base_size(self) -> int:
        """Number of rows that are learned: one a task, and one a bin and one 'open' an attribute; 0 for text."""
        if self.text is not None:
            return 0
        return len(self.tasks) + len(self.attributes) * (1 + self.bins)

    @property
    def prompt_size(self) -> int:
        """Number of ids of a command; the most that there can be where commands are text."""
        if self.text is not None:
            return self.text.longest
        return 1 + len(self.attributes)

    def mixing(self) -> tuple[list[int], list[int], list[float]]:
        """Return, for each control id in order, the two base rows that it mixes and the share of the second."""
        if self.text is not None:
            return [], [], []
        low = list(range(len(self.tasks)))
        high, share = list(low), [0.0] * len(low)
        for index in range(len(self.attributes)):
            start = len(self.tasks) + index * (1 + self.bins)
            low, high, share = [*low, start], [*high, start], [*share, 0.0]
            for k in range(self.fine_rows):
                low.append(start + 1 + k // FINE)
                high.append(start + 1 + min(k // FINE + 1, self.bins - 1))
                share.append(k % FINE / FINE)
        return low, high, share

    def task_id(self, task: str) -> int:
        """Return the control id of ``task``; raises UsageError listing the tasks that this student knows."""
        if task not in self.tasks:
            raise unknown("task", task, self.tasks)
        return self.base + self.tasks.index(task)

    def level_id(self, attribute: str, position: float | None) -> int:
        """Return the control id of ``attribute`` at ``position`` (0 .. bins - 1), or of 'open' for None."""
        start = self.base + len(self.tasks) + self._index(attribute) * (1 + self.fine_rows)
        if position is None:
            return start
        return start + 1 + round(min(max(position, 0.0), self.bins - 1.0) * FINE)

    def _index(self, attribute: str) -> int:
        names = [a.name for a in self.attributes]
        if not names:
            raise UsageError(
                f"this student takes no commands, '{attribute}' among them: leave targets out, or train one that does "
                "(udrl train --method udrl)"
            )
        if attribute not in names:
            raise unknown("attribute", attribute, names)
        return names.index(attribute)

    # -- rendering ---------------------------------------------------------------------------------------------------

    def render(self, task: str, positions: Mapping[str, float | None]) -> list[int]:
        """Render a task and the attributes' positions (missing or None: open) to the ids that end a prompt.

        Between the values of a discrete attribute no row was trained: the nearest one is taken.
        """
        first = self.task_id(task)
        positions = self._settled(task, positions)
        if self.text is not None:
            return self.text.render(task, positions)
        return [first, *(self.level_id(a.name, positions.get(a.name)) for a in self.attributes)]

    def _settled(self, task: str, positions: Mapping[str, float | None]) -> dict[str, float | None]:
        scales = self.scales[task]
        return {
            name: scales[name].settled(position) if position is not None and name in scales else position
            for name, position in positions.items()
        }

    def task_of(self, control_ids: Sequence[int]) -> str:
        """Return the task of a command that `render` rendered."""
        if self.text is not None:
            return self.text.task_of(control_ids)
        return self.tasks[control_ids[0] - self.base]

    def shown(self, task: str, positions: Mapping[str, float | None]) -> str:
        """Return what `render` renders, for people: the text itself where commands are text."""
        positions = self._settled(task, positions)
        if self.text is not None:
            return self.text.text(task, positions)
        levels = {a.name: positions.get(a.name) for a in self.attributes}
        return f"<task={task}>" + "".join(
            f"<{name}={'any' if position is None else format(position, '.2f')}>" for name, position in levels.items()
        )

    def prompt(self, input_ids: Sequence[int], control_ids: Sequence[int]) -> list[int]:
        """Return the prompt: what a training sequence starts with and what generation continues."""
        return [*input_ids, *control_ids]

    def positions(self, task: str, achieved: Mapping[str, float | None]) -> dict[str, float]:
        """Return the positions of achieved values, for training: an attribute without a value stays open."""
        scales = self.scales[task]
        return {
            a.name: scales[a.name].position(value)
            for a in self.attributes
            if (value := achieved.get(a.name)) is not None and math.isfinite(value)
        }

    def check(self, command: Command) -> None:
        """Raise UsageError for an unknown task or attribute, or a target outside its declared range."""
        self.task_id(command.task)
        for name, target in command.targets.items():
            attribute = self.attributes[self._index(name)]
            if isinstance(target, bool) or not isinstance(target, int | float | np.integer | np.floating):
                raise UsageError(f"target {name} must be a number, got {target!r}")
            if not (math.isfinite(target) and attribute.low <= target <= attribute.high):
                raise UsageError(
                    f"target {name}={target:g} is outside its range [{attribute.low:g}, {attribute.high:g}]"
                    + (f" {attribute.unit}" if attribute.unit else "")
                )

    def quantile(self, task: str, attribute: str, q: float) -> float:
        """Return the value below which a share ``q`` of the task's training episodes lie."""
        self.task_id(task), self._index(attribute)
        return float(np.interp(q, _QUANTILES, self.scales[task][attribute].quantiles))

    def deciles(self, task: str, attribute: str) -> list[float]:
        """Return the nine training deciles, 10 % to 90 %: the levels of every command-following figure."""
        return [self.quantile(task, attribute, k / 10) for k in range(1, 10)]

    # -- files -------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the space as plain JSON data."""
        text = {} if self.text is None else {"rendering": "text", "text": self.text.to_json()}
        return {
            "schema": SCHEMA_TEXT if text else SCHEMA,
            "base": self.base,
            "bins": self.bins,
            "fine": FINE,
            "tasks": list(self.tasks),
            "attributes": [asdict(a) for a in self.attributes],
            "scales": {task: {name: asdict(s) for name, s in scales.items()} for task, scales in self.scales.items()},
            **text,
        }

    def save(self, folder: Path) -> None:
        """Write ``command_space.json`` into ``folder``."""
        (folder / FILE).write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> CommandSpace:
        """Read the space of a student; raises StudentError where there is none, or one of a newer schema."""
        path = folder / FILE
        try:
            data = expect(json.loads(path.read_text(encoding="utf-8")), dict, FILE)
        except FileNotFoundError:
            raise StudentError(
                f"{folder} has no {FILE}: it is not a student of udrl; train one with udrl train"
            ) from None
        except ValueError as error:
            raise StudentError(f"{path} is damaged ({error}): restore it or train again") from None
        if data.get("schema") not in (SCHEMA, SCHEMA_TEXT) or data.get("fine") != FINE:
            raise StudentError(
                f"{path} has schema {data.get('schema')} with {data.get('fine')} rows a bin, this version reads "
                f"{SCHEMA} and {SCHEMA_TEXT} with {FINE}: use the version of udrl that wrote it (see the model card)"
            )
        try:
            scales = {
                task: {name: Scale(**{k: tuple(map(float, v)) for k, v in s.items()}) for name, s in of_task.items()}
                for task, of_task in data["scales"].items()
            }
            attributes = tuple(
                Attribute(expect(a.pop("name"), str, "name"), float(a.pop("low")), float(a.pop("high")), **a)
                for a in data["attributes"]
            )
            text = TextCommands.from_json(data["text"]) if data["schema"] == SCHEMA_TEXT else None
            return CommandSpace(data["base"], tuple(data["tasks"]), attributes, scales, data["bins"], text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudentError(f"{path} is damaged ({error}): restore it or train again") from None

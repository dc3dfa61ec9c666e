"""How good a round's student is, on validation inputs, by the benchmark's definitions and functions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from udrl.commands import LENGTH, CommandSpace
from udrl.data.episode import Episode
from udrl.data.facts_json import typed
from udrl.encoder import Encoder
from udrl.errors import RunError, StudentError, damaged
from udrl.eval.completions import Completion, SystemFacts
from udrl.eval.figures import DIVERSITY, System, items_of, systems_of
from udrl.eval.following import first_items, sweep_wishes
from udrl.eval.matched_length import mean_lengths, settled_targets
from udrl.eval.scores import Scores, score
from udrl.eval.suites import Item, Sweep
from udrl.eval.systems import RELEVANCE, answer, wish
from udrl.files import atomic_write
from udrl.metrics import Interval, mean_interval, spearman_within
from udrl.progress import track
from udrl.rewards.protocol import Reward, covered
from udrl.student.student import Student

SAMPLES = 3
"""Completions of an input under ``student@top`` and ``student@matched``, as in the benchmark's suites."""
TOP, MATCHED, FOLLOWING = "top", "matched", "following"
PLAIN = ("copy_rate", "novelty", "length")
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Measured:
    """Figures of one student by item, from which intervals and comparisons between rounds are made.

    values: figure -> ``TASK/INPUT_ID`` -> value. ``top`` and ``matched`` are the explored return under the highest
    reachable command and under that at the teacher's mean length; ``matched_length``, ``copy_rate``, ``novelty`` and
    ``length`` (of top), ``spearman/ATTRIBUTE``, and ``distinct_2/within``, ``pairwise_distance/within`` are per input;
    ``distinct_2`` and ``pairwise_distance`` are of groups of ten inputs' completions (``TASK/GROUP/SAMPLE``) under top.
    """

    values: Values

    def interval(self, name: str) -> Interval:
        """Return the mean of a figure with its 95 % interval, clustered by input (or group)."""
        rows = self.values[name]
        return mean_interval(list(rows.values()), [_cluster(name, key) for key in rows])

    def gain(self, other: Measured, name: str) -> Interval:
        """Return by how much a figure is higher here than in ``other``, paired; items of both are compared."""
        keys = [key for key in self.values[name] if key in other.values[name]]
        moved = [self.values[name][key] - other.values[name][key] for key in keys]
        return mean_interval(moved, [_cluster(name, key) for key in keys])

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        atomic_write(path, json.dumps({"schema": 1, "values": self.values}))

    @staticmethod
    def load(path: Path) -> Measured:
        """Read what `save` wrote; raises RunError where it cannot be read."""
        with damaged(RunError, path, "restore it, or start the rounds anew"):
            values = json.loads(path.read_text(encoding="utf-8"))["values"]
        return Measured(typed(Values, values, f"{path}: values"))


def judged_items(validation: Sequence[Episode], tasks: Collection[str], reward: Reward, count: int) -> list[Item]:
    """Return what rounds are judged on: of the first ``count`` inputs a task of ``validation``, those ``reward``
    knows."""
    items = first_items(list(dict.fromkeys(Item(e.task, e.input_id, e.input) for e in validation)), count)
    return [item for item in items if item.task in tasks and covered(reward, [item.input])[0]]


def measure(
    student: Student,
    validation: Sequence[Episode],
    rewards: Mapping[str, Reward],
    encoder: Encoder,
    *,
    reward: str,
    space: CommandSpace,
    inputs: int,
    sweep_inputs: int,
    seed: int,
) -> Measured:
    """Let ``student`` write for the first ``inputs`` validation inputs of each task of ``validation``, and measure it.

    rewards: those of its attributes that can be computed, ``reward`` among them; encoder: of distances between
    completions; space: whose deciles are commanded to see whether they are followed. Every round is given the same
    inputs, levels and random streams. Raises StudentError without inputs.
    """
    items = judged_items(validation, student.tasks, rewards[reward], inputs)
    if not items:
        raise StudentError(
            "the rounds are judged on validation inputs, and the run has none: synthesize more inputs "
            "(udrl synth --num-inputs)"
        )
    wanted = _comparisons(student, items, validation, reward, seed) + _sweeps(
        student, items, rewards, space, sweep_inputs, seed
    )
    bar = track("measure", total=len(wanted), unit="completions")
    rows = answer(student, wanted, bar=bar)
    bar.close()
    others = {name: one for name, one in rewards.items() if name != RELEVANCE}
    scores = score(rows, encoder=encoder, second=None, references=(), rewards=others)
    facts = [SystemFacts(name, "student") for name in (TOP, MATCHED)]
    systems = systems_of(scores, facts, items_of(scores))
    return Measured({**_compared(systems, items_of(scores), reward), **_followed(scores, rewards)})


def _comparisons(
    student: Student, items: Sequence[Item], validation: Sequence[Episode], reward: str, seed: int
) -> list[Completion]:
    teachers = [Completion("", "", "comparison", e.task, e.input_id, e.input, 0, 0, e.completion)
                for e in validation if e.origin == "teacher"]  # fmt: skip
    tasks = dict.fromkeys(item.task for item in items)
    lengths = {task: student.reachable(task, LENGTH)[0] for task in tasks}  # where no teacher wrote
    lengths |= {task: length for task, length in mean_lengths(teachers).items() if task in tasks}
    targets = {
        TOP: {task: {reward: student.reachable(task, reward)[1]} for task in tasks},
        MATCHED: settled_targets(student, items, lengths, seed=seed, reward=reward),
    }
    return [
        wish(name, name, item, sample, seed, targets=of_task[item.task])
        for name, of_task in targets.items()
        for item in items
        for sample in range(SAMPLES)
    ]


def _sweeps(
    student: Student,
    items: Sequence[Item],
    rewards: Mapping[str, Reward],
    space: CommandSpace,
    inputs: int,
    seed: int,
) -> list[Completion]:
    return [
        row
        for name in (*rewards, LENGTH)
        for row in sweep_wishes(
            student,
            [item for item in items if covered(rewards.get(name), [item.input])[0]],
            name,
            Sweep(inputs, 1),
            block=FOLLOWING,
            system=FOLLOWING,
            seed=seed,
            space=space,
        )
    ]


def _compared(systems: Mapping[str, System], items: Sequence[tuple[str, str]], reward: str) -> dict[str, Any]:
    column = RELEVANCE if reward == RELEVANCE else f"reward/{reward}"
    keys = ["/".join(item) for item in items]
    top, matched = systems[TOP], systems[MATCHED]
    columns = {
        TOP: top.per_item[column],
        MATCHED: matched.per_item[column],
        "matched_length": matched.per_item["length"],
        **{name: top.per_item[name] for name in PLAIN},
        **{f"{name}/within": top.per_item[name] for name in DIVERSITY},
    }
    compared: dict[str, Any] = {
        name: {key: float(value) for key, value in zip(keys, values, strict=True)} for name, values in columns.items()
    }
    for name in DIVERSITY:
        groups = top.groups[name] or {("", 0, 0): float(np.nanmean(top.per_item[name]))}
        compared[name] = {"/".join(map(str, group)): value for group, value in groups.items()}
    return compared


def _followed(scores: Scores, rewards: Mapping[str, Reward]) -> dict[str, Any]:
    followed: dict[str, Any] = {}
    for name in (*rewards, LENGTH):
        values = scores.columns[name] if name in (RELEVANCE, LENGTH) else scores.rewards[name]
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row, value in zip(scores.rows, values, strict=True):
            if row.part == FOLLOWING and row.attribute == name:
                points[f"{row.task}/{row.input_id}"].append((row.targets[name], float(value)))
        if points:  # none: a reward that knows none of these inputs
            followed[f"spearman/{name}"] = {
                key: spearman_within([x for x, _ in pairs], [y for _, y in pairs]) for key, pairs in points.items()
            }
    return followed


def _cluster(name: str, key: str) -> str:
    """The input, which several tasks may have; a group for what is measured in groups, all its samples together."""
    parts = key.split("/")
    return "/".join(parts[:2]) if name in DIVERSITY else parts[-1]

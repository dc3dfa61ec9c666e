"""What people prefer: their votes on pairs of completions whose writers they were not told.

The page of ``udrl bench --blind`` knows its pairs by keys alone. A key is a hash of both systems, in the order in which
they stood, of the input and of both texts, so that a vote can only be read against what was shown.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from udrl.bootstrap import bradley_terry, mean_intervals
from udrl.data.hashing import hash_hex, hash_int, hash_unit
from udrl.errors import InputError, RunError
from udrl.eval.completions import Block, Completion
from udrl.files import atomic_write

FILE = "votes.json"
SCHEMA = 1
POINTS = {1: 1.0, 2: 0.0, 0: 0.5}
"""What a choice gives the completion that stood first."""

Item = tuple[str, str, str]
"""(system, task, input_id)."""


@dataclass(frozen=True)
class BlindPair:
    """Two first completions of one input, as they are shown: ``systems`` and ``texts`` from first to second."""

    task: str
    input_id: str
    input: str
    systems: tuple[str, str]
    texts: tuple[str, str]

    @property
    def key(self) -> str:
        """What the page knows the pair by."""
        return hash_hex("vote", *self.systems, self.task, self.input_id, *self.texts)

    def turned(self) -> BlindPair:
        """Return the pair with its places swapped."""
        return BlindPair(self.task, self.input_id, self.input, self.systems[::-1], self.texts[::-1])


@dataclass(frozen=True)
class Vote:
    """One judgement. voter: number of its file; choice: 1 or 2, by where it stood, or 0: no difference."""

    voter: int
    pair: str
    choice: int


def pairs_of(blocks: Sequence[Block], systems: Iterable[str]) -> list[BlindPair]:
    """Return every two of ``systems`` beside each other for every input that both answered, but not two equal texts."""
    first: dict[str, dict[tuple[str, str], Completion]] = {name: {} for name in systems}
    for row in itertools.chain.from_iterable(block.rows for block in blocks):
        if row.system in first and row.part == "comparison" and row.completion:
            first[row.system].setdefault((row.task, row.input_id), row)
    return [
        BlindPair(row.task, row.input_id, row.input, (one, two), (row.completion or "", other.completion or ""))
        for one, two in itertools.combinations(first, 2)
        for item, row in first[one].items()
        if (other := first[two].get(item)) is not None and other.completion != row.completion
    ]


def shown(pairs: Sequence[BlindPair], *, seed: int, limit: int | None = None) -> list[BlindPair]:
    """Return ``pairs`` in the order, and each with the places, that ``seed`` decides; limit: inputs a task at most."""
    inputs: dict[str, dict[str, None]] = {}
    for pair in pairs:
        inputs.setdefault(pair.task, {})[pair.input_id] = None
    chosen = {
        (task, one)
        for task, ids in inputs.items()
        for one in sorted(ids, key=lambda one: hash_int(seed, "blind input", one))[:limit]
    }
    placed = [
        pair.turned() if hash_unit(seed, "blind place", pair.key) < 0.5 else pair
        for pair in pairs
        if (pair.task, pair.input_id) in chosen
    ]
    return sorted(placed, key=lambda pair: hash_int(seed, "blind order", pair.key))


def by_key(blocks: Sequence[Block]) -> dict[str, BlindPair]:
    """Return every pair that may have been voted on, in either order, by its key."""
    systems = [block.name for block in blocks if "#" not in block.name and block.facts.kind != "baseline"]
    pairs = pairs_of(blocks, systems)
    return {pair.key: pair for one in pairs for pair in (one, one.turned())}


def read_votes(files: Sequence[Path], pairs: Mapping[str, BlindPair], *, benchmark: str) -> list[Vote]:
    """Return the votes in ``files``, one file a person.

    Raises InputError, in one sentence with file and vote, for what the page of this ``benchmark`` cannot have exported.
    """
    votes: list[Vote] = []
    seen: dict[frozenset[tuple[str, int]], Path] = {}
    for voter, path in enumerate(files):
        of_file = list(_votes_of(path, voter, pairs, benchmark=benchmark))
        same = seen.setdefault(frozenset((vote.pair, vote.choice) for vote in of_file), path)
        if same is not path:
            raise InputError(f"{path} holds the same votes as {same}: name each person's file once")
        votes += of_file
    return votes


def _votes_of(path: Path, voter: int, pairs: Mapping[str, BlindPair], *, benchmark: str) -> Iterator[Vote]:
    judged: dict[frozenset[str], int] = {}
    for number, entry in enumerate(_entries(path), start=1):
        where = f"{path}, vote {number}"
        key, choice = (entry.get("pair"), entry.get("choice")) if isinstance(entry, dict) else (None, None)
        if not isinstance(key, str) or type(choice) is not int or choice not in POINTS:
            found = json.dumps(entry)
            raise InputError(
                f"{where}: must hold 'pair', a text, and 'choice', 0, 1 or 2; found "
                f"{found if len(found) <= 80 else f'{found[:77]}...'}"
            )
        if key not in pairs:
            raise InputError(
                f"{where}: its pair is none of benchmark '{benchmark}', whose completions may have changed since: "
                "write the page again with udrl bench --blind"
            )
        earlier = judged.setdefault(frozenset((key, pairs[key].turned().key)), number)
        if earlier != number:
            raise InputError(f"{where}: judges the pair that vote {earlier} judges: leave one of them out")
        yield Vote(voter, key, choice)


def _entries(path: Path) -> list[Any]:
    """Return the list of votes in the file that the page exported."""
    again = "export the votes from the page that udrl bench --blind wrote"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}: {again}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {again}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}): {again}") from None
    if not isinstance(data, dict) or not isinstance(data.get("votes"), list):
        raise InputError(f"{path} is no file of votes: {again}")
    if data.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {data.get('schema')!r}, this version reads {SCHEMA}: {again}")
    if not data["votes"]:
        raise InputError(f"{path} holds no vote: judge a pair before you export")
    return list(data["votes"])


def store(folder: Path, votes: Sequence[Vote]) -> None:
    """Keep ``votes`` beside the benchmark's files, in place of earlier ones."""
    told = [{"voter": vote.voter, "pair": vote.pair, "choice": vote.choice} for vote in votes]
    atomic_write(folder / FILE, json.dumps({"schema": SCHEMA, "votes": told}, indent=1) + "\n")


def stored(folder: Path) -> list[Vote] | None:
    """Return the votes that are kept, or None; raises RunError where their file is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return [Vote(**one) for one in json.loads(path.read_text(encoding="utf-8"))["votes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}): give the votes again with udrl bench --votes") from error


def figures(votes: Sequence[Vote], pairs: Mapping[str, BlindPair], relevance: Mapping[Item, float]) -> dict[str, Any]:
    """Return ``votes`` of summary.json; see docs/benchmark.md for its keys.

    Votes on texts that are no longer the benchmark's count as ``outdated``, and in nothing else.
    """
    current = [vote for vote in votes if vote.pair in pairs]
    compared: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for vote in current:
        pair, points = pairs[vote.pair], POINTS[vote.choice]
        one, two = pair.systems
        gap = relevance[one, pair.task, pair.input_id] - relevance[two, pair.task, pair.input_id]
        nearer = (np.sign(gap) + 1) / 2
        if (two, one) in compared:
            compared[two, one].append((pair.input_id, 1 - points, 1 - nearer))
        else:
            compared.setdefault((one, two), []).append((pair.input_id, points, nearer))
    systems: dict[str, Any] = {}
    for (one, two), rows in sorted(compared.items()):
        systems.setdefault(one, {})[two] = _one(rows)
    return {
        "voters": len({vote.voter for vote in current}),
        "votes": len(current),
        "outdated": len(votes) - len(current),
        "systems": systems,
        "order": _order(current, pairs),
    }


def _one(rows: Sequence[tuple[str, float, float]]) -> dict[str, Any]:
    """The figures of one system beside another. rows: input id, points of a vote, points by relevance."""
    clusters = [row[0] for row in rows]
    points, nearer = np.array([row[1:] for row in rows], dtype=np.float64).T
    agreeing = np.where((points != 0.5) & (nearer != 0.5), points == nearer, np.nan)
    means = mean_intervals(np.stack([points, nearer, agreeing], axis=1), clusters)
    return {
        "votes": len(rows),
        "inputs": len(set(clusters)),
        **means.named(0, "win_rate", "win_rate_ci95"),
        "ties": float(np.mean(points == 0.5)),
        **means.named(1, "relevance_win_rate", "relevance_win_rate_ci95"),
        **means.named(2, "agreement", "agreement_ci95"),
    }


def _order(votes: Sequence[Vote], pairs: Mapping[str, BlindPair]) -> list[dict[str, Any]] | None:
    """Return the systems by their Bradley-Terry strength, the strongest first.

    None for fewer than three, and where votes do not connect all of them: their strengths would have no common zero.
    """
    names = sorted({name for vote in votes for name in pairs[vote.pair].systems})
    if len(names) < 3 or not _connected(names, [pairs[vote.pair].systems for vote in votes]):
        return None
    sides = np.array([[names.index(name) for name in pairs[vote.pair].systems] for vote in votes])
    points = np.array([POINTS[vote.choice] for vote in votes])
    found = bradley_terry(sides[:, 0], sides[:, 1], points, clusters=[pairs[vote.pair].input_id for vote in votes])
    ranked = sorted(range(len(names)), key=lambda k: (-found.mean[k], names[k]))
    return [{"system": names[k], "votes": int(found.items[k]), **found.named(k, "strength", "ci95")} for k in ranked]


def _connected(names: Sequence[str], sides: Sequence[tuple[str, str]]) -> bool:
    """Tell whether a chain of pairs leads from every name to every other."""
    reached, grown = {names[0]}, True
    while grown:
        more = {name for pair in sides if reached & set(pair) for name in pair}
        grown = not more <= reached
        reached |= more
    return len(reached) == len(names)

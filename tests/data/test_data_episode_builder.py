"""From the ledger to episodes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ledger_records import TASKS, ledger_of, many, response

from udrl.data.cleaning import first_words, is_loop
from udrl.data.episode_builder import build_episodes
from udrl.data.inputs import split_of
from udrl.data.ledger import Ledger
from udrl.errors import RunError, UsageError
from udrl.words import count_words


def test_episodes_do_not_depend_on_the_order_of_the_ledger(tmp_path: Path) -> None:
    records = many(40)
    straight = list(build_episodes(ledger_of(tmp_path / "a", records), TASKS, seed=3))
    random.Random(0).shuffle(records)
    again = [*records, *records[:25]]  # a key that was in flight at a kill may stand twice
    assert list(build_episodes(ledger_of(tmp_path / "b", again), TASKS, seed=3)) == straight
    other = list(build_episodes(Ledger(tmp_path / "a"), TASKS, seed=4))
    assert other != straight
    assert [e for e in other if e.origin == "teacher"] == [e for e in straight if e.origin == "teacher"]


def test_episodes_say_what_was_achieved(tmp_path: Path) -> None:
    records = many(10)
    episodes = [e for e in build_episodes(ledger_of(tmp_path, records), TASKS) if e.origin == "teacher"]
    assert len(episodes) == len(records)
    by_completion = {(e.task, e.input, e.completion): e for e in episodes}
    for record in records:
        episode = by_completion[record.task, record.input, record.completion or ""]
        assert episode.horizon == count_words(record.completion or "")
        assert episode.split == split_of(record.input_id)
        assert (episode.seed, episode.sampling, episode.round) == (record.seed, '{"fidelity": 0.5}', 0)
        assert episode.returns == {}
        assert episode.rejected_by is None
    assert len({episode.episode_id for episode in episodes}) == len(episodes)


def test_episodes_derived_have_the_shares_asked_for(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, many(250))
    counts = Counter(e.origin for e in build_episodes(ledger, TASKS, mismatched=0.2, truncated=0.05))
    assert counts["teacher"] == 2000
    assert counts["mismatched"] == pytest.approx(400, abs=60)
    assert counts["truncated"] == pytest.approx(100, abs=35)
    assert {e.origin for e in build_episodes(ledger, TASKS, mismatched=0, truncated=0)} == {"teacher"}
    ids = [e.episode_id for e in build_episodes(ledger, TASKS, mismatched=1, truncated=1)]
    assert len(set(ids)) == len(ids)


def test_episodes_mismatched_stay_within_task_and_split(tmp_path: Path) -> None:
    episodes = list(build_episodes(ledger_of(tmp_path, many(200)), TASKS, mismatched=1.0))
    written_for = {e.completion: e for e in episodes if e.origin == "teacher"}
    mismatched = [e for e in episodes if e.origin == "mismatched"]
    assert {e.split for e in mismatched} == {"train", "validation", "test"}
    for episode in mismatched:
        source = written_for[episode.completion]
        assert source.input_id != episode.input_id
        assert (source.task, source.split, source.seed) == (episode.task, episode.split, episode.seed)
        assert episode.split == split_of(episode.input_id)
        assert episode.horizon == count_words(episode.completion)


def test_episodes_truncated_are_true_beginnings(tmp_path: Path) -> None:
    episodes = list(build_episodes(ledger_of(tmp_path, many(60)), TASKS, truncated=1.0))
    bounds = {task.name: task for task in TASKS}
    sources = [e for e in episodes if e.origin == "teacher"]
    truncated = [e for e in episodes if e.origin == "truncated"]
    assert len(truncated) > 0.9 * len(sources)
    for episode in truncated:
        [source] = [e for e in sources if e.input == episode.input and e.completion.startswith(episode.completion)]
        assert 0.2 * source.horizon <= episode.horizon <= 0.8 * source.horizon
        assert episode.horizon >= 0.5 * bounds[episode.task].min_words
        assert episode.horizon == count_words(episode.completion)


RULES: list[tuple[str | None, dict[str, Any]]] = [
    (None, {"completion": "a red fox asleep in fresh snow at dawn"}),
    ("empty", {"completion": " \n"}),
    ("empty", {"completion": "— !!"}),
    ("under_length", {"completion": "fox"}),
    ("over_length", {"completion": " ".join(f"word{n}" for n in range(1000))}),
    ("unfinished", {"completion": "a red fox asleep in fresh snow at", "finish_reason": "length"}),
    ("loop", {"completion": "a red fox " + "in the snow " * 5}),
]


@pytest.mark.parametrize(("rule", "changes"), RULES)
def test_episodes_are_rejected_by_a_named_rule(tmp_path: Path, rule: str | None, changes: dict[str, Any]) -> None:
    record = response("text-to-image", "a fox", 0, **changes)
    episodes = list(build_episodes(ledger_of(tmp_path, [record]), TASKS, mismatched=1, truncated=1))
    assert episodes[0].rejected_by == rule
    assert all(e.origin == "teacher" for e in episodes) or rule is None, "nothing is derived from what is rejected"


def test_episodes_keep_one_of_equal_completions_of_an_input(tmp_path: Path) -> None:
    text = "a red fox asleep in fresh snow at dawn"
    records = [response("text-to-image", name, k, text) for name in ("a fox", "a vixen") for k in range(3)]
    episodes = list(build_episodes(ledger_of(tmp_path, records), TASKS, mismatched=0, truncated=0))
    assert Counter((e.input, e.rejected_by) for e in episodes) == {
        ("a fox", None): 1,
        ("a fox", "duplicate"): 2,
        ("a vixen", None): 1,
        ("a vixen", "duplicate"): 2,
    }


def test_episodes_leave_out_failed_responses(tmp_path: Path) -> None:
    failed = response("text-to-image", "a fox", 0, status="failed", error="timed out")
    assert list(build_episodes(ledger_of(tmp_path, [replace(failed, completion=None)]), TASKS)) == []
    assert list(build_episodes(Ledger(tmp_path / "none"), TASKS)) == []


def test_episodes_refuse_unknown_tasks_and_shares(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, [response("haiku", "a fox", 0)])
    with pytest.raises(RunError, match="responses to task 'haiku', which is not defined"):
        list(build_episodes(ledger, TASKS))
    with pytest.raises(UsageError, match=r"share of truncated episodes must be within \[0, 1\], found 1.5"):
        list(build_episodes(ledger, TASKS, truncated=1.5))


PEAK = """
import sys, tracemalloc
from pathlib import Path
from udrl.data.episode_builder import build_episodes
from udrl.data.ledger import Ledger
from udrl.data.tasks import load_tasks
ledger, tasks = Ledger(Path(sys.argv[1])), load_tasks(["text-to-image", "search-query"])
next(build_episodes(ledger, tasks))  # imports
tracemalloc.start()
count = sum(1 for _ in build_episodes(ledger, tasks))
print(count, tracemalloc.get_traced_memory()[1])
"""


def test_episodes_are_built_in_little_memory(tmp_path: Path) -> None:
    """In a process of its own: threads that other tests left behind allocate as well."""
    words = " ".join(f"word{n}" for n in range(70))
    padding = [{"role": "user", "content": "x" * 40_000}]
    records = [response("text-to-image", f"input {n}", 0, f"{n} {words}", messages=padding) for n in range(400)]
    ledger = ledger_of(tmp_path, records)
    size = sum(shard.stat().st_size for shard in ledger.shards())
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count > 400
    assert peak < size / 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no no no no", False),
        ("no no no no no no", True),
        ("x " + "a red fox " * 4, True),
        ("x " + "a red fox " * 3, False),
        ("a b c d e f g h " * 4, True),
        ("a b c d e f g h i j k l m n o p", False),
        ("to be or not to be or not to be or not be", False),
    ],
)
def test_episodes_loop_rule(text: str, expected: bool) -> None:
    assert is_loop(text.split()) is expected


def test_episodes_first_words_keep_the_text_between() -> None:
    assert first_words("One, two-three;  four.", 2) == "One, two-three"
    assert first_words("One, two", 5) == "One, two"

"""From the ledger to episodes."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ledger_records import TASKS, ledger_of, many, response

from udrl.data.cleaning import is_loop
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


def test_episodes_derived_have_the_numbers_asked_for(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, many(250))
    counts = Counter(e.origin for e in build_episodes(ledger, TASKS, mismatched=0.2, truncated=0.05, spliced=0.1))
    assert counts["teacher"] == 2000
    assert counts["mismatched"] == pytest.approx(400, abs=60)
    assert counts["truncated"] == pytest.approx(100, abs=35)
    assert counts["spliced"] == pytest.approx(200, abs=45)
    plain = build_episodes(ledger, TASKS, mismatched=0, truncated=0, spliced=0)
    assert {e.origin for e in plain} == {"teacher"}
    every = list(build_episodes(ledger, TASKS, mismatched=1, truncated=1.5, spliced=2))
    counts = Counter(e.origin for e in every)
    assert (counts["mismatched"], counts["spliced"]) == (2000, 4000)
    assert counts["truncated"] == pytest.approx(3000, abs=70), "one from each, two from every second"
    assert len({e.episode_id for e in every}) == len(every)


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


def test_episodes_truncated_end_behind_a_sentence_or_clause(tmp_path: Path) -> None:
    episodes = list(build_episodes(ledger_of(tmp_path, many(60)), TASKS, mismatched=0, truncated=1, spliced=0))
    bounds = {task.name: task for task in TASKS}
    sources = [e for e in episodes if e.origin == "teacher"]
    truncated = [e for e in episodes if e.origin == "truncated"]
    assert len(truncated) > 0.9 * len(sources)
    for episode in truncated:
        [source] = [e for e in sources if e.input == episode.input and e.completion.startswith(episode.completion[:-1])]
        rest = source.completion[len(episode.completion) - 1 :]
        assert rest.startswith((". ", ", ")), "what follows in the source is a border"
        assert episode.completion.endswith("."), "and the text is closed as the source is"
        assert 0.2 * source.horizon <= episode.horizon <= 0.8 * source.horizon
        assert episode.horizon >= 0.5 * bounds[episode.task].min_words
        assert episode.horizon == count_words(episode.completion)
        told = json.loads(episode.sampling)["truncated"]
        assert told == {
            "behind": "sentence" if rest[0] == "." else "clause", "share": round(episode.horizon / source.horizon, 3),
        }  # fmt: skip


def test_episodes_spliced_hold_sentences_of_two_inputs_of_one_teacher(tmp_path: Path) -> None:
    records = [replace(one, teacher=f"t{number % 2}") for number, one in enumerate(many(60))]
    episodes = list(build_episodes(ledger_of(tmp_path, records), TASKS, mismatched=0, truncated=0, spliced=1))
    written: dict[tuple[str, str, str, str], list[list[str]]] = {}
    for one in episodes:
        if one.origin == "teacher":
            written.setdefault((one.input_id, one.task, one.teacher, one.split), []).append(sentences(one.completion))
    pairs = [(own, made) for own, made in pairwise(episodes) if made.origin == "spliced"]
    assert len(pairs) > 0.95 * len(records)
    shares = []
    for own, made in pairs:
        told, mine, text = json.loads(made.sampling)["spliced"], sentences(own.completion), sentences(made.completion)
        assert told["with"] != own.input_id == made.input_id
        splices = {  # the beginning of one with the end of the other, and the share of it that is the episode's own
            round(sum(map(count_words, text[:k] if left is mine else text[k:])) / made.horizon, 3)
            for other in written[told["with"], made.task, made.teacher, made.split]
            for left, right in ((mine, other), (other, mine))
            for k in range(1, len(text))
            if text[:k] == left[:k] and text[k:] == right[-(len(text) - k) :]
        }
        assert splices == {told["own"]}
        assert made.horizon == count_words(made.completion)
        assert 0.6 * own.horizon <= made.horizon <= 1.6 * own.horizon
        shares.append(told["own"])
    assert min(Counter(int(4 * share) for share in shares)[quarter] for quarter in range(4)) > len(shares) / 20


def sentences(text: str) -> list[str]:
    return re.findall(r"[^ .][^.]*\.", text)


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
    with pytest.raises(UsageError, match=r"number of truncated episodes a response must be within \[0, 16\], found 17"):
        list(build_episodes(ledger, TASKS, truncated=17))


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

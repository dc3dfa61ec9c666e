"""The generated tasks: problems and requests are invented by rules, read again from their text, and written for."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.data import arithmetic as problems
from udrl.data.arithmetic import GAINS, LEVELS, LOSSES, Problem, parse
from udrl.data.constraints import KINDS, Constraint, constraints_of, kept
from udrl.data.dedup import Deduplicator
from udrl.data.episodes import read_episodes
from udrl.data.tasks import GENERATORS, load_task, load_tasks, shipped_tasks
from udrl.errors import TaskError
from udrl.teacher.backends.builtin import BuiltinTeacher, arithmetic, instructions, invented
from udrl.teacher.protocol import Request
from udrl.teacher.synthesis.synth import synth

CHANGES = st.tuples(st.sampled_from((*GAINS, *LOSSES)), st.integers(0, 99))
PROBLEMS = st.builds(
    Problem,
    who=st.sampled_from(arithmetic.NAMES),
    thing=st.sampled_from(arithmetic.THINGS),
    first=st.integers(0, 99),
    each=st.none() | st.integers(0, 9),
    changes=st.lists(CHANGES, min_size=1, max_size=4).map(tuple),
)


@given(PROBLEMS)
@settings(deadline=None)
def test_generated_problems_are_read_from_their_text_as_they_were_made(problem: Problem) -> None:
    assert parse(problem.text) == (problem if min(problem.results) >= 0 else None)


@pytest.mark.parametrize(
    ("text", "answer", "level"),
    [
        ("Ann has 3 apples. Ann finds 4 more. How many apples does Ann have now?", 7, 1),
        ("Ann has 13 apples.  Ann loses 4. How many apples does Ann have now?", 9, 2),
        ("Ben has 3 boxes of 4 coins. How many coins does Ben have now?", 12, 2),
        ("Ben has 3 boxes of 4 coins. Ben sells 5. How many coins does Ben have now?", 7, 3),
        ("Eva has 35 roses. Eva gives away 12. Eva finds 9 more. How many roses does Eva have now?", 32, 4),
    ],
)
def test_generated_problems_have_an_answer_and_a_level(text: str, answer: int, level: int) -> None:
    found = parse(text)
    assert found is not None
    assert (found.answer, found.level, problems.level(text)) == (answer, level, level)


@pytest.mark.parametrize(
    "text",
    [
        "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
        "Ann has 3 apples. How many apples does Ann have now?",
        "Ann has 3 apples. Ben finds 4 more. How many apples does Ann have now?",
        "Ann has 3 apples. Ann juggles 4. How many apples does Ann have now?",
        "Ann has 3 apples. Ann loses 4. How many apples does Ann have now?",
    ],
)
def test_generated_problems_of_other_languages_are_not_guessed_at(text: str) -> None:
    assert parse(text) is None
    assert arithmetic.write(text, fidelity=1.0, words=None, rng=random.Random(0)) is None


def test_generated_problems_are_many_and_of_every_level() -> None:
    found = list(itertools.islice(arithmetic.invent("arithmetic", seed=3), 4000))
    assert found == list(itertools.islice(arithmetic.invent("arithmetic", seed=3), 4000))
    assert found[:50] != list(itertools.islice(arithmetic.invent("arithmetic", seed=4), 50))
    assert len(set(found)) > 3800
    levels = Counter(problems.level(text) for text in found)
    assert set(levels) == set(LEVELS)
    assert min(levels.values()) > 200
    for text in found:
        problem = parse(text)
        assert problem is not None
        assert 0 <= min(problem.results) <= max(problem.results) <= 99


@given(PROBLEMS.filter(lambda p: min(p.results) >= 0), st.floats(0, 1), st.none() | st.integers(1, 20), st.integers())
@settings(deadline=None)
def test_generated_solutions_are_right_from_the_fidelity_that_says_so(
    problem: Problem, fidelity: float, words: int | None, seed: int
) -> None:
    written = arithmetic.write(problem.text, fidelity=fidelity, words=words, rng=random.Random(seed))
    assert written is not None
    last = int(written.split()[-1].rstrip("."))
    assert (last == problem.answer) == (fidelity >= arithmetic.RIGHT)
    if words is None:
        assert written.endswith(f"#### {last}")


def test_generated_requests_state_constraints_that_can_be_read_and_kept_together() -> None:
    rng = random.Random(0)
    kinds: Counter[str] = Counter()
    for text in itertools.islice(instructions.invent("instructions", seed=1), 600):
        wanted = constraints_of(text)
        kinds.update(one.kind for one in wanted)
        assert all(one.text in text for one in wanted)
        assert text.count(".") == len(wanted) + 1, "nothing is asked for that is not read"
        careful = instructions.write(text, fidelity=1.0, words=None, bounds=(4, 60), rng=rng)
        assert careful is not None
        assert kept(text, careful) == 1.0, (text, careful)
    assert set(kinds) == set(KINDS)


def test_generated_texts_keep_about_the_share_that_was_asked_for() -> None:
    rng = random.Random(0)
    shares = defaultdict(list)
    for text in itertools.islice(instructions.invent("instructions", seed=2), 300):
        for fidelity in (1.0, 0.5, 0.0):
            written = instructions.write(text, fidelity=fidelity, words=15, bounds=(4, 60), rng=rng)
            shares[fidelity].append(kept(text, written or ""))
    means = [sum(filter(None, shares[fidelity])) / 300 for fidelity in (1.0, 0.5, 0.0)]
    assert means[0] > 0.99
    assert 0.3 < means[1] < 0.6
    assert means[2] < 0.05


@pytest.mark.parametrize(
    ("constraint", "keeps", "breaks"),
    [
        (Constraint("contain", "brass"), "A Brass lamp.", "A brassy lamp."),
        (Constraint("avoid", "brass"), "A brassy lamp.", "A lamp of brass."),
        (Constraint("at_least", 3), "a b c", "a b"),
        (Constraint("at_most", 3), "a b c", "a b c d"),
        (Constraint("lowercase"), "a lamp.", "A lamp."),
        (Constraint("no_commas"), "a lamp; old", "a lamp, old"),
        (Constraint("end_with", "The end"), "It shines. The end!", "The end of it"),
        (Constraint("sentences", 2), "It is 3.5 m. It shines!", "It shines."),
        (Constraint("bullets", 2), "* one\n* two", "* one\ntwo * three"),
    ],
)
def test_generated_constraints_are_checked(constraint: Constraint, keeps: str, breaks: str) -> None:
    request = f"Write something. {constraint.text}"
    assert constraints_of(request) == [constraint]
    assert (kept(request, keeps), kept(request, breaks), kept(request, "")) == (1.0, 0.0, 0.0)


def test_generated_constraints_are_found_in_free_text() -> None:
    text = 'Please tell me a joke. use the word "cat". Do NOT use commas! do not use commas. Write at most 30 words.'
    assert constraints_of(text) == [Constraint("contain", "cat"), Constraint("at_most", 30), Constraint("no_commas")]
    assert kept("tell me a joke", "ha") is None


def test_generated_tasks_are_taken_by_name_only() -> None:
    assert not set(GENERATORS) & set(shipped_tasks())
    assert set(GENERATORS) < set(shipped_tasks(generated=True))
    assert not set(GENERATORS) & {task.name for task in load_tasks()}
    for task in load_tasks(GENERATORS):
        assert task.generator == task.name
        assert task.builtin
        assert len(task.examples) == 3
        for example in task.examples:
            right = parse(example.input)
            assert right.answer == int(example.completion.split()[-1]) if right else True
            assert right or kept(example.input, example.completion) == 1.0


def test_generated_tasks_are_read_strictly(tmp_path: Path) -> None:
    text = shipped_tasks(generated=True)["arithmetic"].read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("generator: arithmetic", "generator: aritmetic"), encoding="utf-8")
    with pytest.raises(TaskError, match=r"unknown 'aritmetic' \(did you mean arithmetic\?\)"):
        load_task(file)


def test_generated_tasks_are_synthesised_with_returns_that_vary_within_inputs(tmp_path: Path) -> None:
    report = synth(tmp_path / "run", tasks=GENERATORS, num_inputs=120, samples=4, score=False)
    assert report.inputs == {"arithmetic": 120, "instructions": 120}
    assert report.written == 960
    assert report.failed == 0
    groups = defaultdict(list)
    for episode in read_episodes(tmp_path / "run" / "episodes", splits=("train", "validation", "test")):
        if episode.origin == "teacher":
            problem = parse(episode.input)
            last = episode.completion.split()[-1].rstrip(".")
            value = kept(episode.input, episode.completion) if problem is None else float(last == str(problem.answer))
            groups[episode.task, episode.input].append(value)
    for name in GENERATORS:
        own = [values for (task, _), values in groups.items() if task == name]
        assert sum(len(set(values)) > 1 for values in own) > 0.9 * len(own)
    more = synth(tmp_path / "run", tasks=GENERATORS, num_inputs=130, samples=4, score=False)
    assert more.written == 80, "what was written stays, and is added to"


def test_generated_tasks_of_foreign_inputs_fail_where_their_rules_cannot_read_them(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    own = ["Ann has 3 apples. Ann finds 4 more. How many apples does Ann have now?", "What is nine times nine?"]
    file.write_text("".join(json.dumps({"input": text}) + "\n" for text in own), encoding="utf-8")
    report = synth(tmp_path / "run", tasks=["arithmetic"], inputs=file, samples=2, score=False, max_failure_rate=1.0)
    assert (report.written, report.failed) == (2, 2)


def test_generated_inputs_are_invented_without_end_and_never_near_duplicates() -> None:
    [task] = load_tasks(["arithmetic"])
    seen = Deduplicator(threshold=None)
    verdicts = Counter(seen.add(text) for text in itertools.islice(invented(task, seeds=(), seed=0), 2000))
    assert verdicts["near"] == 0
    assert verdicts["new"] > 1900
    reply = next(
        iter(
            BuiltinTeacher([task]).generate(
                [Request("k", "arithmetic", "", "?", (), {"fidelity": 1, "words": 3}, 0, 0)]
            )
        )
    )
    assert (reply.completion, reply.error) == (None, "input: the rules of 'arithmetic' cannot read it")

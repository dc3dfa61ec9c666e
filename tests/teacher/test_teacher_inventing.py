"""Inputs invented by an LLM, against a real HTTP server whose answers are a function of the request."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from deduplication import deduplicate
from endpoint_teacher import card_file, plain_environment  # noqa: F401
from fault_server import FaultServer, Plan

from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.survey import survey
from udrl.data.tasks import load_tasks, seeds
from udrl.errors import TeacherError
from udrl.teacher.backends.builtin import made_up_word
from udrl.teacher.synthesis.invention import COUNT, FOLDER, POOR_ROUNDS, input_lengths, read_answer
from udrl.teacher.synthesis.synth import SynthReport, synth

TASK = "search-query"
GIVEN = 10
MORE = 230
"""Inputs to invent where a test does not say: two rounds."""


def inventing(body: dict[str, Any]) -> bool:
    return f"Write {COUNT} new ones" in body["messages"][-1]["content"]


def rng_of(body: dict[str, Any]) -> random.Random:
    return random.Random(json.dumps([body["messages"], body["seed"]]))


def write(body: dict[str, Any]) -> str:
    """Answer as chat models do: a remark, a numbered or bulleted list, quotation marks, a few repetitions."""
    rng = rng_of(body)
    if not inventing(body):
        return " ".join(made_up_word(rng) for _ in range(8))
    needs = [f"where to find a {made_up_word(rng)} {made_up_word(rng)} near {made_up_word(rng)}" for _ in range(COUNT)]
    needs[3] = needs[2].upper()
    needs[7] = "why does my washing machine smell of rotten eggs"  # a seed
    style = rng.randrange(3)
    marks = [("", ""), ("- ", ""), ('"', '"')][style]
    lines = [f"{n}. {marks[0]}{need}{marks[1]}" for n, need in enumerate(needs, start=1)]
    return "\n".join(["Sure! Here are 20 new needs:", "", *lines, "", "Let me know if you want more!"])


@pytest.fixture(scope="session")
def task_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task that ships, with its first seeds only: their completions are not what these tests are about."""
    folder = tmp_path_factory.mktemp("tasks")
    [task] = load_tasks([TASK])
    path = folder / task.path.name
    path.write_bytes(task.path.read_bytes())
    lines = (json.dumps({"text": text}) for text in seeds(task)[:GIVEN])
    path.with_suffix(".jsonl").write_text("\n".join(lines))
    return path


def card_of(folder: Path, **settings: Any) -> Path:
    name = f"tiny-{hashlib.sha256(repr(settings).encode()).hexdigest()[:6]}"
    openai = {"timeout": 5.0, "attempts": 1, "max_concurrency": 32, **settings}
    return card_file(folder, name=name, second={"name": "wild", "temperature": 1.2}, openai=openai)


def small(task: Path, folder: Path, server: FaultServer, name: str = "run", **changes: Any) -> SynthReport:
    settings = changes.pop("settings", {})
    options: dict[str, Any] = {"tasks": [task], "num_inputs": GIVEN + MORE, "samples": 1, "score": False}
    options |= {"teacher": card_of(folder, **settings), "base_url": server.url, **changes}
    return synth(folder / name, **options)


def chosen(run: Path) -> list[str]:
    [path] = (run / "inputs").iterdir()
    return [json.loads(line)["input"] for line in path.read_text().splitlines()[1:]]


def episodes(run: Path) -> list[Episode]:
    return read_episodes(run / "episodes", splits=("train", "validation", "test"), kept=False)


def asked(server: FaultServer) -> list[dict[str, Any]]:
    return [body for body in server.bodies if inventing(body)]


# --- what is asked, and what becomes of it


def test_inventing_fills_up_with_distinct_inputs(task_file: Path, tmp_path: Path) -> None:
    with FaultServer(write=write) as server:
        report = small(task_file, tmp_path, server)
        requests = asked(server)
        wanted = GIVEN + MORE
        assert report.inputs == {TASK: wanted}
        assert report.invented == MORE
        inputs = chosen(tmp_path / "run")
        assert len(deduplicate(inputs).kept) == len(inputs) >= wanted
        assert set(seeds(load_tasks([task_file])[0])) <= set(inputs)
        assert report.exact > 0  # the seed that the server repeats, and the repetition within an answer

        # The inventing has its own ledger, which episodes are not made from.
        run = tmp_path / "run"
        ledger = list(Ledger(run / "ledger" / FOLDER))
        assert len(ledger) == len(requests) == report.inventing["written"]
        assert len(list(Ledger(run / "ledger"))) == report.written == wanted
        assert report.episodes["teacher"] == wanted
        assert not any("Here are" in episode.input for episode in episodes(run))
        assert report.prompt_tokens == 7 * len(server.bodies)

        # Again: nothing is asked for.
        before = len(server.bodies)
        again = small(task_file, tmp_path, server)
        assert (again.already, again.written, len(server.bodies)) == (wanted, 0, before)
        assert Run(run).facts().synth.invented == MORE


def test_inventing_shows_seeds_and_what_was_invented_before(task_file: Path, tmp_path: Path) -> None:
    with FaultServer(write=write) as server:
        small(task_file, tmp_path, server)
        requests = asked(server)
    [task] = load_tasks([task_file])
    given = set(seeds(task))
    invented = set(chosen(tmp_path / "run")) - given
    for number, body in enumerate(requests):
        lines = body["messages"][0]["content"].splitlines()
        shown = [line for line in lines if line in given | invented]
        assert len(shown) == 8
        assert sum(line in invented for line in shown) == (0 if number < 8 else 2), number
        assert "{" not in body["messages"][0]["content"]
        assert (body["temperature"], body["top_p"]) == (1.0, 0.95)
        assert body["max_tokens"] > 1000
    assert len({json.dumps(body) for body in requests}) == len(requests)


def test_inventing_does_not_depend_on_arrival_or_concurrency(task_file: Path, tmp_path: Path) -> None:
    def late(body: dict[str, Any]) -> float:
        return random.Random(str(body["seed"])).random() / 20

    with FaultServer(write=write) as server:
        small(task_file, tmp_path, server, "in-order", settings={"max_concurrency": 1})
        alone = [json.dumps(body) for body in asked(server)]
    with FaultServer(write=write, delay=late) as server:
        small(task_file, tmp_path, server, "shuffled")
        together = [json.dumps(body) for body in asked(server)]
        assert server.peak > 4
        answered = [record.sample for record in Ledger(tmp_path / "shuffled" / "ledger" / FOLDER)]
    assert answered[:8] != sorted(answered[:8]), "they came in another order"
    assert sorted(alone) == sorted(together)
    assert chosen(tmp_path / "in-order") == chosen(tmp_path / "shuffled")
    assert episodes(tmp_path / "in-order") == episodes(tmp_path / "shuffled")


def test_inventing_more_only_adds(task_file: Path, tmp_path: Path) -> None:
    with FaultServer(write=write) as server:
        small(task_file, tmp_path, server, num_inputs=GIVEN + 40)
        few = chosen(tmp_path / "run")
        before = [json.dumps(body) for body in server.bodies]
        report = small(task_file, tmp_path, server, num_inputs=GIVEN + 120)
        assert chosen(tmp_path / "run")[: len(few)] == few
        assert (report.inputs, report.already) == ({TASK: GIVEN + 120}, GIVEN + 40)
        later = [json.dumps(body) for body in server.bodies[len(before) :]]
        assert not set(before) & set(later), "nothing is asked twice"


def test_inventing_side_by_side_is_as_alone(task_file: Path, tmp_path: Path) -> None:
    [task] = load_tasks([task_file])
    other = tmp_path / "other.yaml"
    other.write_text(task.path.read_text().replace(f"name: {TASK}", "name: other"))
    other.with_suffix(".jsonl").write_bytes(task_file.with_suffix(".jsonl").read_bytes())
    with FaultServer(write=write) as server:
        small(task_file, tmp_path, server, "one", num_inputs=GIVEN + 100)
        small(task_file, tmp_path, server, "two", tasks=[other, task_file], num_inputs=GIVEN + 100)
    [alone] = (tmp_path / "one" / "inputs").iterdir()
    assert (tmp_path / "two" / "inputs" / alone.name).read_bytes() == alone.read_bytes()


def test_inventing_is_counted_but_not_done_by_a_dry_run(task_file: Path, tmp_path: Path) -> None:
    with FaultServer(write=write) as server:
        report = small(task_file, tmp_path, server, dry_run=True, samples=3)
        assert server.bodies == []
    assert (report.inputs, report.missing, report.requests) == ({TASK: GIVEN}, MORE, 3 * (GIVEN + MORE))
    assert not (tmp_path / "run").exists()


def test_inventing_is_off_for_a_users_file_and_with_no_invent(task_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "inputs.txt"
    file.write_text("how do I prune a pear tree\n")
    with FaultServer(write=write) as server:
        assert small(task_file, tmp_path, server, "file", inputs=file, num_inputs=9).inputs == {TASK: 1}
        assert small(task_file, tmp_path, server, "no", invent=False).inputs == {TASK: GIVEN}
        assert asked(server) == []
        assert small(task_file, tmp_path, server, "both", inputs=file, invent=True, num_inputs=30).inputs == {TASK: 30}
        first = asked(server)[0]["messages"][0]["content"]
    assert sum(text in first for text in [*seeds(load_tasks([task_file])[0]), "how do I prune a pear tree"]) == 8


# --- a teacher that has nothing to give


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("--", "nothing"),
        ("I'm sorry, but I can't help with inventing information needs.", "refusal"),
        ("1. why does my washing machine smell of rotten eggs\n2. how to reset a blue router", "exact"),
        ("Here are some needs:\n\nLet me know if you need more", "heading"),
    ],
)
def test_inventing_stops_clearly_when_nothing_new_comes(
    task_file: Path, tmp_path: Path, answer: str, reason: str
) -> None:
    def same(body: dict[str, Any]) -> str:
        return answer if inventing(body) else write(body)

    with FaultServer(write=same) as server:
        with pytest.warns(UserWarning, match=rf"inventing stopped at 1[01] of {GIVEN + MORE} inputs.*{reason}"):
            report = small(task_file, tmp_path, server)
        assert report.inputs[TASK] in (GIVEN, GIVEN + 1)
        rounds = {record.input for record in Ledger(tmp_path / "run" / "ledger" / FOLDER)}
        assert len(rounds) == POOR_ROUNDS
        before = len(server.bodies)
        with pytest.warns(UserWarning, match="inventing stopped"):
            small(task_file, tmp_path, server)
        assert len(server.bodies) == before, "a teacher that has given all it has is not asked again"


def test_inventing_says_when_a_task_has_no_template(task_file: Path, tmp_path: Path) -> None:
    data = yaml.safe_load(task_file.read_text())
    del data["invent"]
    file = tmp_path / "search-query.yaml"
    file.write_text(yaml.safe_dump(data))
    file.with_suffix(".jsonl").write_bytes(task_file.with_suffix(".jsonl").read_bytes())
    with FaultServer(write=write) as server:
        with pytest.warns(UserWarning, match=rf"{GIVEN} of 50 inputs; .*search-query.yaml has no 'invent' template"):
            report = small(task_file, tmp_path, server, tasks=[file], num_inputs=50)
        assert report.inputs == {TASK: GIVEN}
        assert asked(server) == []


# --- failures


def failing(plan: Callable[[int], bool]) -> Plan:
    return lambda number, body: "500" if inventing(body) and plan(number) else "ok"


def test_inventing_goes_on_without_what_failed_and_retries_when_told(task_file: Path, tmp_path: Path) -> None:
    with FaultServer(write=write, plan=failing(lambda number: number % 3 == 0)) as server:
        report = small(task_file, tmp_path, server, num_inputs=GIVEN + 100)
        assert report.inputs == {TASK: GIVEN + 100}
        assert report.inventing["failed"] > 0
        failed = survey(Ledger(tmp_path / "run" / "ledger" / FOLDER)).failed
        assert len(failed) == report.inventing["failed"]


def test_inventing_fails_clearly_when_everything_failed(task_file: Path, tmp_path: Path) -> None:
    failed = "all 8 requests to teacher 'tiny' failed; the first: http 500"
    with (
        FaultServer(write=write, plan=failing(lambda number: True)) as server,
        pytest.raises(TeacherError, match=failed),
    ):
        small(task_file, tmp_path, server)
    with FaultServer(write=write) as server:
        assert small(task_file, tmp_path, server).inputs == {TASK: GIVEN + MORE}, "the same command goes on"
        assert small(task_file, tmp_path, server, "calm").inputs == {TASK: GIVEN + MORE}
    assert chosen(tmp_path / "run") == chosen(tmp_path / "calm")


def test_inventing_reads_an_answer_as_its_ledger_does(task_file: Path, tmp_path: Path) -> None:
    """A start that was killed before the inputs were stored finds in the ledger what it had read."""

    def half(body: dict[str, Any]) -> str:
        return "\n".join(f"{line}\ud800 please" for line in write(body).splitlines())

    with FaultServer(write=half) as server:
        small(task_file, tmp_path, server)
        before, asked_before = chosen(tmp_path / "run"), len(server.bodies)
        [path] = (tmp_path / "run" / "inputs").iterdir()
        path.unlink()
        small(task_file, tmp_path, server)
        assert (chosen(tmp_path / "run"), len(server.bodies)) == (before, asked_before)


KILLS = 3


def test_inventing_killed_at_any_moment_goes_on_and_ends_the_same(task_file: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of inventing, again and again; the inputs are those of a run that was left alone."""

    process: subprocess.Popen[bytes] | None = None
    goal = 0

    def slow(body: dict[str, Any]) -> float:
        if process is not None and len(asked(server)) >= goal:
            process.kill()
        return 0.05 + random.Random(str(body["seed"])).random() / 10

    with FaultServer(write=write) as server:
        small(task_file, tmp_path, server, "whole")
        whole = sorted(json.dumps(body) for body in asked(server))
    card = card_of(tmp_path, max_concurrency=4)
    with FaultServer(write=write, delay=slow) as server:
        code = (
            "import sys; from udrl.teacher.synthesis.synth import synth\n"
            f"synth({str(tmp_path / 'killed')!r}, tasks=[{str(task_file)!r}], num_inputs={GIVEN + MORE}, "
            f"samples=1, score=False, teacher={str(card)!r}, base_url={server.url!r})"
        )
        ledger = tmp_path / "killed" / "ledger" / FOLDER
        rng = random.Random(3)
        for _ in range(KILLS):
            goal = len(asked(server)) + rng.randrange(3, 8)
            process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
            assert process.wait() == -signal.SIGKILL, "the server kills it before it answers"
        process = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a torn last line is told of
            small(task_file, tmp_path, server, "killed")
            keys = Counter(record.key for record in Ledger(ledger))
        sent = Counter(json.dumps(body) for body in asked(server))
    assert set(keys.values()) == {1}
    assert sorted(sent) == whole
    again = sum(sent.values()) - len(sent)
    assert again <= (4 + 1) * KILLS, "what was in flight at a kill, and one answer on its way into the ledger"
    assert chosen(tmp_path / "killed") == chosen(tmp_path / "whole")
    assert episodes(tmp_path / "killed") == episodes(tmp_path / "whole")


# --- reading an answer


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("1. how to fix a tap", "how to fix a tap"),
        ("12) how to fix a tap", "how to fix a tap"),
        ("(3) how to fix a tap", "how to fix a tap"),
        ("- how to fix a tap", "how to fix a tap"),
        ("  *  how to fix a tap", "how to fix a tap"),
        ("• “how to fix a tap”", "how to fix a tap"),
        ('4. "how to fix a tap"', "how to fix a tap"),
        ('  "how to fix a tap",', "how to fix a tap"),
        ("**how to fix a tap**", "how to fix a tap"),
        ("Idea 3: how to fix a tap", "how to fix a tap"),
        ("2. - **'how to fix a tap'**", "how to fix a tap"),
        ("5 quick ways to fix a tap", "5 quick ways to fix a tap"),
        ("3D model of a tap", "3D model of a tap"),
        ('the word "tap" and the word "sink"', 'the word "tap" and the word "sink"'),
        ('"tap" and "sink"', 'tap" and "sink'),
        ("10.5 mm tap fittings", "10.5 mm tap fittings"),
        ("-5 degrees and the tap froze", "-5 degrees and the tap froze"),
    ],
)
def test_inventing_takes_list_marks_and_quotes_off(line: str, found: str) -> None:
    dropped: Counter[str] = Counter()
    assert list(read_answer(line, unfinished=False, words=(1, 20), dropped=dropped)) == [found]
    assert not dropped


def test_inventing_leaves_out_what_is_no_input() -> None:
    dropped: Counter[str] = Counter()
    answer = "\n".join(
        [
            "Certainly! Here are 20 new ones:",
            "## Food",
            "Kitchen:",
            "1. best pan for eggs",
            "2.",
            "",
            "3. " + "very " * 40 + "long",
            "I'm sorry, I cannot help with that.",
            "4. best pan for",
        ]
    )
    found = list(read_answer(answer, unfinished=True, words=(2, 30), dropped=dropped))
    assert found == ["best pan for eggs"]
    assert dropped == {"heading": 3, "length": 1, "refusal": 1, "unfinished": 1}


def test_inventing_takes_the_lengths_of_what_is_given() -> None:
    assert input_lengths(["a b c", "d e f g h"]) == (3, 10)

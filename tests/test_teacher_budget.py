"""What a synthesis costs: estimates, limits, sums over starts; several teachers; silent teachers."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from udrl.cli.synth import describe
from udrl.data.episodes import read_episodes
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.tasks import load_tasks, shipped_tasks
from udrl.errors import TeacherError, UsageError
from udrl.teacher import asking, cards, watchdog
from udrl.teacher.base import Reply, Request
from udrl.teacher.budget import TOKENS_PER_WORD, Budget, Limits
from udrl.teacher.builtin import made_up_word
from udrl.teacher.cards import Card, Prices
from udrl.teacher.plan import read_teachers
from udrl.teacher.synthesis import SynthReport, TooManyFailed, synth
from udrl.teacher.watchdog import Watchdog

IMAGE = "text-to-image"


class Paid:
    """A teacher that takes 100 tokens to read and 20 to write, on ``gpus`` GPUs, with ``window`` in flight."""

    revision: str | None = None
    engine_arguments: Mapping[str, Any] = {}

    def __init__(self, card: Card, *, window: int = 4, gpus: int = 0, seconds: float = 0.0) -> None:
        self.name, self.model = card.name, card.model
        self.window, self.gpus, self.seconds = window, gpus, seconds
        self.asked: list[Request] = []
        self.events: list[str] = []

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        return {"temperature": 0.5 + index / 10, "max_tokens": 200}

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        return {"temperature": 0.0}

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        flying: list[Request] = []
        for request in requests:
            self.asked.append(request)
            self.events.append("ask")
            flying.append(request)
            if len(flying) >= self.window:
                yield self._reply(flying.pop(0))
        while flying:
            yield self._reply(flying.pop(0))

    def close(self) -> None:
        self.events.append("close")

    def _reply(self, request: Request) -> Reply:
        time.sleep(self.seconds)
        text = f"{self.name} on {request.input} in version {request.sample}"
        return Reply(request.key, text, "stop", 100, 20, time.time(), self.seconds)


def card_file(
    folder: Path, name: str, *, prices: tuple[float, float] | None = (1.0, 5.0), licence: str = "mit"
) -> Path:
    card: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "title": name.title(),
        "description": "A teacher of the tests.",
        "backend": "openai",
        "base_url": "http://localhost:1/v1",
        "model": f"org/{name}",
        "licence": {"name": licence, "outputs": f"what {name} allows"},
        "sampling": [{"name": "careful"}],
    }
    if prices is not None:
        card["prices"] = {"prompt": prices[0], "completion": prices[1]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card))
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Paid]:
    """The teachers of the test by name; each is made at its first start."""
    teachers: dict[str, Paid] = {}

    def start(card: Card, *, tasks: object) -> Paid:
        return teachers.setdefault(card.name, Paid(card))

    monkeypatch.setattr(cards, "start", start)
    return teachers


@pytest.fixture
def make(tmp_path: Path, started: dict[str, Paid]) -> Any:
    """Synthesise 60 inputs with 2 samples, with the teacher ``a`` unless told otherwise."""
    card_file(tmp_path, "a")

    def run(name: str = "run", **changes: Any) -> SynthReport:
        options = {"teacher": tmp_path / "a.yaml", "tasks": [IMAGE], "num_inputs": 60, "samples": 2, "score": False}
        return synth(tmp_path / name, **{"invent": False, **options, **changes})

    return run


def writers(run: Path) -> Counter[str]:
    return Counter(row["teacher"] for _, row in Ledger(run / "ledger").rows())


# --- limits


@pytest.mark.parametrize(
    ("limit", "stopped", "written"),
    [
        # 120 tokens a completion, at $100 and $100 a million: $0.0002 each.
        ({"max_tokens": 6000}, "--max-tokens 6,000", 50),
        ({"max_usd": 0.01}, "--max-usd 0.01", 50),
    ],
)
def test_budget_limits_stop_cleanly_and_the_next_start_goes_on(
    make: Any, started: dict[str, Paid], tmp_path: Path, limit: dict[str, float], stopped: str, written: int
) -> None:
    report = make(**limit)
    assert report.stopped == stopped
    assert abs(report.written - written) <= 1, "what is in flight counts, so nothing is overshot"
    assert report.prompt_tokens + report.completion_tokens <= 6000
    assert report.written == len(started["a"].asked) == sum(writers(tmp_path / "run").values())
    assert report.episodes["teacher"] == report.written, "what there is becomes episodes"
    facts = Run(tmp_path / "run").facts()["stages"]["synth"]
    assert facts["stopped"] == stopped
    again = make()
    assert (again.already, again.written, again.stopped) == (report.written, 120 - report.written, None)
    cost = Run(tmp_path / "run").facts()["stages"]["synth"]["cost"]
    assert (cost["starts"], cost["tokens"]) == (2, {"prompt": 12_000, "completion": 2_400})
    assert cost["usd"] == pytest.approx(120 * 0.0002)
    assert again.cost == cost


def test_budget_minutes_stop_a_start(make: Any, started: dict[str, Paid], monkeypatch: pytest.MonkeyPatch) -> None:
    make(max_tokens=1)  # the inputs are chosen, everything is imported
    monkeypatch.setattr(cards, "start", lambda card, *, tasks: Paid(card, seconds=0.05))
    report = make(max_minutes=1.5 / 60)
    assert report.stopped == "--max-minutes 0.025"
    assert 0 < report.written <= 30 + 4, "four were in flight"
    assert make(max_minutes=10, num_inputs=10).stopped is None


def test_budget_usd_counts_gpu_hours(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = card_file(tmp_path, "own", prices=(0.0, 0.0))
    card.write_text(card.read_text().replace("prices:", "prices:\n  gpu_hour: 3600.0"))  # a dollar a second
    monkeypatch.setattr(cards, "start", lambda card, *, tasks: Paid(card, gpus=2, seconds=0.05))
    assert make(teacher=card, dry_run=True).estimates[0].usd is None, "no pace, no price"
    report = make(teacher=card, max_usd=4.0)
    assert report.stopped == "--max-usd 4"
    assert 0 < report.written <= 40 + 4, "two dollars a second, twenty completions a second, four in flight"
    assert report.cost["usd"] == pytest.approx(2 * report.cost["seconds"], rel=0.01)
    (estimate,) = make(teacher=card, dry_run=True).estimates
    assert estimate.usd == pytest.approx(report.cost["usd"] * estimate.requests / report.written, rel=0.01)


def test_budget_without_token_counts_takes_what_was_expected(
    make: Any, started: dict[str, Paid], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: Paid, request: Request) -> Reply:
        return Reply(request.key, f"{request.input} {request.sample}", "stop", None, None, 0.0, 0.0)

    monkeypatch.setattr(Paid, "_reply", silent)
    report = make(max_tokens=6000)
    assert report.stopped == "--max-tokens 6,000"
    assert 0 < report.written < 60


def test_budget_limits_hold_while_inputs_are_invented(
    make: Any, started: dict[str, Paid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(self: Paid, request: Request) -> Reply:
        text = "\n".join(f"a {made_up_word(random.Random(f'{request.key}/{n}'))} by a lake" for n in range(20))
        return Reply(request.key, text, "stop", 100, 400, 0.0, 0.0)

    monkeypatch.setattr(Paid, "_reply", lines)
    report = make(invent=True, num_inputs=1000, max_tokens=5000)
    assert (report.stopped, report.requests, report.written, report.episodes) == ("--max-tokens 5,000", 0, 0, {})
    assert 2 <= report.inventing["written"] <= 10
    assert report.prompt_tokens + report.completion_tokens == 500 * report.inventing["written"] <= 5000
    assert "stopped (--max-tokens 5,000) while inputs were chosen: the same command goes on" in describe(report)
    asked = len(started["a"].asked)
    again = make(invent=True, num_inputs=200, samples=1, max_tokens=100_000)
    assert again.inputs == {IMAGE: 200}
    assert again.cost["tokens"]["prompt"] == 100 * len(started["a"].asked), "of both ledgers, over both starts"
    assert len({request.key for request in started["a"].asked}) == len(started["a"].asked) > asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be above 0, found 0"),
        ({"max_usd": float("nan")}, "max_usd must be above 0"),
        ({"max_minutes": -1.0}, "max_minutes must be above 0"),
        ({"max_failure_rate": 1.5}, r"max_failure_rate must be within \[0, 1\], found 1.5"),
        ({"teacher": "free", "max_usd": 1.0}, "max_usd cannot hold, because .*free.yaml states no prices above 0"),
        ({"teacher": "zero", "max_usd": 1.0}, "max_usd cannot hold, because .*zero.yaml states no prices above 0"),
    ],
)
def test_budget_refuses_limits_that_cannot_hold(
    make: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    card_file(tmp_path, "free", prices=None)
    card_file(tmp_path, "zero", prices=(0.0, 0.0))
    if "teacher" in changes:
        changes = {**changes, "teacher": tmp_path / f"{changes['teacher']}.yaml"}
    with pytest.raises(UsageError, match=message):
        make(**changes)
    assert not (tmp_path / "run").exists()


# --- estimates and sums


def test_budget_dry_run_estimates_by_length_then_by_what_was_written(
    make: Any, started: dict[str, Paid], tmp_path: Path
) -> None:
    [task] = load_tasks([IMAGE])
    (estimate,) = make(dry_run=True).estimates
    assert (estimate.teacher, estimate.requests, estimate.measured) == ("a", 120, False)
    words = (task.min_words + task.max_words) / 2
    assert estimate.completion_tokens == round(120 * TOKENS_PER_WORD * words)
    assert estimate.most_completion_tokens == 120 * 200
    size = len(task.request("about ten words of text, as in many inputs").encode())
    assert 0.8 < estimate.prompt_tokens / (120 * size / 4) < 1.2
    expected = (estimate.prompt_tokens * 1.0 + estimate.completion_tokens * 5.0) / 1e6
    assert estimate.usd == pytest.approx(expected, rel=1e-4)
    assert estimate.seconds is None, "nothing is known of its pace"
    assert not (tmp_path / "run").exists()
    assert not started["a"].asked

    run_facts = make(max_tokens=6000).cost
    (estimate,) = make(dry_run=True).estimates
    left = 120 - run_facts["teachers"]["a"]["responses"]
    assert (estimate.requests, estimate.measured) == (left, True)
    assert (estimate.prompt_tokens, estimate.completion_tokens) == (100 * left, 20 * left)
    facts = Run(tmp_path / "run")
    with facts.writing():
        synth_facts = facts.facts()["stages"]["synth"]
        synth_facts["cost"]["teachers"]["a"]["seconds"] = 25.0
        facts.record("synth", **{k: v for k, v in synth_facts.items() if k not in ("finished", "versions", "hardware")})
    (estimate,) = make(dry_run=True).estimates
    assert estimate.seconds == pytest.approx(left * 25.0 / (120 - left))


def test_budget_announces_estimates_before_the_first_request(make: Any, started: dict[str, Paid]) -> None:
    told: list[tuple[int, int]] = []
    make(announce=lambda report: told.append((len(started["a"].asked), report.estimates[0].requests)))
    assert told == [(0, 120)]


def test_budget_records_gpu_hours_and_seconds_over_starts(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "start", lambda card, *, tasks: Paid(card, gpus=2, seconds=0.02))
    first = make(max_tokens=6000).cost
    assert 1 <= first["seconds"] < 20
    assert first["gpu_hours"] == pytest.approx(2 * first["seconds"] / 3600, abs=2e-6)
    second = make().cost
    assert second["seconds"] > first["seconds"] + 1
    assert second["gpu_hours"] == pytest.approx(2 * second["seconds"] / 3600, abs=4e-6)
    assert second["teachers"]["a"]["responses"] == 120
    assert make().cost["gpu_hours"] == pytest.approx(second["gpu_hours"], abs=2e-4)


def test_budget_cost_survives_a_kill(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that dies without a word leaves its tokens in the ledger and its time where it was last recorded."""
    monkeypatch.setattr(asking, "SAVE_SECONDS", 0.1)

    class Dies(Paid):
        def _reply(self, request: Request) -> Reply:
            if len(self.asked) > 40:
                raise SystemExit
            return super()._reply(request)

    monkeypatch.setattr(cards, "start", lambda card, *, tasks: Dies(card, seconds=0.02))
    monkeypatch.setattr("udrl.teacher.start.Start.recording", lambda self: OnlyTheBeginning(self))
    with pytest.raises(SystemExit):
        make()
    recorded = Run(tmp_path / "run").facts()["stages"]["synth"]
    assert 0.3 < recorded["cost"]["seconds"] < 5
    assert recorded["teachers"]["a"]["licence"] == "mit", "known from the beginning: episodes can be built from this"
    (estimate,) = make(dry_run=True).estimates
    assert estimate.measured
    assert (estimate.requests, estimate.prompt_tokens) == (83, 8300)


class OnlyTheBeginning:
    def __init__(self, start: Any) -> None:
        self.start = start

    def __enter__(self) -> None:
        self.start.save()

    def __exit__(self, *_: object) -> None:
        """As after SIGKILL: nothing more is recorded."""


def test_budget_expects_what_is_in_flight_to_cost_something() -> None:
    from udrl.teacher.budget import Tokens

    budget, prices = Budget(Limits(tokens=300)), Prices(1.0, 1.0)
    requests = [Request(f"k{n}", "t", "i", "x", (), {}, 0, 0) for n in range(4)]
    assert [budget.allows(request, Tokens(80, 20), prices) for request in requests] == [None] * 3 + ["--max-tokens 300"]
    budget.settle(Reply("k0", "x", "stop", 30, 10, 0.0, 0.0), prices)
    assert budget.allows(requests[3], Tokens(40, 20), prices) is None, "the first was cheaper than expected"
    budget.settle(Reply("k1", None, None, None, None, 0.0, 0.0, error="timeout: x"), prices)
    assert budget.allows(requests[0], Tokens(90, 10), prices) is None, "a failure gives back what was kept for it"


# --- several teachers


def two(tmp_path: Path) -> list[str]:
    return [f"{card_file(tmp_path, 'a')}=3", f"{card_file(tmp_path, 'b', prices=(2.0, 2.0), licence='llama3')}"]


def test_teachers_share_the_completions_by_their_weights(make: Any, started: dict[str, Paid], tmp_path: Path) -> None:
    report = make(teacher=two(tmp_path), num_inputs=100, samples=4)
    share = writers(tmp_path / "run")
    assert sum(share.values()) == report.written == 400
    assert 270 <= share["a"] <= 330, "three in four, by chance of a hash"
    places = Counter((row["input_id"], row["sample"]) for _, row in Ledger(tmp_path / "run" / "ledger").rows())
    assert set(places.values()) == {1}, "each completion is one teacher's"
    assert started["a"].events[-2:] != ["ask", "ask"]
    assert started["a"].events.index("close") == share["a"], "the first is closed before the second begins"
    facts = Run(tmp_path / "run").facts()["stages"]["synth"]
    assert {name: card["licence"] for name, card in facts["teachers"].items()} == {"a": "mit", "b": "llama3"}
    assert {name: card["weight"] for name, card in facts["teachers"].items()} == {"a": 3.0, "b": 1.0}
    assert facts["cost"]["usd"] == pytest.approx(share["a"] * 200e-6 + share["b"] * 240e-6)
    card = (tmp_path / "run" / "episodes" / "README.md").read_text(encoding="utf-8")
    assert "what a allows" in card
    assert "what b allows" in card
    assert "license:" not in card, "no single licence holds for both"
    assert {e.teacher for e in read_episodes(tmp_path / "run" / "episodes")} == {"a", "b"}


def test_teachers_in_any_order_share_alike(make: Any, started: dict[str, Paid], tmp_path: Path) -> None:
    make("one", teacher=two(tmp_path))
    make("other", teacher=two(tmp_path)[::-1])
    rows = [
        {(row["key"], row["teacher"]) for _, row in Ledger(tmp_path / name / "ledger").rows()}
        for name in ("one", "other")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 120


def test_teachers_with_other_weights_write_nothing_again(make: Any, started: dict[str, Paid], tmp_path: Path) -> None:
    a, b = tmp_path / "a.yaml", card_file(tmp_path, "b")
    make(teacher=[f"{a}=3", f"{b}"])
    before = writers(tmp_path / "run")
    again = make(teacher=[f"{a}", f"{b}=3"])
    assert (again.already, again.written) == (120, 0)
    assert writers(tmp_path / "run") == before
    more = make(teacher=[f"{a}", f"{b}=3"], samples=8)
    added = writers(tmp_path / "run") - before
    assert more.written == added.total() == 360
    assert added["b"] > 2 * added["a"], "new weights hold for what is new"
    third = make(teacher=[str(a), str(b), str(card_file(tmp_path, "c"))], samples=8)
    assert (third.already, third.written) == (480, 0)
    alone = make(teacher=card_file(tmp_path, "d"))
    assert alone.written == 120, "a teacher who is named alone writes everything"


def test_teachers_go_on_after_a_stop_in_the_middle(make: Any, started: dict[str, Paid], tmp_path: Path) -> None:
    stopped = make("stopped", teacher=two(tmp_path), max_tokens=3000)
    assert stopped.stopped
    assert set(writers(tmp_path / "stopped")) == {"a"}
    make("stopped", teacher=two(tmp_path), max_tokens=9000)
    make("stopped", teacher=two(tmp_path))
    make("straight", teacher=two(tmp_path))
    splits = ("train", "validation", "test")
    one, other = (read_episodes(tmp_path / name / "episodes", splits=splits) for name in ("stopped", "straight"))
    assert one == other


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["builtin=0"], "its weight must be a number above 0"),
        (["builtin=-2"], "its weight must be a number above 0"),
        (["builtin=much"], "its weight must be a number above 0"),
        (["builtin=nan"], "its weight must be a number above 0"),
        (["builtin", "llama3", "builtin=2"], "teacher 'builtin' is named twice"),
        ([], "no teacher is named"),
        (["bultin=2"], r"unknown teacher 'bultin' \(did you mean builtin\?\)"),
    ],
)
def test_teachers_are_refused_with_what_is_wrong(entries: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_teachers(entries)


def test_teachers_are_read_with_weights_and_odd_paths(tmp_path: Path) -> None:
    odd = tmp_path / "run=3" / "x=2"
    odd.mkdir(parents=True)
    path = card_file(odd, "own")
    found = read_teachers([path, "llama3=2", "qwen2"])
    assert [(card.name, weight) for card, weight in found] == [("own", 1.0), ("llama3", 2.0), ("qwen2", 1.0)]
    assert [(card.name, weight) for card, weight in read_teachers([f"{path}=0.5"])] == [("own", 0.5)]


def test_teachers_recorded_outputs_stand_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recorded outputs are taken by a start of their own"):
        synth(tmp_path / "run", teacher=["builtin", "recorded:own.jsonl"])
    with pytest.raises(UsageError, match="leave limits out"):
        synth(tmp_path / "run", teacher="recorded:own.jsonl", max_tokens=5)


# --- failures


def test_failures_are_counted_by_kind_and_allowed_up_to_a_rate(
    make: Any, started: dict[str, Paid], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Paid._reply

    def some(self: Paid, request: Request) -> Reply:
        number = len(self.asked)
        kinds = {0: "timeout: no answer", 1: "http 500: fault: with colons"}
        if number % 20 in kinds and number <= 100:
            return Reply(request.key, None, None, None, None, 0.0, 0.0, error=kinds[number % 20])
        return whole(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(Paid, "_reply", some)
        with pytest.raises(TooManyFailed, match=r"which is above 5\.0%") as caught:
            make()
    report = caught.value.report
    assert report.failures == {"timeout": 5, "http 500": 5} or sum(report.failures.values()) == report.failed
    assert set(report.failures) == {"timeout", "http 500"}
    assert report.episodes["teacher"] == report.written
    assert make(max_failure_rate=0.2).already_failed == report.failed
    assert make(retry_failed=True).failure_rate == 0
    assert make().failure_rate == 0, "what failed first and was good later is good"


# --- a silent teacher


def test_watchdog_names_a_silent_teacher_ever_more_rarely() -> None:
    told: list[tuple[float, str]] = []
    started = time.monotonic()
    with Watchdog(
        "tiny", "openai", patience=0.2, tell=lambda text: told.append((time.monotonic() - started, text))
    ) as dog:
        time.sleep(0.5)
        assert not told, "nothing is in flight"
        for _ in range(3):
            dog.asked()
        time.sleep(1.2)
    assert own_threads() == []
    assert 2 <= len(told) <= 3, "after 0.2, 0.4 and 0.8 s"
    assert "teacher 'tiny' has not replied for 0 s, 3 requests are in flight: look at the server's log" in told[0][1]


def test_watchdog_is_quiet_while_replies_come() -> None:
    told: list[str] = []
    with Watchdog("tiny", "vllm", patience=0.3, tell=told.append) as dog:
        for _ in range(10):
            dog.asked()
        for _ in range(10):
            time.sleep(0.1)
            dog.replied()
        time.sleep(0.5)
    assert told == []


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("udrl")]


def test_watchdog_watches_a_synthesis_and_ends_with_it(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watchdog, "PATIENCE", 0.1)
    monkeypatch.setattr(cards, "start", lambda card, *, tasks: Paid(card, seconds=0.5, window=2))
    make(num_inputs=1)
    assert own_threads() == []
    assert "warning: teacher 'a' has not replied for" in capsys.readouterr().err

    def breaks(self: Paid, request: Request) -> Reply:
        raise TeacherError("engine is dead")

    monkeypatch.setattr(Paid, "_reply", breaks)
    with pytest.raises(TeacherError, match="engine is dead"):
        make()
    assert own_threads() == []


# --- keys of the built-in teacher


def test_builtin_teacher_writes_anew_where_the_lexicon_was_edited(tmp_path: Path) -> None:
    own = tmp_path / f"{IMAGE}.yaml"
    text = shipped_tasks()[IMAGE].read_text(encoding="utf-8")
    own.write_text(text, encoding="utf-8")
    options: dict[str, Any] = {"num_inputs": 10, "samples": 2, "score": False}
    assert synth(tmp_path / "run", tasks=[own], **options).written == 20
    assert synth(tmp_path / "run", tasks=[own, "search-query"], **options).written == 20, "of the other task"
    assert synth(tmp_path / "run", tasks=[own], **options).written == 0
    task = yaml.safe_load(text)
    task["lexicon"]["closers"].append("with one more closer")
    own.write_text(yaml.safe_dump(task), encoding="utf-8")
    assert synth(tmp_path / "run", tasks=[own], **options).written == 20


# --- the command line


def test_synth_command_shows_licences_estimates_and_what_stopped_it(tmp_path: Path) -> None:
    """Against nothing that listens: what is shown before the first request, and that it is before."""
    command = [sys.executable, "-m", "udrl", "synth", "--task", IMAGE, "--num-inputs", "5", "--no-invent"]
    command += ["--teacher", f"{card_file(tmp_path, 'a')}=2", "--teacher", str(card_file(tmp_path, "b"))]
    done = subprocess.run([*command, "--run", str(tmp_path / "run"), "--dry-run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "A: licence mit: what a allows\nB: licence mit: what b allows\n" in done.stderr
    assert "20 of 20 completions are to be asked of a, b" in done.stdout
    assert "time not known before some are written, $0.0" in done.stdout
    assert not (tmp_path / "run").exists()


INTERRUPTED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_teacher_budget import Paid
from udrl.cli.main import main
from udrl.teacher import cards
cards.start = lambda card, *, tasks: Paid(card, seconds=0.02, window=16)
main(sys.argv[2:])
"""


def test_synth_command_reports_when_it_is_interrupted(tmp_path: Path) -> None:
    command = ["synth", "--task", IMAGE, "--num-inputs", "200", "--no-invent", "--json", "--run", str(tmp_path / "run")]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            INTERRUPTED,
            str(Path(__file__).parent),
            *command,
            "--teacher",
            str(card_file(tmp_path, "a")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not any(path.stat().st_size for path in (tmp_path / "run" / "ledger").glob("*.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    report = json.loads(out)
    assert report["stopped"] == "interrupted"
    assert 800 > report["written"] == sum(writers(tmp_path / "run").values()) >= 16, "all that was in flight"
    assert report["episodes"] == {}
    assert "finishing the requests in flight" in err
    assert "interrupted: what was finished is kept" in err
    facts = Run(tmp_path / "run").facts()["stages"]["synth"]
    assert facts["stopped"] == "interrupted"
    assert facts["cost"]["tokens"]["prompt"] == 100 * report["written"]
    assert facts["teachers"]["a"]["licence"] == "mit"

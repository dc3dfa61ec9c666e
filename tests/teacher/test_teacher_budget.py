"""What a synthesis costs: estimates, limits, sums over starts."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from paid_teacher import IMAGE, Maker, Paid, card_file, maker, start_paid, writers

from udrl.cli.synth import describe
from udrl.data.facts import TokenFacts
from udrl.data.run import Run
from udrl.data.tasks import load_tasks
from udrl.errors import UsageError
from udrl.teacher.backends import choice
from udrl.teacher.backends.builtin import made_up_word
from udrl.teacher.cards import Prices
from udrl.teacher.protocol import Reply, Request
from udrl.teacher.synthesis import request_loop
from udrl.teacher.synthesis.budget import TOKENS_PER_WORD, Budget, Limits


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Paid]:
    """The teachers of the test by name; each is made at its first start."""
    return start_paid(monkeypatch)


@pytest.fixture
def make(tmp_path: Path, started: dict[str, Paid]) -> Maker:
    """Synthesise 60 inputs with 2 samples, with the teacher ``a`` unless told otherwise."""
    return maker(tmp_path)


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
    assert Run(tmp_path / "run").facts().synth.stopped == stopped
    again = make()
    assert (again.already, again.written, again.stopped) == (report.written, 120 - report.written, None)
    cost = Run(tmp_path / "run").facts().synth.cost
    assert (cost.starts, cost.tokens) == (2, TokenFacts(prompt=12_000, completion=2_400))
    assert cost.usd == pytest.approx(120 * 0.0002)
    assert again.cost == asdict(cost)


def test_budget_minutes_stop_a_start(make: Any, started: dict[str, Paid], monkeypatch: pytest.MonkeyPatch) -> None:
    make(max_tokens=1)  # the inputs are chosen, everything is imported
    monkeypatch.setattr(choice, "start", lambda card, *, tasks: Paid(card, seconds=0.05))
    report = make(max_minutes=1.5 / 60)
    assert report.stopped == "--max-minutes 0.025"
    assert 0 < report.written <= 30 + 4, "four were in flight"
    assert make(max_minutes=10, num_inputs=10).stopped is None


def test_budget_usd_counts_gpu_hours(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = card_file(tmp_path, "own", prices=(0.0, 0.0))
    card.write_text(card.read_text().replace("prices:", "prices:\n  gpu_hour: 3600.0"))  # a dollar a second
    monkeypatch.setattr(choice, "start", lambda card, *, tasks: Paid(card, gpus=2, seconds=0.05))
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
        if request.sampling.get("style") == "invent":
            text = "\n".join(f"a {made_up_word(random.Random(f'{request.key}/{n}'))} by a lake" for n in range(20))
        else:
            text = f"an oil painting of {request.input}"
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
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_usd": float("nan")}, "max_usd must be a finite number, got nan"),
        ({"max_minutes": -1.0}, "max_minutes must be above 0"),
        ({"max_failure_rate": 1.5}, "max_failure_rate must be at least 0 and at most 1, got 1.5"),
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
        synth = facts.facts().synth
        slower = {"a": replace(synth.cost.teachers["a"], seconds=25.0)}
        facts.record(replace(synth, cost=replace(synth.cost, teachers=slower)))
    (estimate,) = make(dry_run=True).estimates
    assert estimate.seconds == pytest.approx(left * 25.0 / (120 - left))


def test_budget_announces_estimates_before_the_first_request(make: Any, started: dict[str, Paid]) -> None:
    told: list[tuple[int, int]] = []
    make(announce=lambda report: told.append((len(started["a"].asked), report.estimates[0].requests)))
    assert told == [(0, 120)]


def test_budget_records_gpu_hours_and_seconds_over_starts(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "start", lambda card, *, tasks: Paid(card, gpus=2, seconds=0.02))
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
    monkeypatch.setattr(request_loop, "SAVE_SECONDS", 0.1)

    class Dies(Paid):
        def _reply(self, request: Request) -> Reply:
            if len(self.asked) > 40:
                raise SystemExit
            return super()._reply(request)

    monkeypatch.setattr(choice, "start", lambda card, *, tasks: Dies(card, seconds=0.02))
    monkeypatch.setattr("udrl.teacher.synthesis.start.Start.recording", lambda self: OnlyTheBeginning(self))
    with pytest.raises(SystemExit):
        make()
    recorded = Run(tmp_path / "run").facts().synth
    assert 0.3 < recorded.cost.seconds < 5
    assert recorded.teachers["a"].licence == "mit", "known from the beginning: episodes can be built from this"
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
    from udrl.teacher.synthesis.budget import Tokens

    budget, prices = Budget(Limits(tokens=300)), Prices(1.0, 1.0)
    requests = [Request(f"k{n}", "t", "i", "x", (), {}, 0, 0) for n in range(4)]
    assert [budget.allows(request, Tokens(80, 20), prices) for request in requests] == [None] * 3 + ["--max-tokens 300"]
    budget.settle(Reply("k0", "x", "stop", 30, 10, 0.0, 0.0), prices)
    assert budget.allows(requests[3], Tokens(40, 20), prices) is None, "the first was cheaper than expected"
    budget.settle(Reply("k1", None, None, None, None, 0.0, 0.0, error="timeout: x"), prices)
    assert budget.allows(requests[0], Tokens(90, 10), prices) is None, "a failure gives back what was kept for it"
    budget.settle(Reply("k2", None, None, 90, 10, 0.0, 0.0, error="filtered: x"), prices)
    assert budget.allows(Request("k4", "t", "i", "x", (), {}, 0, 0), Tokens(1, 0), prices), "but not what it took"

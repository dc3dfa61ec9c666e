"""What goes wrong while teachers write: failed requests, silence, an interruption."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fault_server import FaultServer
from paid_teacher import IMAGE, Maker, Paid, card_file, maker, start_paid, writers

from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.errors import TeacherError
from udrl.teacher.backends import choice
from udrl.teacher.protocol import Reply, Request
from udrl.teacher.synthesis import watchdog
from udrl.teacher.synthesis.synth import TooManyFailed
from udrl.teacher.synthesis.watchdog import Watchdog


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Paid]:
    """The teachers of the test by name; each is made at its first start."""
    return start_paid(monkeypatch)


@pytest.fixture
def make(tmp_path: Path, started: dict[str, Paid]) -> Maker:
    """Synthesise 60 inputs with 2 samples, with the teacher ``a`` unless told otherwise."""
    return maker(tmp_path)


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


def test_failures_of_a_withdrawn_key_are_asked_for_again_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    make = maker(tmp_path)
    with FaultServer(lambda number, body: "ok" if number < 30 else "auth") as server:
        with pytest.raises(TeacherError, match="in a row"):
            make(base_url=server.url)
        rows = list(Ledger(tmp_path / "run" / "ledger"))
        assert (len(rows), {row.status for row in rows}) == (30, {"ok"})
        server.plan = lambda number, body: "ok"
        report = make(base_url=server.url)
        assert (report.already, report.written, report.failed) == (30, 90, 0)


# --- a silent teacher


class Clock:
    """Time that passes only where the watchdog waits; ``events``: what happens at which second."""

    def __init__(self, until: float, events: Mapping[float, Callable[[], None]]) -> None:
        self.now, self.until, self.events = 0.0, until, dict(events)

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        for moment in sorted(moment for moment in self.events if moment <= self.now):
            self.events.pop(moment)()
        return self.now > self.until

    def set(self) -> None:
        """Nothing: the time is over by itself."""


def watched(
    monkeypatch: pytest.MonkeyPatch, *, until: float, events: Mapping[float, Callable[[Watchdog], None]]
) -> list[tuple[float, str]]:
    """What a watchdog of 1 s of patience tells until then, and when, if ``events`` happen to it."""
    told: list[tuple[float, str]] = []
    clock = Clock(until, {})
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: clock.now))
    dog = Watchdog("tiny", "openai", patience=1.0, tell=lambda text: told.append((clock.now, text)))
    clock.events = {moment: partial(event, dog) for moment, event in events.items()}
    monkeypatch.setattr(dog, "_end", clock)
    with dog:
        dog._thread.join()
    assert own_threads() == []
    return told


def test_watchdog_names_a_silent_teacher_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(dog: Watchdog) -> None:
        for _ in range(3):
            dog.asked()

    told = watched(monkeypatch, until=19.9, events={10.0: ask})
    assert [round(moment) for moment, _ in told] == [11, 12, 14, 18], "nothing is in flight until then"
    said = r"teacher 'tiny' has not replied for 1 s, 3 requests are in flight: look at the server's log"
    assert re.search(said, told[0][1])


def test_watchdog_is_quiet_while_replies_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(dog: Watchdog) -> None:
        for _ in range(8):
            dog.asked()

    replies = {0.8 * (1 + number): Watchdog.replied for number in range(8)}
    assert watched(monkeypatch, until=60, events={0.0: ask, **replies}) == []


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("udrl")]


def test_watchdog_watches_a_synthesis_and_ends_with_it(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watchdog, "PATIENCE", 0.1)
    monkeypatch.setattr(choice, "start", lambda card, *, tasks: Paid(card, seconds=0.5, window=2))
    make(num_inputs=1)
    assert own_threads() == []
    assert "warning: teacher 'a' has not replied for" in capsys.readouterr().err

    def breaks(self: Paid, request: Request) -> Reply:
        raise TeacherError("engine is dead")

    monkeypatch.setattr(Paid, "_reply", breaks)
    with pytest.raises(TeacherError, match="engine is dead"):
        make()
    assert own_threads() == []


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
from paid_teacher import Paid
from udrl.cli.main import main
from udrl.teacher.backends import choice
choice.start = lambda card, *, tasks: Paid(card, seconds=0.02, window=16)
main(sys.argv[2:])
"""


def test_synth_command_reports_when_it_is_interrupted(tmp_path: Path) -> None:
    command = ["synth", "--task", IMAGE, "--num-inputs", "200", "--no-invent", "--json", "--run", str(tmp_path / "run")]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            INTERRUPTED,
            str(Path(__file__).parents[1] / "support"),
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
    facts = Run(tmp_path / "run").facts().synth
    assert facts.stopped == "interrupted"
    assert facts.cost.tokens.prompt == 100 * report["written"]
    assert facts.teachers["a"].licence == "mit"

"""Synthesis that is killed, interrupted or out of disk: nothing finished is lost or done twice."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from echo_teacher import Echo, all_episodes, rows, small, start_echo

from udrl.errors import RunError, TeacherError
from udrl.teacher.protocol import Reply, Request


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    """The teacher that every synthesis of the test starts."""
    return start_echo(monkeypatch)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
from killing import die_at
from udrl.teacher.synthesis.synth import synth
die_at(sys.argv[3])
synth(sys.argv[1], tasks=["text-to-image", "search-query"], num_inputs=250, samples=4, score=False)
"""


SUPPORT = Path(__file__).parents[1] / "support"


def ledger_bytes(run: Path) -> int:
    return sum(path.stat().st_size for path in (run / "ledger").glob("*.jsonl"))


def killed_at(moment: str, run: Path) -> bool:
    """Start synthesis, which ends itself at ``moment`` (`killing.die_at`; none: never); say whether it was killed."""
    code = subprocess.run([sys.executable, "-c", SCRIPT, str(run), str(SUPPORT), moment], check=False).returncode
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.slow
def test_synthesis_killed_at_any_moment_goes_on_and_ends_with_the_same_episodes(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert not killed_at("", straight)
    rng = random.Random(0)
    lines = [f"line {rng.randrange(1, 400)}" for _ in range(4)]  # of each start's own, 2,000 in all
    for moment in (".run.json.partial", "inputs/.text-to-image", *lines, ".episodes.partial"):
        assert killed_at(moment, killed), moment
    assert not killed_at("", killed)
    keys = [row["key"] for row in rows(killed)]
    assert len(keys) == len(set(keys)) == 2000
    assert sorted(rows(killed), key=lambda row: row["key"]) == sorted(rows(straight), key=lambda row: row["key"])
    assert all_episodes(killed) == all_episodes(straight)
    assert not list(killed.glob(".episodes*"))


INTERRUPTED = """
import sys
sys.path.insert(0, sys.argv[2])
from echo_teacher import Echo
from udrl.teacher.backends import choice
from udrl.teacher.synthesis.synth import synth
teacher = Echo(window=16, seconds=0.02)
choice.start = lambda _card, *, tasks: teacher
try:
    synth(sys.argv[1], tasks=["text-to-image"], num_inputs=500, score=False)
except KeyboardInterrupt:
    print(len(teacher.asked), teacher.closed, flush=True)
    sys.exit(130)
"""


def interrupt(run: Path) -> subprocess.Popen[bytes]:
    """Start a slow synthesis and send it SIGINT once its ledger has something."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(run), str(SUPPORT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while ledger_bytes(run) == 0:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    return process


def test_synthesis_interrupted_finishes_what_is_in_flight(tmp_path: Path) -> None:
    process = interrupt(tmp_path / "run")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert b"finishing the requests in flight" in err
    asked, closed = out.split()
    assert closed == b"True"
    assert 16 <= int(asked) < 2000
    assert len(rows(tmp_path / "run")) == int(asked), "every request that was in flight is in the ledger"
    assert not (tmp_path / "run" / "episodes").exists()


def test_synthesis_interrupted_twice_stops_at_once(tmp_path: Path) -> None:
    process = interrupt(tmp_path / "run")
    assert process.stderr is not None
    while b"finishing" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    written = rows(tmp_path / "run")
    assert 1 <= len(written) < int(out.split()[0])
    assert len({row["key"] for row in written}) == len(written)


def test_synthesis_on_a_full_disk_keeps_what_is_finished(
    tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    calls = 0

    def full(file: int, data: bytes) -> int:
        nonlocal calls
        calls += data.startswith(b'{"schema"')
        if calls > 15:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match=r"the disk is full .* start the same command again"):
            small(tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 15
    assert echo.closed
    report = small(tmp_path / "run")
    assert (report.already, report.written) == (15, 25)


def test_synthesis_refuses_a_run_that_is_being_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = (
        "import sys, time; from udrl.data.run import Run\n"
        "with Run(sys.argv[1]).writing(): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(RunError, match=f"being written by process {holder.pid}"):
            small(run)
        holder.kill()


def test_synthesis_refuses_replies_that_were_not_asked_for(
    tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(requests: Iterable[Request]) -> Iterator[Reply]:
        list(requests)
        yield from ()

    with monkeypatch.context() as patch:
        patch.setattr(echo, "generate", nothing)
        with pytest.raises(TeacherError, match="left 40 requests without a reply"):
            small(tmp_path / "run")
    reply = Reply("strange", "x", "stop", 1, 1, 0.0, 0.0)
    monkeypatch.setattr(echo, "generate", lambda _requests: iter([reply]))
    with pytest.raises(TeacherError, match="not given"):
        small(tmp_path / "run")

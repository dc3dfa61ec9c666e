"""``udrl synth`` against a real HTTP server: killed at random moments, and through a storm of faults."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from endpoint_teacher import card_file, plain_environment  # noqa: F401
from fault_server import FAULTS, FaultServer, storm

from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.ledger import Ledger
from udrl.teacher.synthesis.synth import SynthReport, synth

INPUTS, SAMPLES, KILLS, CONCURRENCY = 500, 4, 30, 16
TASK = "text-to-image"
WORDS = (
    "amber bright calm deep early far glass harbour ivory jade keen light moss narrow open pale quiet river stone "
    "tall under vivid warm yellow"
).split()


def identity(body: dict[str, Any]) -> str:
    """What makes a request the same one again."""
    return json.dumps([body["messages"], body["seed"]], sort_keys=True)


def prose(body: dict[str, Any]) -> str:
    """Some 15 to 40 words, a function of the request alone."""
    rng = random.Random(identity(body))
    return f"A scene with {' '.join(rng.choice(WORDS) for _ in range(rng.randint(12, 36)))} and a red fox."


def card_of(folder: Path, **settings: Any) -> Path:
    openai = {"max_concurrency": CONCURRENCY, **settings}
    return card_file(folder, second={"name": "far", "temperature": 1.1}, openai=openai)


def inputs_file(folder: Path, count: int = INPUTS + 20) -> Path:  # a few are near duplicates
    rng = random.Random(0)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[f"a {' and a '.join(rng.sample(WORDS, 3))} with {rng.randint(100, 999)} words"] = None
    path = folder / "inputs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def all_episodes(run: Path) -> list[Episode]:
    return read_episodes(run / "episodes", splits=("train", "validation", "test"), kept=False)


def lines(run: Path) -> list[dict[str, Any]]:
    return [row for _, row in Ledger(run / "ledger").rows()]


# --- killed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torn last line")
def test_synth_killed_thirty_times_asks_nothing_twice_but_what_was_in_flight(tmp_path: Path) -> None:
    card, inputs = card_of(tmp_path), inputs_file(tmp_path)
    total = INPUTS * SAMPLES
    process: subprocess.Popen[bytes] | None = None
    goal = 0

    def prose_or_kill(body: dict[str, Any]) -> str:
        if process is not None and len(server.answered) >= goal:
            process.kill()
        return prose(body)

    with FaultServer(seconds=0.03, write=prose_or_kill) as server:
        command = [sys.executable, "-m", "udrl", "synth", "--teacher", str(card), "--base-url", server.url]
        command += ["--task", TASK, "--inputs", str(inputs), "--num-inputs", str(INPUTS), "--samples", str(SAMPLES)]
        command += ["--no-score", "--run"]
        run = tmp_path / "killed"
        rng = random.Random(7)
        lost: Counter[str] = Counter()  # requests that were in flight at a kill, by how often they were
        seen = 0
        for moment in sorted(rng.sample(range(total - CONCURRENCY), KILLS)):
            goal = max(moment + sum(lost.values()), len(server.answered) + 1)
            process = subprocess.Popen([*command, str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            said = process.communicate()[1].decode()
            assert process.returncode == -signal.SIGKILL, said
            while server.active:
                time.sleep(0.005)
            kept = {row["seed"] for row in lines(run)}
            flying = [body for body in server.bodies[seen:] if body["seed"] not in kept]
            seen = len(server.bodies)
            assert len(flying) <= CONCURRENCY + 1, "and one that was answered, on its way into the ledger"
            lost.update(map(identity, flying))
        process = None
        done = subprocess.run([*command, str(run), "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        times = Counter(map(identity, server.bodies))
        assert len(times) == total
        assert times == Counter(dict.fromkeys(times, 1)) + lost, "asked once, and once more for each kill in flight"
        assert sum(lost.values()) > 0
        rows = lines(run)
        assert len(rows) == len({row["key"] for row in rows}) == total
        assert report["already"] + report["written"] == total
        assert report["cost"]["starts"] == KILLS + 1
        assert report["cost"]["tokens"] == {"prompt": 7 * total, "completion": 5 * total}, "all starts together"
        before = len(server.bodies)
        straight = tmp_path / "straight"
        subprocess.run([*command, str(straight)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert len(server.bodies) == before + total
    episodes = all_episodes(run)
    assert episodes == all_episodes(straight)
    assert len(episodes) > total, "derived ones among them"


# --- faults


def test_synth_ends_every_request_in_a_storm_and_recovers_after_it(tmp_path: Path) -> None:
    total, crowd = 800, 12
    faults = storm(0.2, faults=FAULTS, seed=3)

    def plan(number: int, body: dict[str, Any]) -> str:
        if body["seed"] % 40 == 7:
            return "400"  # final, whatever else goes on
        if number == 600:
            server.peak = 0
        return faults(number, body) if number < 500 else "ok"

    options: dict[str, Any] = {
        "teacher": card_of(tmp_path, timeout=3.0, attempts=10, max_concurrency=crowd),
        "tasks": [TASK],
        "inputs": inputs_file(tmp_path),
        "num_inputs": total // SAMPLES,
        "samples": SAMPLES,
        "score": False,
    }
    with FaultServer(plan, seconds=0.15, write=prose) as server:
        report: SynthReport = synth(tmp_path / "run", base_url=server.url, **options)
        peak = server.peak
    rows = lines(tmp_path / "run")
    assert len(rows) == len({row["key"] for row in rows}) == total
    refused = sum(row["seed"] % 40 == 7 for row in rows)
    assert (report.written, report.failed) == (total - refused, refused)
    assert report.failures == {"http 400": refused}
    assert 0 < refused < 0.05 * total
    for row in rows:
        assert (row["completion"] is None) == (row["status"] == "failed") == (row["error"] is not None)
        assert row["status"] == "ok" or row["error"].startswith("http 400: fault 400")
    assert max(Counter(server.answered).values()) == 1, "nothing that was answered was asked for again"
    assert len(server.bodies) > total + 50, "the storm cost tries"
    assert peak == crowd, "back at the most that is allowed"
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("udrl")]
    with FaultServer(write=prose) as server:
        again = synth(tmp_path / "run", base_url=server.url, retry_failed=True, **options)
    assert (again.already, again.written, again.failed) == (total - refused, refused, 0)
    with FaultServer(write=prose) as server:
        synth(tmp_path / "calm", base_url=server.url, **options)
    assert all_episodes(tmp_path / "run") == all_episodes(tmp_path / "calm")

"""Thousands of calls in one process: one after another, from eight threads, and after fork; each answer known before.

Wrong is an answer that is another than the call's own, a call that fails, a forked process that does not end in time,
and memory that grows with the number of calls.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from faults.hostile_texts import hostile_texts
from udrl.commands import LENGTH, Command

TASK = "text-to-image"
CALLS, KINDS, THREADS, FORKS, IN_FORK, PATIENCE = 2_000, 40, 8, 8, 25, 120


def run(folder: Path, *, scale: float, seed: int) -> dict[str, Any]:
    """Return the number of calls of each way, what went wrong, and by how many bytes the process grew."""
    from udrl.student.student import load_student

    warnings.simplefilter("ignore")
    place = folder / "run"
    if not (place / "student").is_dir():
        _train(place, seed)
    student = load_student(place, device="cpu", precision="fp32", engine="torch")
    student.sampling = replace(student.sampling, temperature=0.9, max_tokens=12)
    asked = [
        (text, Command(TASK, {LENGTH: 5.0 + k % 20}), k) for k, text in enumerate(hostile_texts(KINDS, seed))
    ]  # each is asked for again and again

    def call(k: int) -> bool:
        text, command, own = asked[k % KINDS]
        return bool(student.generate([text], [command], seeds=[own], warn=False)[0].completion == known[k % KINDS])

    known = [student.generate([t], [c], seeds=[s], warn=False)[0].completion for t, c, s in asked]
    count = max(100, round(CALLS * scale))
    wrong = {"in turn": 0, "threads": 0, "fork": 0, "hung": 0}
    for k in range(count // 4):  # what grows once, such as pools and caches, does so here
        wrong["in turn"] += not call(k)
    before = _resident()
    for k in range(count):
        wrong["in turn"] += not call(k)
    grown = _resident() - before
    with ThreadPoolExecutor(THREADS) as pool:
        wrong["threads"] = sum(not same for same in pool.map(call, range(count)))
    after_threads = _resident() - before
    forks = max(1, round(FORKS * min(1.0, scale * 4)))
    for k in range(forks):
        found = _forked(lambda k=k: sum(not call(k * IN_FORK + n) for n in range(IN_FORK)))
        wrong["hung"] += found is None
        wrong["fork"] += found or 0
    return {
        "calls": {"in turn": count + count // 4, "threads": count, "after fork": forks * IN_FORK},
        "distinct_answers": len(set(known)),
        "wrong": wrong,
        "grown_bytes": grown,
        "grown_bytes_with_threads": after_threads,
        "threads_left": threading.active_count() - 1,
    }


def _train(place: Path, seed: int) -> None:
    from udrl.teacher.synthesis.synth import synth
    from udrl.training.train import train

    synth(place, tasks=(TASK,), num_inputs=120, samples=2, rewards=("novelty",), seed=seed)
    train(place, student="gpt2-700k", init="random", steps=30, batch_size=8, signs_inputs=0, calibration_inputs=1,
          device="cpu", precision="fp32", seed=seed)  # fmt: skip


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forked(work: Any) -> int | None:
    """Return what ``work`` counts in a forked process; None where it does not end in time."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    ready = select.select([reader], [], [], PATIENCE)[0]
    said = os.read(reader, 100) if ready else b""
    os.close(reader)
    if not said:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return int(json.loads(said)) if said else None

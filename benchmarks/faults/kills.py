"""SIGKILL at random moments over every stage, each resumed to its end and compared with an undisturbed run.

Every stage runs in a process forked from one that has imported everything, so that a moment of its own work is hit, not
of the imports. Half of the kills come at a random time, half before a random one of the stage's operations on files
(opening to write, renaming, removing): there is where something can be torn. A third of the resumed runs are killed
again before the one that comes to the end.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

from faults.kills_stages import STAGES, Endpoint, Stage, end_of, ledger_of, write_materials
from udrl.files import atomic_write

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "shutil.copytree")
PATIENCE = 600.0
CONCURRENCY = 8
WARM = (
    "datasets", "onnxruntime", "transformers", "udrl.eval.bench", "udrl.rewards.scoring", "udrl.rounds.improve",
    "udrl.study.lr_batch.study", "udrl.teacher.backends.openai", "udrl.teacher.synthesis.synth",
    "udrl.training.calibrate", "udrl.training.train",
)  # fmt: skip
COUNTED = ("lost", "doubled", "torn", "differing", "failed", "asked_again")


def run(folder: Path, *, scale: float, seed: int) -> dict[str, Any]:
    """Kill each stage as often as its share says, and count what differs from the undisturbed run."""
    _warm()
    folder = folder.absolute()
    endpoint = Endpoint(folder / "port")
    write_materials(folder, endpoint.server.server_port)
    log = folder / "trials.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {(one["stage"], one["trial"]) for one in done}
    ends = {stage.name: _undisturbed(folder, stage) for stage in STAGES}
    counts = {stage.name: max(1, round(stage.kills * scale)) for stage in STAGES}
    planned = [(trial / counts[stage.name], stage, trial) for stage in STAGES for trial in range(counts[stage.name])]
    for _, stage, trial in sorted(planned, key=lambda plan: plan[0]):  # all stages from early on
        if (stage.name, trial) in known:
            continue
        one = _trial(folder, stage, ends[stage.name], random.Random(f"{seed} {stage.name} {trial}"), endpoint)
        again = sum(count - 1 for count in endpoint.asked.values())
        one |= {"stage": stage.name, "trial": trial, "asked_again": max(0, again - CONCURRENCY * one["kills"])}
        done.append(one)
        with log.open("a") as file:
            file.write(json.dumps(one) + "\n")
    return {
        "trials": len(done),
        "kills": sum(one["kills"] for one in done),
        "by_stage": dict(Counter(one["stage"] for one in done)),
        **{name: sum(one[name] for one in done) for name in COUNTED},
        "wrong": [one for one in done if any(one[name] for name in COUNTED)],
    }


def _warm() -> None:
    """Import what the stages need, once, and keep torch to one thread: a forked process has no others."""
    import torch

    for name in WARM:
        import_module(name)
    torch.set_num_threads(1)
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")


def _undisturbed(folder: Path, stage: Stage) -> dict[str, Any]:
    """Run a stage from its beginning to its end; keep the end for the stages after it, and what it took and says."""
    known, kept = folder / f"{stage.name}.json", folder / f"end-{stage.name}"
    if not known.exists():
        run = _begin(folder, stage)
        begun = time.monotonic()
        _ended(_start(folder, stage, count=folder / "operations"))
        end = {"seconds": time.monotonic() - begun, "operations": int((folder / "operations").read_text())}
        end |= {"says": end_of(run), "ledger": ledger_of(run)[0]}
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(run, kept, symlinks=True)
        atomic_write(known, json.dumps(end))
    made: dict[str, Any] = json.loads(known.read_text())
    return made


def _begin(folder: Path, stage: Stage) -> Path:
    """Put what a stage begins with into the folder of all trials: paths are in what a run says."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    if stage.after is not None:
        shutil.copytree(folder / f"end-{stage.after}", run, symlinks=True)
    return run


def _trial(folder: Path, stage: Stage, end: dict[str, Any], rng: random.Random, endpoint: Endpoint) -> dict[str, Any]:
    """Kill a stage once or twice, bring it to its end, and compare."""
    endpoint.asked.clear()
    run, one = _begin(folder, stage), {"kills": 0, "moments": [], **dict.fromkeys(COUNTED, 0), "files": []}
    try:
        ended = _killed(folder, stage, end, rng, one, endpoint) or _ended(_start(folder, stage))
    except ChildProcessError as error:
        return {**one, "failed": 1, "files": [str(error)]}
    if not ended:
        return {**one, "failed": 1, "files": ["killed by somebody else"]}
    try:
        says = end_of(run)
    except Exception as error:  # noqa: BLE001 - whatever a reader says of a torn file
        return {**one, "torn": 1, "files": [repr(error)]}
    responses, twice = ledger_of(run)
    differing = sorted(name for name in {*says, *end["says"]} if says.get(name) != end["says"].get(name))
    return {**one, "lost": max(0, end["ledger"] - responses), "doubled": twice, "differing": len(differing),
            "files": differing}  # fmt: skip


def _killed(
    folder: Path, stage: Stage, end: dict[str, Any], rng: random.Random, one: dict[str, Any], endpoint: Endpoint
) -> bool:
    """Kill a stage once, and in a third of the cases what resumes it, too; note in ``one`` how often and when.

    Returns whether the last process was faster than its kill, so that it came to the end.
    """
    wanted = 1 if rng.random() < 2 / 3 else 2
    while one["kills"] < wanted:
        if rng.random() < 0.5:
            after = rng.uniform(0, end["seconds"])
            ended = _ended(_start(folder, stage), after)
            one["moments"].append(f"{after:.2f} s")
        else:
            operation = rng.randrange(end["operations"])
            ended = _ended(_start(folder, stage, kill_before=operation))
            one["moments"].append(f"operation {operation}")
        one["kills"] += not ended
        if ended and one["kills"]:
            return True
        if ended:  # nothing was killed
            _begin(folder, stage)
            endpoint.asked.clear()
    return False


def _start(folder: Path, stage: Stage, *, kill_before: int | None = None, count: Path | None = None) -> int:
    """Start a stage in a process of its own and return its id.

    kill_before: it kills itself before this one of its operations on files. count: where it says how many there were.
    """
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        done = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal done
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                if done == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)
                done += 1

        sys.addaudithook(watch)
        stage.do(folder / "run", folder)
        if count is not None:
            count.write_text(str(done))
        code = 0
    except BaseException:  # noqa: BLE001 - this process ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(process: int, kill_after: float | None = None) -> bool:
    """Wait for a process; say whether it came to its end without being killed.

    Raises ChildProcessError where it failed, TimeoutError where it hangs.
    """
    begun = time.monotonic()
    while not (status := os.waitpid(process, os.WNOHANG))[0]:
        passed = time.monotonic() - begun
        if passed > (PATIENCE if kill_after is None else kill_after):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            if kill_after is None:
                raise TimeoutError(f"a stage did not end within {PATIENCE:.0f} s")
            return False
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status[1])
    if code not in (0, -signal.SIGKILL):
        raise ChildProcessError(f"a stage ended with {code}, see the file output")
    return code == 0

"""Malformed files, runs and options through the real command line: every one must end as designed, and lose nothing.

A worker, forked from a process that has imported everything, runs one case after another; one that works or
sleeps for over 30 s is ended and counted as a hang. What is counted as wrong: a traceback, the words of the last resort
("a defect of udrl"), an exit code that is not 0, 1, 2 or 130, a failure without its one line, a worker that died, and a
file of the valid run that a refused command changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

from faults import malformed_cases as cases

TRIALS, LIMIT = 10_000, 30.0
CODES = (0, 1, 2, 130)
WARM = (
    "onnxruntime",
    "sentence_transformers",
    "udrl.eval.bench",
    "udrl.teacher.synthesis.synth",
    "udrl.training.train",
)


def run(folder: Path, *, scale: float, seed: int) -> dict[str, Any]:
    """Run the cases that have no result yet, and count how they ended."""
    folder = folder.resolve()
    environment = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "UDRL_CACHE": str(folder / "cache"),
        "TQDM_DISABLE": "1",
    }
    os.environ |= environment
    base, results = folder / "base", folder / "cases.jsonl"
    if not (base / "done").exists():
        _apart(lambda: cases.prepare(base, _command))
        (base / "done").touch()
    done = _results(results)
    _import_everything()
    total = round(TRIALS * scale)
    pending = [index for index in range(total) if index not in done]
    with results.open("a", encoding="utf-8") as file:
        while pending:
            for result in _worker(base, folder / "work", pending, seed):
                file.write(json.dumps(result) + "\n")
                file.flush()
                pending.remove(result["index"])
    return _figures([row for index, row in _results(results).items() if index < total])


def _results(path: Path) -> dict[int, dict[str, Any]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {row["index"]: row for row in rows}


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    wrong = Counter(problem for row in rows for problem in row["wrong"])
    examples = [
        {key: row[key] for key in ("index", "what", "arguments", "wrong", "said")} for row in rows if row["wrong"]
    ]
    return {
        "trials": len(rows),
        "kinds": Counter(row["kind"] for row in rows),
        "exit_codes": {str(code): count for code, count in Counter(row["code"] for row in rows).items()},
        **{name: wrong[name] for name in ("traceback", "defect", "hang", "died", "code", "silent", "lost")},
        "slowest_seconds": max(row["seconds"] for row in rows),
        "examples": examples[:20],
    }


def _command(arguments: list[str]) -> int:
    from udrl.cli.main import run as udrl

    return udrl(arguments)


def _import_everything() -> None:
    """Import what the commands import, so that a case costs what it does and not what Python's start does."""
    warnings.simplefilter("default")
    for name in WARM:
        import_module(name)


def _apart(call: Any) -> None:
    """Call it in a process of its own: threads that it starts would not survive the forks to come."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(SystemExit):
            call()
            code = 0
        os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit("the valid run could not be made")


def _worker(base: Path, work: Path, indexes: list[int], seed: int) -> Any:
    """Yield the results of a worker until it has done all, died or hung."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reads)
        try:
            _work(base, work, list(indexes), seed, writes)
        finally:
            os._exit(0)  # never up into what its parent was doing
    os.close(writes)
    buffer = b""
    try:
        for index in list(indexes):
            while b"\n" not in buffer:
                piece = os.read(reads, 1 << 16) if _ready(reads, child) else None
                if not piece:
                    yield _ended(base, work, index, seed, "died" if piece == b"" else "hang")
                    return
                buffer += piece
            line, _, buffer = buffer.partition(b"\n")
            yield json.loads(line)
    finally:
        os.close(reads)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _ready(pipe: int, child: int) -> bool:
    """Wait for a result; False once the case has worked for LIMIT seconds of processor time, or slept as long.

    On a busy machine a case gets a share of a processor, and the clock says little about it.
    """
    begun = last = _worked(child)
    slept = 0
    while not select.select([pipe], [], [], 1.0)[0]:
        now = _worked(child)
        slept = slept + 1 if now - last < 0.02 else 0
        last = now
        if max(now - begun, slept) > LIMIT:
            return False
    return True


def _worked(child: int) -> float:
    """Return the seconds of processor time of a process, with those of the processes that it has waited for."""
    fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _ended(base: Path, work: Path, index: int, seed: int, how: str) -> dict[str, Any]:
    """Describe a case that did not end by itself."""
    case = _lay_out(base, work.with_name("again"), index, seed)
    return {
        "index": index, "kind": case.kind, "what": case.what, "arguments": case.arguments, "code": -1, "seconds": LIMIT,
        "wrong": [how], "said": "",
    }  # fmt: skip


def _lay_out(base: Path, work: Path, index: int, seed: int) -> cases.Case:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return cases.make(base, work, random.Random(f"{seed}/{index}"))


def _work(base: Path, work: Path, indexes: list[int], seed: int, pipe: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))  # what asks for all memory is refused, not the machine
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = work.with_name("said")
    for index in indexes:
        case = _lay_out(base, work, index, seed)
        os.chdir(work)
        before = {path: _print(path) for path in case.intact}
        file = os.open(said, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        begun = time.monotonic()
        escaped = ""
        try:
            code = _command(list(case.arguments))
        except BaseException as error:  # noqa: BLE001 - what escapes is what is counted
            code, escaped = -1, f"{type(error).__name__}: {error}"
        sys.stdout.flush()
        sys.stderr.flush()
        text = said.read_text(encoding="utf-8", errors="replace")
        result = {
            "index": index,
            "kind": case.kind,
            "what": case.what,
            "arguments": case.arguments,
            "code": code,
            "seconds": round(time.monotonic() - begun, 2),
            "wrong": _wrong(code, escaped, text, before),
            "said": (escaped or text)[-600:],
            "changed": [path.relative_to(work).as_posix() for path in _changed(before)],
        }
        os.write(pipe, json.dumps(result).encode() + b"\n")
        os.chdir(work.parent)


def _print(path: Path) -> tuple[int, int, int]:
    if not path.is_file():
        return 0, 0, 0
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _changed(before: dict[Path, tuple[int, int, int]]) -> list[Path]:
    """Return the files that are other than before; run.json may always say more, and vectors are kept for later."""
    kept = {path: known for path, known in before.items() if path.name != "run.json" and path.suffix != ".vectors"}
    return [path for path, known in kept.items() if _print(path) != known]


def _wrong(code: int, escaped: str, text: str, before: dict[Path, tuple[int, int, int]]) -> list[str]:
    failed = code not in (0, 130)
    found = {
        "traceback": bool(escaped) or "Traceback (most recent" in text,
        "defect": "a defect of udrl" in text,
        "code": code not in CODES,
        "silent": failed and not any(line.startswith("error: ") for line in text.splitlines()),
        "lost": failed and bool(_changed(before)),
    }
    return [name for name, true in found.items() if true]

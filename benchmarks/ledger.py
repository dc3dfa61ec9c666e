"""Recorded outputs at scale: how fast, and in how much memory, they go through ledger, episode building and export.

    python benchmarks/ledger.py [N] [--samples 4] [--stages ledger export ...] [--folder FOLDER]

Writes a file of N made-up completions (five tasks, --samples for each input), then measures each stage in a process of
its own: rows a second, and the most memory that the process had resident.

    ledger   the file surveyed, its rows keyed and appended to the ledger
    build    episodes built (cleaned, screened, negatives derived), and dropped
    export   episodes built, and written as Parquet with their card
    again    the whole command once more, as after an interruption: everything is there already
    command  `udrl synth --teacher recorded:FILE --no-score` from nothing, which is ledger and export in one process
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from udrl.data import hygiene
from udrl.data.episode import Episode
from udrl.data.episode_builder import build_episodes
from udrl.data.episodes import write_episodes
from udrl.data.hygiene import Hygiene
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.tasks import stored_tasks
from udrl.progress import track
from udrl.teacher.backends import recorded
from udrl.teacher.synthesis.budget import Budget
from udrl.teacher.synthesis.outcome import SynthReport
from udrl.teacher.synthesis.start import Start

TASKS = ("text-to-image", "text-to-video", "design-template", "assistant", "search-query")
MODELS = ("gpt-4o", "llama-3-70b", "human")
SYLLABLES = ("ka", "lo", "mi", "ren", "su", "tor", "vel", "dan", "pir", "os", "gal", "he")


def write_rows(path: Path, count: int, *, samples: int) -> None:
    """Write ``count`` completions of 20 to 60 words; a fixed seed decides them."""
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(20_000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            if number % samples == 0:
                given = " ".join(rng.choices(words, k=rng.randint(4, 16)))
                task = rng.choice(TASKS)
            output = " ".join(rng.choices(words, k=rng.randint(20, 60)))
            row = {"task": task, "input": given, "output": output, "model": rng.choice(MODELS)}
            file.write(json.dumps(row) + "\n")


def fill_ledger(run: Run, file: Path) -> None:
    """Put the file into the ledger of ``run``, as ``udrl synth`` does before it builds episodes."""
    with closing(recorded.RecordedTeacher(file)) as writer, run.writing():
        found = writer.survey()
        tasks = recorded.define_tasks(run, found, source=file)
        report = SynthReport(run=run.path, teacher="recorded", requests=found.rows)
        described = {model: {"backend": "recorded"} for model in found.licences}
        start = Start(
            run, report, teachers=described, prices={}, budget=Budget(), seed=0, samples=None, started=time.monotonic()
        )
        with start.recording(), closing(track("ledger", total=found.rows, unit="rows")) as bar:
            names = {task.name: task for task in tasks}
            start.ask(writer, writer.requests(), bar=bar, backend="recorded", tasks=names)


def episodes(run: Run, ledger: Ledger) -> Iterator[Episode]:
    """Build the episodes of ``run`` without returns."""
    screen = hygiene.screen(run, ledger, Hygiene())
    return build_episodes(ledger, stored_tasks(run), screen=screen)


def work(stage: str, folder: Path) -> None:
    """Do one stage in this process."""
    file, run = folder / "rows.jsonl", Run(folder / "run")
    if stage == "ledger":
        fill_ledger(run, file)
    elif stage == "build":
        with Ledger(run.ledger) as ledger:
            for _ in episodes(run, ledger):
                pass
    elif stage == "export":
        with Ledger(run.ledger) as ledger, run.writing():
            write_episodes(run.episodes, episodes(run, ledger))
    else:
        from udrl.cli.main import run as udrl

        target = run.path if stage == "again" else folder / "whole"
        code = udrl(["synth", "--run", str(target), "--teacher", f"recorded:{file}", "--no-score"])
        if code:
            raise SystemExit(code)


def measure(stage: str, folder: Path) -> tuple[float, float]:
    """Return the seconds that ``stage`` took, and its peak resident memory in MiB."""
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, __file__, "--stage", stage, "--folder", str(folder)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"stage {stage} ended with {child.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - started, usage.ru_maxrss * unit / 2**20


STAGES = ("ledger", "build", "export", "again", "command")


def main() -> None:
    """Measure and print one line a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=20_000, metavar="N")
    parser.add_argument("--samples", type=int, default=4, help="completions of one input")
    parser.add_argument("--folder", type=Path, help="where the files go (a new one; default: a temporary one)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="default: all of them")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        work(options.stage, options.folder)
        return
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder / "rows.jsonl", options.rows, samples=options.samples)
        size = (folder / "rows.jsonl").stat().st_size / 1e6
        print(f"{options.rows:,} rows, {options.samples} an input, {size:,.0f} MB", flush=True)
        for stage in options.stages:
            seconds, memory = measure(stage, folder)
            rate = options.rows / seconds
            print(f"{stage:8} {seconds:8.1f} s  {rate:9,.0f} rows/s  peak {memory:6,.0f} MiB", flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()

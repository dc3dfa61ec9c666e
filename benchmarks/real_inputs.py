"""A finished run on inputs that people wrote: ``udrl bench`` on suites made of the real data.

    UDRL_SHARED_DATA=FOLDER python benchmarks/real_inputs.py RUN [--inputs 50] [--seed 0] [--json FILE]

For each task, --inputs texts drawn with --seed among those of 3 to 40 words that training has not seen:

    text-to-image  prompts typed into image generators, up to the first comma  (t2i_prompts.jsonl.gz, column head)
    text-to-video  first sentences of people's image descriptions              (inputs.jsonl.gz, imageinwords)
    assistant      what people asked an assistant for                          (inputs.jsonl.gz, clinc150)
    search-query   what people typed into a search engine                      (inputs.jsonl.gz, query_wellformedness)

Tasks that the student does not know are left out. The teacher's row is its careful setting (built-in: full fidelity).
Printed is a table; the benchmark itself stays in RUN/bench/real-inputs. Without a run's student nothing is written.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SOURCES = {
    "text-to-image": ("t2i_prompts.jsonl.gz", ""),
    "text-to-video": ("inputs.jsonl.gz", "imageinwords"),
    "assistant": ("inputs.jsonl.gz", "clinc150"),
    "search-query": ("inputs.jsonl.gz", "query_wellformedness"),
}
SHORTEST, LONGEST = 3, 40
SUITE = """
schema: 1
name: real-inputs
title: Real inputs
description: Inputs that people wrote, {count} a task, drawn with seed {seed}.
inputs: {{folder: texts}}
tasks: [{tasks}]
samples: 3
systems: [student@matched, student@top, teacher, echo, shuffled]
following: {{inputs: {count}, seeds: 3, leakage_inputs: 0}}
latency_requests: 1
"""


def texts(folder: Path, task: str) -> Iterator[str]:
    """Yield the inputs that there are for ``task``."""
    name, source = SOURCES[task]
    with gzip.open(folder / name, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if not row["source"].startswith(source):
                continue
            text = row.get("head") if task == "text-to-image" else row["text"]
            if task == "text-to-video":
                text = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
            if text and SHORTEST <= len(text.split()) <= LONGEST:
                yield text


def write_suite(folder: Path, data: Path, tasks: list[str], *, count: int, seed: int) -> Path:
    """Write a suite of ``count`` inputs a task into ``folder`` and return its file."""
    (folder / "texts").mkdir()
    for task in tasks:
        found = sorted(set(texts(data, task)))
        # Twice as many as wanted: what training has seen is left out by the benchmark, which takes the first ones.
        drawn = random.Random(f"{seed} {task}").sample(found, min(len(found), 2 * count))
        lines = "".join(json.dumps({"text": text}) + "\n" for text in drawn)
        (folder / "texts" / f"{task}.jsonl").write_text(lines, encoding="utf-8")
    file = folder / "real-inputs.yaml"
    file.write_text(SUITE.format(count=count, seed=seed, tasks=", ".join(tasks)), encoding="utf-8")
    return file


def table(summary: dict[str, Any]) -> str:
    """Return the figures as a Markdown table, one task a row."""
    lines = [
        "| task | relevance of `student@top` | teacher, full fidelity | top / teacher | copy rate, top / teacher | "
        "words, top / teacher | Spearman relevance | Spearman length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    top, teacher = summary["systems"]["student@top"], summary["systems"]["teacher"]
    parity = summary["parity"]["student@top"]["teacher"]
    followed = summary["command_following"]["student"]

    def line(name: str, task: str | None) -> str:
        def of(entry: dict[str, Any]) -> dict[str, Any]:
            return entry if task is None else dict(entry["per_task"][task])

        mine, theirs, ratio = of(top), of(teacher), of(parity)
        pairs = [f"{mine[key]['mean']:.2f} / {theirs[key]['mean']:.2f}" for key in ("copy_rate", "length")]
        ranks = [f"{of(followed[name])['spearman_within_input']:.2f}" for name in ("relevance", "length")]
        low, high = ratio["ci95"]
        cells = [
            name,
            f"{mine['relevance']['mean']:.3f}",
            f"{theirs['relevance']['mean']:.3f}",
            f"{ratio['ratio']:.2f} [{low:.2f}, {high:.2f}]",
            *pairs,
            *ranks,
        ]
        return f"| {' | '.join(cells)} |"

    lines += [line(task, task) for task in top["per_task"]]
    lines.append(line("all", None))
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run with a trained student")
    parser.add_argument("--inputs", type=int, default=50, help="a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="keep the benchmark's summary here as well")
    options = parser.parse_args()
    data = os.environ.get("UDRL_SHARED_DATA")
    if options.run is None or not data:
        print("nothing measured: name a run with a trained student, and the folder of real data in UDRL_SHARED_DATA")
        return
    space = json.loads((options.run / "student" / "command_space.json").read_text(encoding="utf-8"))
    tasks = [task for task in SOURCES if task in space["tasks"]]
    with TemporaryDirectory() as folder:
        suite = write_suite(Path(folder), Path(data), tasks, count=options.inputs, seed=options.seed)
        command = [
            sys.executable, "-m", "udrl", "bench", "--run", str(options.run), "--suite", str(suite),
            "--limit", str(options.inputs), "--seed", str(options.seed), "--json",
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    if options.json:
        options.json.write_text(done.stdout, encoding="utf-8")
    print(table(json.loads(done.stdout)))


if __name__ == "__main__":
    main()

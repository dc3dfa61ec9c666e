"""The cases of `malformed.py`: what is malformed, and the command that is given it."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from faults.mutations import mutate

TASK = "search-query"


@dataclass(frozen=True)
class Case:
    """kind: files, run or options. what: what is malformed. intact: files that a refused command must leave alone."""

    kind: str
    what: str
    arguments: list[str]
    intact: list[Path]


def prepare(base: Path, command: Callable[[list[str]], int]) -> None:
    """Make the valid files and the valid run (in ``base``) that the cases are mutations of."""
    files, run = base / "files", str(base / "run")
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    made = [
        [
            *"synth --no-decontaminate --num-inputs 30 --samples 2 --task text-to-image --task".split(),
            TASK,
            "--run",
            run,
        ],
        ["train", "--student", "gpt2-700k", "--steps", "4", "--batch-size", "8", "--vocab-size", "400", "--run", run],
        ["export", "--run", run],
        ["bench", "--run", run, "--limit", "2", "--name", "small"],
        ["render", "--run", run],
    ]
    for arguments in made:
        done = base / f"{arguments[0]}.done"
        if not done.exists() and command(arguments) != 0:
            raise SystemExit(f"the valid run could not be made: udrl {' '.join(arguments)}")
        done.touch()
    rows = [{"id": n, "task": TASK, "text": f"a cheap lamp number {n} for a small room", "answer": n} for n in range(8)]
    outputs = [
        {"instruction": row["text"], "output": f"cheap lamp {n} small room", "generator": "x", "dataset": TASK}
        for n, row in enumerate(rows)
    ]
    write_tables(files / "inputs", rows)
    write_tables(files / "outputs", outputs)
    written = pq.read_table(next((base / "run" / "episodes").glob("train*.parquet"))).to_pylist()
    scored = [
        {name: row[name] for name in ("task", "input", "completion")} for row in written if not row["rejected_by"]
    ]
    write_tables(files / "rewards", [{**row, "clicks": 0.5 + n % 2 / 4} for n, row in enumerate(scored)])
    (files / "inputs.txt").write_text("\n".join(str(row["text"]) for row in rows) + "\n", encoding="utf-8")
    shipped = {
        "task.yaml": f"data/tasks/{TASK}.yaml",
        "teacher.yaml": "teacher/builtin.yaml",
        "suite.yaml": "eval/relevance.yaml",
    }
    root = Path(__file__).parents[2]
    for name, source in shipped.items():
        shutil.copy(root / source, files / name)
    shutil.copy(root / "teacher/llama3.yaml", files / "llm.yaml")
    shutil.copy(root / f"data/seeds/{TASK}.jsonl", files / f"{TASK}.jsonl")
    config = {"run": "run", "seed": 3, "synth": {"task": [TASK], "num-inputs": 3, "samples": 1}}
    config["generate"] = {"task": TASK, "target": {"relevance": 0.6, "length": 8}}
    (files / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def write_tables(stem: Path, rows: list[dict[str, object]]) -> None:
    """Write ``rows`` in every format that udrl reads."""
    stem.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps(rows), encoding="utf-8")
    with stem.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), stem.with_suffix(".parquet"))
    for suffix in (".jsonl", ".csv"):
        packed = gzip.compress(stem.with_suffix(suffix).read_bytes(), mtime=0)
        stem.with_suffix(f"{suffix}.gz").write_bytes(packed)


def _readers(run: Path) -> dict[str, list[list[str]]]:
    """Return the commands by what file they read; FILE stands for it."""
    new = ["--run", str(run.with_name("new"))]
    few = ["--num-inputs", "3", "--samples", "1", "--no-score"]
    small = [*few, "--no-decontaminate"]
    given = ["generate", "--run", str(run), "--task", TASK, "--max-tokens", "4"]
    rewards = ["score", "--reward", "novelty", "--run", str(run), "--reward-file", "FILE", "--reward-field"]
    recorded = ["--teacher", "recorded:FILE", "--no-score", "--no-decontaminate", *new]
    return {
        "inputs": [
            ["synth", "--task", TASK, "--inputs", "FILE", *small, *new],
            ["synth", "--task", TASK, "--inputs", "FILE", "--input-field", "text", *small, *new],
            ["synth", "--task", "arithmetic", "--inputs", "FILE", *small, *new],
            ["synth", "--task", TASK, "--inputs", "FILE", "--input-field", "id", *small, "--dry-run", *new],
            [*given, "--input-file", "FILE"],
            ["score", "--answers", "FILE", "--reward", "accuracy", "--run", str(run)],
        ],
        "outputs": [
            *[["synth", "--num-inputs", "3", *recorded], ["synth", "--task", TASK, *recorded]] * 2,
            *[["synth", "--task", TASK, "--dry-run", *recorded]] * 2,
            ["bench", "--recorded", "FILE", "--limit", "1", *new],
        ],
        "rewards": [[*rewards, "clicks"], [*rewards, "clicks=0:1"]],
        "task": [["tasks", "FILE"], ["tasks", "FILE"], ["synth", "--task", "FILE", *small, *new]],
        TASK: [["synth", "--task", "TASK", *small, *new]],  # the seeds beside the task's file
        "teacher": [["teachers", "FILE"], ["synth", "--task", TASK, "--teacher", "FILE", *small, *new]],
        "llm": [["teachers", "FILE"], ["synth", "--task", TASK, "--teacher", "FILE", "--dry-run", *small, *new]],
        "suite": [
            ["synth", "--task", TASK, "--decontaminate", "FILE", *few, *new],
            ["bench", "--suite", "FILE", "--limit", "1", "--run", str(run.with_name("none"))],
        ],
        "config": [["synth", "--config", "FILE", *small, *new], [*given, "--config", "FILE", "lamp"]],
    }


def _run_commands(run: str) -> list[tuple[int, str, list[str]]]:
    """Return the commands that read a run: how often each is taken, what it reads, its arguments."""
    generate = ["generate", "--run", run, "--task", TASK, "--max-tokens", "4"]
    synth = ["synth", "--run", run, "--task", TASK, "--task", "text-to-image"]
    train = ["train", "--run", run, "--student", "gpt2-700k", "--steps", "1", "--batch-size", "2"]
    return [
        (30, "student", [*generate, "--target-relevance", "0.6", "lamp"]),
        (20, "student", [*generate, "--engine", "torch", "lamp"]),
        (10, "student episodes", ["render", "--run", run]),
        (10, "ledger inputs tasks", [*synth, "--num-inputs", "30", "--samples", "3", "--no-score"]),
        (3, "bench", ["report", "--run", run]),
        (3, "episodes", ["report", "--episodes", "--run", run]),
        (1, "ledger episodes cache", ["score", "--run", run]),
        (3, "ledger episodes", ["score", "--reward", "novelty", "--run", run]),
        (1, "episodes student", train),
        (2, "episodes", ["select", "--run", run, "--student", "gpt2-700k", "--probe-steps", "1"]),
        (1, "student episodes", ["calibrate", "--run", run, "--inputs", "1"]),
        (2, "student episodes", ["push", "--run", run, "--repo", "x/y"]),
        (1, "bench student", ["bench", "--run", run, "--limit", "1", "--name", "small"]),
    ]


OPTION_VALUES = (
    "", " ", "0", "-1", "1", "nan", "inf", "-inf", "1e309", "1e-400", "9" * 30, "9" * 5000, "0.5", "0x10",
    "1_000", "٣", "½", "=", "=0.5", "relevance=", "relevance=nan", "relevance=2", "relevance=1e999",
    "relevance=0.5=0.6", "length=-3", "length=1e400", "length=half", "x=y", "a=b=c", "recorded:", "recorded:.",
    "recorded:/dev/null", ".", "..", "../..", "/dev/null", "/dev/null/x", "/proc/none/x", "x" * 300,
    "a/" * 3000, "\udcff\udcfe", "\u202e", "\n", "--", "-", "@", "{}", "%s", "http://", "http://[",
    "http://127.0.0.1:99999", "http://\udcff", "ftp://x", "file:///etc/passwd", "hf://x/y", "gpt2-mimi", "auto",
    "cuda:99", "meta", "cpu", "none", "True", "null", "[1]", "module:function", "os:system", ":", "a:b:c",
    "clicks=1:0", "clicks=nan:1", "NAME=VALUE", "builtin=0", "builtin=-1", "builtin=nan", "llama3=", "ids",
    "int8", "fp32",
)  # fmt: skip

HEAVY = ("demo", "train", "prefer", "select", "calibrate", "improve", "bench", "export", "push")
"""Commands that work for long where nothing stops them: their options are tried on a run that does not exist."""


def _options(command: click.Command) -> Iterator[click.Option]:
    for option in command.params:
        if isinstance(option, click.Option) and option.opts[0] not in ("--help", "--debug", "--run"):
            yield option


def _with_options(rng: random.Random, run: Path) -> tuple[str, list[str]]:
    """Return a command whose options are malformed, and what they are."""
    name = rng.choice(
        (
            "synth",
            "synth",
            "generate",
            "generate",
            "render",
            "report",
            "init",
            "tasks",
            "teachers",
            "score",
            *HEAVY,
            "doctor",
        )
    )
    command = import_module(f"udrl.cli.{name}").command
    missing = name in HEAVY or (name in ("score", "report") and rng.random() < 0.8)
    arguments = [name, "--run", str(run.with_name("missing") if missing else run)]
    if name == "synth":
        arguments += ["--dry-run", "--num-inputs", "2"]
    elif name == "generate":
        arguments += ["--task", TASK, "--max-tokens", "3", "lamp"]
    given = []
    for option in rng.sample(list(_options(command)), k=rng.choice((1, 1, 2, 3))):
        given.append(rng.choice(option.opts))
        if not option.is_flag:
            given += [rng.choice(OPTION_VALUES)] * max(1, option.nargs)
    if name in ("tasks", "teachers", "init", "generate") and rng.random() < 0.4:
        given.append(rng.choice(OPTION_VALUES))
    if rng.random() < 0.03:
        given.append("--no-such-option")
    if name in ("demo", "improve", "doctor"):
        given += ["--seed", "x"]  # these need no run
    return " ".join(given), [*arguments, *given]


def _copy(base: Path, target: Path) -> None:
    """Copy the run: as links, which cost less, but for what udrl appends to; all else it only ever replaces."""
    for folder, _, names in os.walk(base):
        to = target / Path(folder).relative_to(base)
        to.mkdir(parents=True)
        for name in names:
            written = to.name in ("ledger", "cache") or name == ".lock"
            (shutil.copy2 if written else os.link)(f"{folder}/{name}", to / name)


def _laid_out(base: Path, run: Path, arguments: list[str]) -> list[Path]:
    """Copy the valid run where a command names it, and return its files."""
    if str(run) not in arguments:
        return []
    _copy(base / "run", run)
    return [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]


def make(base: Path, work: Path, rng: random.Random) -> Case:
    """Lay out one malformed case in the empty folder ``work``."""
    run = work / "run"
    kind = rng.choices(("files", "run", "options"), (45, 25, 30))[0]
    if kind == "options":
        what, arguments = _with_options(rng, run)
        return Case(kind, what, arguments, _laid_out(base, run, arguments))
    if kind == "run":
        before = _laid_out(base, run, [str(run)])
        weights, reads, commands = zip(*_run_commands(str(run)), strict=True)
        number = rng.choices(range(len(commands)), weights)[0]
        read = [path for path in before if path.relative_to(run).parts[0] in reads[number].split()]
        target = rng.choice(sorted(read if rng.random() < 0.9 else before))
        what = f"{target.relative_to(work)}: {mutate(target, rng)}"
        return Case(kind, what, commands[number], [path for path in before if path != target])
    files = work / "files"
    shutil.copytree(base / "files", files, copy_function=os.link)
    target = rng.choice(sorted(files.iterdir()))
    wrong = mutate(target, rng)
    arguments = rng.choice(_readers(run)[target.name.partition(".")[0]])
    before = _laid_out(base, run, arguments)
    names = {"FILE": str(target), "TASK": str(files / "task.yaml"), "recorded:FILE": f"recorded:{target}"}
    return Case(kind, f"{target.name}: {wrong}", [names.get(argument, argument) for argument in arguments], before)

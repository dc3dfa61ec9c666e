"""The benchmark: systems side by side on held-out inputs, and whether commands are followed.

What is written first (``completions.parquet``) is all that needs a model; scores, summary and report follow
from it. A benchmark that is run again reuses what was written under the same conditions. It never trains.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udrl.data.run import Run, hardware
from udrl.data.tasks import stored_tasks
from udrl.encoder import Encoder, LsaEncoder, load_encoder
from udrl.errors import RunError, UsageError
from udrl.eval import following, systems
from udrl.eval.records import Block, Completion, write_blocks
from udrl.eval.report import report
from udrl.eval.scores import Scores, score, write_scores
from udrl.eval.session import (
    STUDENT,
    SWEPT,
    RunData,
    Session,
    planned_rows,
    read_data,
)
from udrl.eval.suites import SYSTEMS, Items, Suite, load_items, load_suite
from udrl.eval.summary import build_summary, write_summary
from udrl.eval.systems import Student
from udrl.eval.teachers import (
    TEACHER,
    Contestant,
    check_base_url,
    is_builtin,
    named_teacher,
    own_teacher,
    recorded_rows,
)
from udrl.eval.verdict import Verdict, verdicts
from udrl.progress import track


@dataclass(frozen=True)
class BenchReport:
    """What a benchmark found and where.

    folder: with all its files; report: the page; summary: contents of summary.json; verdicts and notes: the
    report's sentences; written, reused: numbers of completions; seconds: wall clock.
    """

    folder: Path
    report: Path
    summary: Mapping[str, Any]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    written: int
    reused: int
    seconds: float


def bench(
    run: Run | Path | str,
    *,
    suite: str | Path | None = None,
    name: str | None = None,
    reference: Sequence[str | Path] = (),
    recorded: Sequence[str | Path] = (),
    base_url: str | None = None,
    teacher: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
) -> BenchReport:
    """Benchmark the student of ``run`` and write ``bench/NAME/`` into it.

    suite: name of a suite that ships, or a YAML file. None: ``relevance`` for a run of the built-in teacher, else
        ``heldout``, the run's own test inputs, for which there are completions even where nobody can be asked.
    name: of the folder (None: the suite's).
    reference: names or files of teacher cards to run live beside the run's own teacher; the first one leads:
        ``student@matched`` is matched to it.
    recorded: files of outputs that exist already (columns task, input, output, model): a row for each model.
    base_url: the OpenAI-compatible endpoint where references and the run's teacher are asked, the built-in apart.
    teacher: card of the run's teacher (None: the one that the run was synthesised with).
    limit: at most so many inputs a task, for a quick look.
    device, precision, engine: how the student runs; scores are always computed in float32.

    A teacher that cannot be asked now is no error: its row is what it wrote for the run's test inputs, where the suite
    has those, or is left out; a note says so. Raises UsageError for unknown names, TaskError for a suite that is not
    valid or holds nothing unseen, InputError for recorded outputs that do not fit, RunError for a run without episodes
    or student, StudentError as its parts do.
    """
    from udrl.student import load

    run = run if isinstance(run, Run) else Run(run)
    run.check()
    chosen = load_suite(suite or ("relevance" if is_builtin(run) else "heldout"))
    key = folder_key(run.student)
    student = load(run.student, device=device, precision=precision, engine=engine)
    return bench_student(
        run,
        chosen,
        student,
        student_key=key,
        name=name,
        reference=reference,
        recorded=recorded,
        base_url=base_url,
        teacher=teacher,
        seed=seed,
        limit=limit,
    )


def bench_student(
    run: Run,
    suite: Suite,
    student: Student,
    *,
    student_key: str,
    name: str | None = None,
    reference: Sequence[str | Path] = (),
    recorded: Sequence[str | Path] = (),
    base_url: str | None = None,
    teacher: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> BenchReport:
    """Benchmark a loaded ``student`` on ``suite``; ``student_key`` identifies its weights. See `bench`."""
    started = time.monotonic()
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, found {limit}")
    folder = run.bench(name or suite.name)
    data = read_data(run)
    tasks = {task.name: task for task in stored_tasks(run)}
    items = load_items(
        suite,
        known_tasks=[task for task in tasks if task in student.space.tasks],
        seen=lambda _task, input_id: input_id in data.seen,
        split=data.test_items,
        limit=limit,
    )
    contestants: list[Contestant] = [
        named_teacher(card, run, data.answers, kind="reference", base_url=base_url) for card in dict.fromkeys(reference)
    ]
    notes: list[str] = []
    if TEACHER in suite.systems:
        if teacher is not None:
            contestants.append(named_teacher(teacher, run, data.answers, kind="teacher", base_url=base_url))
        else:
            own, told_of_own = own_teacher(run, data.answers, base_url=base_url)
            contestants.append(own)
            notes += told_of_own
    check_base_url(contestants, base_url)
    for file in recorded:
        rows, told_of_rows = recorded_rows(
            Path(file), items.items, taken=[*SYSTEMS, *(one.name for one in contestants)]
        )
        contestants += rows
        notes += told_of_rows
    with run.writing():
        folder.mkdir(parents=True, exist_ok=True)
        total = planned_rows(suite, student, items, contestants, seed)
        with closing(track(f"bench {suite.name}: writing", total=total, unit="completions")) as bar:
            session = Session(
                folder, suite, items, tasks, data, student, student_key, seed, _cache(run), bar, notes=notes
            )
            blocks = session.write(contestants)
        told = (*session.notes, *_notes(suite, items, data))
        about = {"title": suite.title, "description": suite.description, "notes": list(told)}
        write_blocks(folder, blocks, about=about)
        summary = _judge(run, folder, suite, student, data, blocks, session.references(contestants), seed)
        page = report(folder)
        seconds = round(time.monotonic() - started, 3)
        run.record(
            f"bench {folder.name}",
            suite=suite.name,
            seed=seed,
            limit=limit,
            inputs=len(items.items),
            completions={"written": session.written, "reused": session.reused},
            seconds=seconds,
        )
    found = tuple(verdicts(summary))
    return BenchReport(folder, page, summary, found, told, session.written, session.reused, seconds)


def folder_key(folder: Path) -> str:
    """Return a hash of the contents of a student's folder, its model card left out.

    Raises RunError where there is no such folder.
    """
    import hashlib

    def new() -> Any:
        return hashlib.blake2b(digest_size=16)

    if not folder.is_dir():
        raise RunError(f"{folder} does not exist: train a student first (udrl train)")
    digest = new()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "README.md" and not path.name.startswith("."):
            with path.open("rb") as file:
                part = hashlib.file_digest(file, new).hexdigest()
            digest.update(f"{path.relative_to(folder)}\0{part}\0".encode())
    return str(digest.hexdigest())


def describe_hardware() -> str:
    """Return this machine in one line: processor, cores, GPUs, system."""
    facts = hardware()
    gpus = ", ".join(facts["gpus"]) or "no GPU"
    return f"{facts['processor']}, {facts['cores']} cores, {gpus}, {facts['system']}"


def _judge(
    run: Run,
    folder: Path,
    suite: Suite,
    student: Student,
    data: RunData,
    blocks: Sequence[Block],
    references: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Score all blocks, and write scores.parquet and summary.json."""
    rows = [row for block in blocks for row in block.rows]
    encoder = load_encoder(suite.encoder, precision="fp32", cache=_cache(run))
    second = _second_encoder(run, suite, rows, seed)
    with closing(track(f"bench {suite.name}: scoring", total=None, unit="texts")) as bar:
        scores = score(rows, encoder=encoder, second=second, references=references, bar=bar)
    write_scores(folder, scores, encoder=encoder.name, second_encoder=second.name)
    about = {
        "suite": suite.name,
        "encoder": encoder.name,
        "second_encoder": second.name,
        "hardware": describe_hardware(),
        "seed": seed,
    }
    summary = build_summary(
        scores,
        [block.facts for block in blocks if "#" not in block.name],
        references=references,
        about=about,
        command_following=_following(student, data, scores),
    )
    write_summary(folder, summary)
    return summary


def _following(student: Student, data: RunData, scores: Scores) -> dict[str, Any]:
    attributes = [name for name in SWEPT if name in systems.attribute_names(student)]
    found: dict[str, Any] = {}
    for name in attributes:
        own = [i for i, row in enumerate(scores.rows) if row.attribute == name]
        if not own:
            continue
        rows = [scores.rows[i] for i in own]
        bounds = {
            task: {
                other: following.Bounds(student.reachable(task, other), data.spread(task, other))
                for other in attributes
            }
            for task in dict.fromkeys(row.task for row in rows)
        }
        achieved = {other: scores.columns[other][own] for other in attributes}
        found[name] = following.measure(rows, achieved, name, bounds)
    return {STUDENT: found} if found else {}


def _second_encoder(run: Run, suite: Suite, rows: Sequence[Completion], seed: int) -> Encoder:
    if suite.second_encoder != "lsa":
        return load_encoder(suite.second_encoder, precision="fp32", cache=_cache(run))
    compared = [row for row in rows if row.part == "comparison"]
    texts = [row.input for row in compared]
    texts += [row.completion for row in compared if row.completion is not None]
    return LsaEncoder.fit(list(dict.fromkeys(texts)), seed=seed)


def _cache(run: Run) -> Path:
    return run.path / "cache"


def _notes(suite: Suite, items: Items, data: RunData) -> list[str]:
    """What a reader must know to believe the figures."""
    from udrl.teacher.builtin.phrases import content_words

    known = {word.casefold() for text in {e.input for e in data.pool} for word in content_words(text)}
    used = [word.casefold() for item in items.items for word in content_words(item.input)]
    unseen = sum(word not in known for word in used) / max(1, len(used))
    counts = {task: len(items.of(task)) for task in items.tasks}
    listed = ", ".join(f"{task} {count}" for task, count in counts.items())
    notes = [
        f"Inputs: {listed}. Up to {suite.samples} completions each, with different seeds.",
        f"{100 * unseen:.0f} % of the content words of the inputs occur in no training input.",
    ]
    if items.seen:
        notes.append(f"{items.seen} inputs of the suite were left out because training had seen them.")
    sweep = suite.following
    if sweep is None:
        return notes
    notes.append(
        f"Command following: the first {sweep.inputs} inputs a task, nine levels, {sweep.seeds} seeds. "
        f"Leakage: the first {sweep.leakage_inputs} inputs at levels 10, 50 and 90 %, the other attributes "
        "commanded at their median."
    )
    few = [task for task, count in counts.items() if min(count, sweep.inputs) < following.MIN_INPUTS]
    if few:
        notes.append(
            f"Command following is defined on at least {following.MIN_INPUTS} inputs a task; there are fewer "
            f"for {', '.join(few)}."
        )
    return notes

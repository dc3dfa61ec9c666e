"""The benchmark: systems side by side on held-out inputs, and whether commands are followed.

What is written first (``completions.parquet``) is all that needs a model; scores, summary and report follow
from it. A benchmark that is run again reuses what was written under the same conditions. It never trains.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from udrl import hardware
from udrl.arguments import checked
from udrl.data.episodes import has_episodes
from udrl.data.facts import BenchFacts
from udrl.data.known_answers import Answers, store_answers
from udrl.data.run import Run
from udrl.data.tasks import Task
from udrl.errors import RunError, UsageError
from udrl.eval import measurement
from udrl.eval.benchmark_files import chosen_benchmark
from udrl.eval.caveat_notes import backend_notes, empty_notes, notes_of
from udrl.eval.completions import Block, read_blocks
from udrl.eval.llm_judge import ask_judge
from udrl.eval.measurement import Judge, ScoringSetting, load_setting, measure, store
from udrl.eval.pages.benchmark import report as write_report
from udrl.eval.participants import (
    RECORDED,
    card_or_name,
    check_known,
    chosen_items,
    contestants_of,
    known_answers,
    known_tasks,
)
from udrl.eval.report_sentences import ReportSentence, report_sentences
from udrl.eval.students import STUDENT, StudentEntry, student_entries, student_entry
from udrl.eval.suites import Items, Suite, load_suite
from udrl.eval.systems import CommandedStudent
from udrl.eval.teachers import check_base_url, check_tasks, is_builtin
from udrl.eval.writer import BlockWriter, RunData, planned_rows, read_data
from udrl.progress import track
from udrl.teacher import cards
from udrl.teacher.backends import choice


@dataclass(frozen=True)
class BenchReport:
    """What a benchmark found and where.

    folder: with all its files; report: the page; summary: contents of summary.json; sentences and notes: the
    report's sentences; written, reused: numbers of completions; seconds: wall clock.
    """

    folder: Path
    report: Path
    summary: Mapping[str, Any]
    sentences: tuple[ReportSentence, ...]
    notes: tuple[str, ...]
    written: int
    reused: int
    seconds: float


@checked
def bench(
    run: Run | Path | str,
    *,
    suite: str | Path | None = None,
    name: str | None = None,
    students: Sequence[str | Path] = (),
    reference: Sequence[str | Path] = (),
    recorded: Sequence[str | Path] = (),
    base_url: str | None = None,
    teacher: str | Path | None = None,
    judge: str | Path | None = None,
    rewards: Sequence[str] = (),
    encoder: str | None = None,
    second_encoder: str | None = None,
    machine_usd: float | None = None,
    seed: int = 0,
    limit: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
) -> BenchReport:
    """Benchmark the student of ``run`` and write ``bench/NAME/`` into it.

    suite: name of a suite that ships, or a YAML file. None: ``relevance`` for a run of the built-in teacher without
        generated tasks, else ``heldout``, the run's own test inputs, for which there are completions even where nobody
        can be asked; with ``recorded`` files and no student, ``recorded``: their own inputs. That needs no run.
    name: of the folder (None: the suite's).
    students: further ones, ``PATH`` or ``NAME=PATH`` of a run or checkpoint, beside the run's own.
    reference: what to compare with: models of the recorded files, and names or files of teacher cards, which are asked
        live; the first one leads: ``student@matched`` is matched to it. None: the teacher and every recorded model.
    recorded: files of outputs that exist already (`udrl.eval.recorded`): a row for each model.
    base_url: the OpenAI-compatible endpoint where references, judge and the run's teacher are asked (not the built-in).
    teacher: card of the run's teacher (None: the one that the run was synthesised with).
    judge: card of an LLM that is shown pairs of completions (`udrl.eval.llm_judge`).
    rewards: further figures of every completion (`udrl.rewards.load_reward`).
    encoder, second_encoder: instead of the suite's.
    machine_usd: price of an hour of this machine in US dollars, for the cost of 1,000 calls of a student.
    limit: at most so many inputs a task, for a quick look.
    device, precision, engine: how students run; scores are always computed in float32.

    A teacher that cannot be asked now is no error: its row is what it wrote for the run's test inputs, where the suite
    has those, or is left out; a note says so. Raises UsageError for unknown names, TaskError for a suite that is not
    valid or holds nothing unseen, InputError for recorded outputs that do not fit, RunError for a run without episodes
    or student, StudentError as its parts do.
    """
    run = run if isinstance(run, Run) else Run(run)
    alone = not run.student.is_dir() and not students
    if suite is None and alone and recorded:
        suite = RECORDED
    chosen = load_suite(suite if suite is not None else _usual_suite(run, students))
    files = [*map(Path, recorded), *chosen.recorded]
    if alone and not chosen.students and not files:
        run.check()
        raise RunError(f"{run.student} does not exist: train a student first (udrl train), or name --recorded outputs")
    answers = known_answers(run, chosen, files)
    entries = student_entries(
        run, [*chosen.students, *students], device=device, precision=precision, engine=engine, answers=answers
    )
    return _bench(
        run,
        replace(
            chosen,
            encoder=encoder or chosen.encoder,
            second_encoder=second_encoder or chosen.second_encoder,
            references=tuple(map(card_or_name, (*reference, *chosen.references))),
            recorded=tuple(files),
            rewards=(*chosen.rewards, *rewards),
        ),
        entries,
        answers,
        name=name,
        base_url=base_url,
        teacher=teacher,
        judge=judge,
        machine_usd=machine_usd,
        seed=seed,
        limit=limit,
    )


@checked
def bench_student(
    run: Run,
    suite: Suite,
    student: CommandedStudent,
    *,
    student_key: str,
    name: str | None = None,
    reference: Sequence[str | Path] = (),
    recorded: Sequence[str | Path] = (),
    base_url: str | None = None,
    teacher: str | Path | None = None,
    judge: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> BenchReport:
    """Benchmark a loaded ``student`` on ``suite``; ``student_key`` identifies its weights. See `bench`."""
    whole = replace(
        suite,
        references=tuple(map(card_or_name, (*reference, *suite.references))),
        recorded=(*map(Path, recorded), *suite.recorded),
    )
    answers = known_answers(run, whole, whole.recorded)
    entries = [student_entry(STUDENT, student, key=student_key, run=run, answers=answers)]
    return _bench(
        run,
        whole,
        entries,
        answers,
        name=name,
        base_url=base_url,
        teacher=teacher,
        judge=judge,
        seed=seed,
        limit=limit,
    )


@checked
def rescore(
    run: Run | Path | str,
    *,
    name: str | None = None,
    encoder: str | None = None,
    second_encoder: str | None = None,
    rewards: Sequence[str] = (),
) -> BenchReport:
    """Score the stored completions of the benchmark ``name`` again, with other encoders or further ``rewards``.

    name: None where the run has only one. Nothing is generated, and neither student nor teacher is needed.
    Raises RunError where there is no such benchmark, UsageError where there are several to choose from.
    """
    started = time.monotonic()
    run = run if isinstance(run, Run) else Run(run)
    folder = chosen_benchmark(run, name)
    setting, about = load_setting(folder)
    setting = replace(
        setting,
        encoder=encoder or setting.encoder,
        second_encoder=second_encoder or setting.second_encoder,
        rewards={**setting.rewards, **measurement.named_rewards(rewards)},
    )
    with run.writing():
        blocks = list(read_blocks(folder).values())
        store(folder, blocks, setting, about={key: about[key] for key in ("title", "description", "notes")})
        reused = sum(len(block.rows) for block in blocks)
        return _measured(folder, about["notes"], started=started, written=0, reused=reused)


def _bench(
    run: Run,
    suite: Suite,
    entries: Sequence[StudentEntry],
    answers: Answers,
    *,
    name: str | None,
    base_url: str | None,
    teacher: str | Path | None,
    judge: str | Path | None,
    seed: int,
    limit: int | None,
    machine_usd: float | None = None,
) -> BenchReport:
    started = time.monotonic()
    seed = seed or suite.seed or 0
    folder = run.bench(suite.name if name is None else name)
    data = read_data(run)
    tasks = known_tasks(run)
    items = chosen_items(suite, entries, data, tasks, limit)
    check_known(suite.rewards, items, answers)
    contestants, notes = contestants_of(run, suite, items, data, teacher=teacher, base_url=base_url, alone=not entries)
    check_tasks(contestants, items.tasks, tasks)
    if judge is None:  # which may be who is asked there
        check_base_url(contestants, base_url)
    with run.writing():
        folder.mkdir(parents=True, exist_ok=True)
        store_answers(
            folder, {item.input_id: answers[item.input_id] for item in items.items if item.input_id in answers}
        )
        total = planned_rows(suite, entries, items, contestants, seed)
        with closing(track(f"bench {suite.name}: writing", total=total, unit="completions")) as bar:
            writer = BlockWriter(folder, suite, items, tasks, data, entries, seed, run.path / "cache", bar, notes=notes)
            blocks = writer.write(contestants)
        told = [
            *writer.notes,
            *notes_of(suite, items, data, entries),
            *backend_notes(contestants),
            *empty_notes(blocks),
        ]
        references = writer.references(contestants)
        setting = _scoring_setting(suite, entries, items, data, references, seed=seed, machine_usd=machine_usd)
        about = {"title": suite.title, "description": suite.description, "notes": told}
        store(folder, blocks, setting, about=about)
        if judge is not None:
            setting = replace(setting, judge=_judged(folder, judge, base_url, blocks, references, tasks, items))
            store(folder, blocks, setting, about=about)
        report = _measured(folder, told, started=started, written=writer.written, reused=writer.reused)
        run.record(
            BenchFacts(
                name=folder.name,
                suite=suite.name,
                seed=seed,
                limit=limit,
                inputs=len(items.items),
                completions={"written": writer.written, "reused": writer.reused},
                seconds=report.seconds,
            )
        )
    return report


def _scoring_setting(
    suite: Suite,
    entries: Sequence[StudentEntry],
    items: Items,
    data: RunData,
    references: Sequence[str],
    *,
    seed: int,
    machine_usd: float | None,
) -> ScoringSetting:
    """Return what scoring has to know beside the completions."""
    of_students = {name: source for one in entries for name, source in one.rewards.items()}
    return ScoringSetting(
        suite=suite.name,
        seed=seed,
        encoder=suite.encoder,
        second_encoder=suite.second_encoder,
        hardware=hardware.describe_in_line(),
        references=tuple(references),
        rewards={**of_students, **measurement.named_rewards(suite.rewards)},
        bounds={one.name: measurement.bounds_of(one.student, one.swept, items.tasks, data.spread) for one in entries},
        machine_usd=machine_usd,
    )


def _measured(folder: Path, notes: Sequence[str], *, started: float, written: int, reused: int) -> BenchReport:
    """Score what is stored in ``folder``, write summary and report, and return what was found."""
    summary = measure(folder)
    return BenchReport(
        folder=folder,
        report=write_report(folder),
        summary=summary,
        sentences=tuple(report_sentences(summary)),
        notes=tuple(notes),
        written=written,
        reused=reused,
        seconds=round(time.monotonic() - started, 3),
    )


def _usual_suite(run: Run, students: Sequence[str | Path]) -> str:
    if students and not has_episodes(run.episodes):
        return "relevance"
    if any(task.generator for task in known_tasks(run).values()):
        return "heldout"  # the inputs of generated tasks are the run's own
    return "relevance" if is_builtin(run) else "heldout"


def _judged(
    folder: Path,
    judge: str | Path,
    base_url: str | None,
    blocks: Sequence[Block],
    references: Sequence[str],
    tasks: Mapping[str, Task],
    items: Items,
) -> Judge:
    """Have every system but the baselines judged beside the leading reference, students by their fairest row."""
    if not references:
        raise UsageError("a judge compares with a reference, and this benchmark has none: name a --reference")
    leading = references[0]
    compared = measurement.judged_systems(blocks, leading)
    card = cards.load_card(judge)
    if base_url is not None:
        card = cards.at_endpoint(card, base_url)
    templates = {task: tasks[task].request("{input}") for task in items.tasks if task in tasks}
    by = Judge(card.name, card.model, tuple((name, leading) for name in compared), templates)
    pairs = by.pairs([row for block in blocks for row in block.rows])
    with (
        closing(choice.start(card, tasks=[tasks[task] for task in templates])) as writer,
        closing(track("bench: judging", total=2 * len(pairs), unit="judgements")) as bar,
    ):
        ask_judge(folder, writer, pairs, bar=bar)
    return by

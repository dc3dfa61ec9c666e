"""Synthesis: inputs to a teacher, its responses into the ledger, the ledger into scored episodes.

Nothing finished is lost and nothing is done twice: a response is in the ledger before the next one is asked
for, and what has a key there is not asked for again. Whatever ended the last start, the next one goes on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from udrl.data.building import build_episodes
from udrl.data.dataset_card import run_facts
from udrl.data.episodes import count_episodes, write_episodes
from udrl.data.hashing import hash_int
from udrl.data.inputs import input_id, read_inputs
from udrl.data.ledger import SCHEMA, Ledger, LedgerRecord, request_key
from udrl.data.run import Run
from udrl.data.tasks import load_tasks, store_tasks, stored_tasks
from udrl.errors import TeacherError, UsageError
from udrl.progress import Bar, track
from udrl.teacher import cards, recorded
from udrl.teacher.base import Reply, Request, Teacher
from udrl.teacher.inventing import Inventor
from udrl.teacher.mixes import messages_for
from udrl.teacher.selection import Chosen, choose_inputs


@dataclass(frozen=True)
class SynthReport:
    """What a synthesis did. Produced by ``synth``, shown by the command line.

    inputs: chosen inputs by task; invented: how many of them are invented. exact, near: duplicates dropped
    while choosing. blank, cut: inputs of the file that were empty, or longer than is read. given: inputs in
    the file.
    requests: completions wanted in all; already: of these, in the ledger before this start; written, failed:
    what this start added. prompt_tokens, completion_tokens, seconds: of this start.
    episodes: all of the run's, counted as ``write_episodes`` does; empty after a dry run.
    missing: inputs that the teacher would have to invent first (dry run; ``requests`` counts their completions).
    inventing: requests for new inputs (written, failed) and their tokens, which the tokens above hold too.
    """

    run: Path
    teacher: str
    inputs: Mapping[str, int]
    invented: int
    exact: int
    near: int
    blank: int
    cut: int
    given: int | None
    requests: int = 0
    already: int = 0
    written: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    episodes: Mapping[str, int] = field(default_factory=dict)
    dry_run: bool = False
    missing: int = 0
    inventing: Mapping[str, int] = field(default_factory=dict)


def synth(
    run: Run | Path | str,
    *,
    teacher: str | Path = "builtin",
    tasks: Sequence[str | Path] = (),
    inputs: Path | str | None = None,
    input_field: str | None = None,
    num_inputs: int = 2000,
    samples: int = 4,
    seed: int = 0,
    invent: bool | None = None,
    score: bool = True,
    rewards: Sequence[str] = ("relevance",),
    retry_failed: bool = False,
    dry_run: bool = False,
    base_url: str | None = None,
) -> SynthReport:
    """Have a teacher write completions, and make scored episodes of them.

    teacher: name or file of a card, or ``recorded:FILE`` for completions that already exist: then inputs, tasks
    and samples are the file's, see ``udrl.teacher.recorded``. tasks: names or files (none: all that ship).
    inputs: the user's file (None: the tasks' seeds), read as ``read_inputs`` does with ``input_field``.
    num_inputs: how many inputs each task gets; which of a larger source is decided by ``seed``.
    samples: completions of each input, each with its own settings and seed; raising it later only adds.
    invent: fill up with invented inputs (None: only where no file is given).
    score: compute ``rewards``; otherwise the episodes are built without returns.
    retry_failed: ask again for what failed before. dry_run: count, but write nothing at all.
    base_url: ask the OpenAI-compatible endpoint there for the card's model.

    Raises KeyboardInterrupt after Ctrl-C, once what was in flight is in the ledger (a second Ctrl-C does not
    wait); TeacherError where every request failed; else as the parts do: UsageError, TaskError, InputError,
    RunError.
    """
    run = run if isinstance(run, Run) else Run(run)
    for name, value in (("num_inputs", num_inputs), ("samples", samples)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, found {value}")
    started = time.monotonic()
    if isinstance(teacher, str) and teacher.startswith(recorded.PREFIX):
        for option, given in (("inputs", inputs), ("base_url", base_url), ("invent", invent)):
            if given:
                raise UsageError(f"{teacher} brings its own inputs and completions: leave {option} out")
        file = Path(teacher.removeprefix(recorded.PREFIX))
        paid = tuple(rewards) if score else ()
        return _take_recorded(run, file, tasks, field=input_field, seed=seed, rewards=paid, dry_run=dry_run)
    card = cards.load_card(teacher)
    if base_url is not None:
        card = cards.at_endpoint(card, base_url)
    chosen_tasks = load_tasks(tasks)
    counts: Counter[str] = Counter()
    texts = None if inputs is None else list(read_inputs(inputs, field=input_field, counts=counts))

    def plan(*, store: bool) -> tuple[list[Chosen], SynthReport]:
        may_invent = inputs is None if invent is None else invent
        chosen = choose_inputs(
            run,
            chosen_tasks,
            texts=texts,
            num_inputs=num_inputs,
            seed=seed,
            invent=may_invent,
            inventor=None if card.backend == "builtin" else inventor,
            store=store,
        )
        return chosen, SynthReport(
            run=run.path,
            teacher=card.name,
            inputs={item.task.name: len(item.inputs) for item in chosen},
            invented=sum(item.invented for item in chosen),
            exact=sum(item.exact for item in chosen),
            near=sum(item.near for item in chosen),
            given=None if texts is None else len(texts),
            blank=counts["blank"],
            cut=counts["cut"],
            dry_run=dry_run,
            missing=sum(item.missing for item in chosen),
        )

    with closing(cards.start(card, tasks=chosen_tasks)) as writer:
        inventing: Counter[str] = Counter()

        def ask(ledger: Ledger, requests: Sequence[Request], seen: Callable[[LedgerRecord], None]) -> None:
            with closing(track("inventing inputs", total=len(requests), unit="requests")) as bar:
                inventing.update(_collect(ledger, writer, iter(requests), bar, seen=seen))

        inventor = Inventor(writer, engine=card.invent, ask=ask, retry_failed=retry_failed)
        if dry_run:
            chosen, report = plan(store=False)
            return _count(report, chosen, writer, samples, seed, _done(run, retry_failed))
        with run.writing():
            store_tasks(run, chosen_tasks)
            chosen, report = plan(store=True)
            done = _done(run, retry_failed)
            report = _count(report, chosen, writer, samples, seed, done)
            wanted = (request for request in _requests(chosen, writer, samples, seed) if request.key not in done)
            report = _generate(run, writer, wanted, report)
            report = replace(
                report,
                seconds=round(time.monotonic() - started, 3),
                inventing=dict(inventing),
                prompt_tokens=report.prompt_tokens + inventing["prompt_tokens"],
                completion_tokens=report.completion_tokens + inventing["completion_tokens"],
            )
            described = {"model": card.model, "licence": card.licence.name, "outputs": card.licence.outputs}
            _record(run, {card.name: described}, report, samples=samples, seed=seed)
            return replace(report, episodes=_build(run, seed=seed, rewards=tuple(rewards) if score else ()))


def _take_recorded(
    run: Run,
    file: Path,
    tasks: Sequence[str | Path],
    *,
    field: str | None,
    seed: int,
    rewards: tuple[str, ...],
    dry_run: bool,
) -> SynthReport:
    """Put the completions of a file into the ledger, and make scored episodes of them."""
    started = time.monotonic()
    files = [entry for entry in tasks if str(entry).endswith((".yaml", ".yml")) or "/" in str(entry)]
    defined = load_tasks(files) if files else ()
    names = [*(task.name for task in defined), *(str(entry) for entry in tasks if entry not in files)]
    with closing(recorded.RecordedTeacher(file, tasks=names, input_field=field)) as writer:
        survey = writer.survey()
        report = SynthReport(
            run=run.path,
            teacher=", ".join(sorted(survey.licences)),
            inputs=survey.inputs,
            invented=0,
            exact=0,
            near=0,
            blank=survey.blank,
            cut=survey.cut,
            given=survey.rows,
            requests=survey.rows,
            dry_run=dry_run,
        )
        with nullcontext() if dry_run else run.writing():
            done = _done(run, False)
            if done:
                report = replace(report, already=sum(request.key in done for request in writer.requests()))
            if dry_run:
                return report
            store_tasks(run, recorded.define_tasks(run, survey, given=defined, source=file))
            wanted = (request for request in writer.requests() if request.key not in done)
            report = _generate(run, writer, wanted, report)
            report = replace(report, seconds=round(time.monotonic() - started, 3))
            described = {
                model: {
                    "model": model,
                    "licence": ", ".join(sorted(licences)) or "not stated",
                    "outputs": f"recorded in {file.name}",
                }
                for model, licences in sorted(survey.licences.items())
            }
            _record(run, described, report, samples=None, seed=seed)
            return replace(report, episodes=_build(run, seed=seed, rewards=rewards))


def _requests(chosen: Iterable[Chosen], writer: Teacher, samples: int, seed: int) -> Iterator[Request]:
    """Yield every request there is, by task, input and sample; each is a function of what it asks for
    alone."""
    for item in chosen:
        task = item.task
        for text in item.inputs:
            identity = input_id(text)
            for sample in range(samples):
                # 31 bits: what every engine takes for a seed.
                sample_seed = hash_int(seed, task.name, identity, sample, bits=31)
                settings = writer.sampling(sample, sample_seed, task.min_words, task.max_words)
                messages, sampling = messages_for(task, text, settings)
                key = request_key(
                    model=writer.model,
                    revision=writer.revision,
                    engine_arguments=writer.engine_arguments,
                    messages=messages,
                    sampling=sampling,
                    seed=sample_seed,
                )
                yield Request(key, task.name, identity, text, messages, sampling, sample_seed, sample)


def _done(run: Run, retry_failed: bool) -> set[str]:
    return Ledger(run.ledger).keys(ok=True if retry_failed else None)


def _count(
    report: SynthReport, chosen: Sequence[Chosen], writer: Teacher, samples: int, seed: int, done: set[str]
) -> SynthReport:
    total = samples * sum(len(item.inputs) + item.missing for item in chosen)
    # Keys cost as much as writing by rule does; a fresh run needs none of them here.
    already = sum(request.key in done for request in _requests(chosen, writer, samples, seed)) if done else 0
    return replace(report, requests=total, already=already)


def _generate(run: Run, writer: Teacher, wanted: Iterator[Request], report: SynthReport) -> SynthReport:
    """Put a response to every wanted request into the run's ledger, as they come."""
    bar = track("synth", total=report.requests, initial=report.already, unit="completions")
    with Ledger(run.ledger) as ledger, closing(bar):
        tally = _collect(ledger, writer, wanted, bar)
    return replace(
        report,
        written=tally["written"],
        failed=tally["failed"],
        prompt_tokens=tally["prompt_tokens"],
        completion_tokens=tally["completion_tokens"],
    )


def _collect(
    ledger: Ledger,
    writer: Teacher,
    wanted: Iterator[Request],
    bar: Bar,
    *,
    seen: Callable[[LedgerRecord], None] | None = None,
) -> Counter[str]:
    """Put a response to every wanted request into ``ledger``, as they come, and hand each to ``seen``.

    Returns how many were written and failed, and their tokens.
    """
    asked: dict[str, Request] = {}
    tally: Counter[str] = Counter()
    error = ""
    with _interrupt_drains() as interrupted:

        def feed() -> Iterator[Request]:
            for request in wanted:
                if interrupted.is_set():
                    return
                asked[request.key] = request
                yield request

        for reply in writer.generate(feed()):
            request = asked.pop(reply.key, None)
            if request is None:
                raise TeacherError(f"teacher '{writer.name}' replied to a request that it was not given ({reply.key})")
            record = _ledger_record(request, reply, writer)
            ledger.append(record)
            if seen is not None:
                seen(record)
            tally["written" if reply.error is None else "failed"] += 1
            tally["prompt_tokens"] += reply.prompt_tokens or 0
            tally["completion_tokens"] += reply.completion_tokens or 0
            error = error or reply.error or ""
            bar.update()
    if interrupted.is_set():
        raise KeyboardInterrupt
    if asked:
        raise TeacherError(f"teacher '{writer.name}' left {len(asked)} requests without a reply: start again to go on")
    if tally["failed"] and not tally["written"]:
        raise TeacherError(f"all {tally['failed']} requests to teacher '{writer.name}' failed; the first: {error}")
    return tally


def _ledger_record(request: Request, reply: Reply, writer: Teacher) -> LedgerRecord:
    return LedgerRecord(
        schema=SCHEMA,
        key=request.key,
        status="ok" if reply.error is None else "failed",
        error=reply.error,
        attempts=reply.attempts,
        task=request.task,
        input_id=request.input_id,
        input=request.input,
        messages=request.messages,
        completion=reply.completion,
        finish_reason=reply.finish_reason,
        teacher=reply.teacher or writer.name,
        revision=writer.revision,
        sampling=request.sampling,
        seed=request.seed,
        sample=request.sample,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        started=reply.started,
        seconds=reply.seconds,
    )


@contextmanager
def _interrupt_drains() -> Iterator[threading.Event]:
    """Make the first Ctrl-C set the event, so that what is in flight is finished; the second one
    interrupts."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals reach the main thread only
        return

    def first(_signal: int, _frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print: a handler may run in the middle of another print.
        os.write(2, b"\nfinishing the requests in flight; press Ctrl-C again to stop at once\n")

    before = signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _record(
    run: Run, teachers: Mapping[str, Mapping[str, str]], report: SynthReport, *, samples: int | None, seed: int
) -> None:
    earlier = run.facts()["stages"].get("synth", {})
    run.record(
        "synth",
        teachers={**earlier.get("teachers", {}), **teachers},
        tasks=[task.name for task in stored_tasks(run)],
        seed=seed,
        samples=samples,
        inputs=dict(report.inputs),
        invented=report.invented,
        inventing=dict(report.inventing),
        duplicates={"exact": report.exact, "near": report.near},
        responses={"earlier": report.already, "written": report.written, "failed": report.failed},
        tokens={"prompt": report.prompt_tokens, "completion": report.completion_tokens},
        seconds=report.seconds,
    )


def _build(run: Run, *, seed: int, rewards: tuple[str, ...]) -> Mapping[str, int]:
    """Make the run's episodes from all of its ledger; return their counts."""
    if rewards:
        from udrl.rewards.scoring import score

        score(run, rewards=rewards, seed=seed)
        return count_episodes(run.episodes)
    with Ledger(run.ledger) as ledger:
        episodes = build_episodes(ledger, stored_tasks(run), seed=seed)
        return write_episodes(run.episodes, episodes, card_facts=run_facts(run))

"""Synthesis: inputs to teachers, their responses into the ledger, the ledger into scored episodes.

Nothing finished is lost and nothing is done twice: a response is in the ledger before the next one is asked
for, and what has a key there is not asked for again. Whatever ended the last start, the next one goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from udrl.arguments import checked
from udrl.data.facts import SynthFacts
from udrl.data.hygiene import Hygiene
from udrl.data.inputs import read_inputs, read_references
from udrl.data.known_answers import answers_of_file, store_answers
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.survey import survey
from udrl.data.tasks import Task, load_tasks, store_tasks
from udrl.errors import UsageError
from udrl.progress import track
from udrl.rewards import BUILT_IN, load_reward
from udrl.teacher import cards
from udrl.teacher.backends import choice
from udrl.teacher.cards import Card
from udrl.teacher.mixes import check_references
from udrl.teacher.synthesis.account import Account
from udrl.teacher.synthesis.budget import Budget, Limits, check_limits, estimates
from udrl.teacher.synthesis.input_choice import Chosen, choose_inputs
from udrl.teacher.synthesis.invention import Inventor
from udrl.teacher.synthesis.outcome import NothingLeft, SynthInterrupted, SynthReport, TooManyFailed
from udrl.teacher.synthesis.plan import Outlook, Plan, Share, read_teachers
from udrl.teacher.synthesis.recorded_start import recorded_file, take_recorded
from udrl.teacher.synthesis.start import Start

__all__ = ["NothingLeft", "SynthInterrupted", "SynthReport", "TooManyFailed", "synth"]

NUM_INPUTS = 2000
SAMPLES = 4
MAX_FAILURE_RATE = 0.05


@checked
def synth(
    run: Run | Path | str,
    *,
    teacher: str | Path | Sequence[str | Path] = "builtin",
    tasks: Sequence[str | Path] = (),
    inputs: Path | str | None = None,
    input_field: str | None = None,
    num_inputs: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    invent: bool | None = None,
    keep_near_duplicates: bool = False,
    score: bool = True,
    rewards: Sequence[str] | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    base_url: str | None = None,
    backend: str | None = None,
    engine_arguments: Mapping[str, Any] | None = None,
    max_tokens: int | None = None,
    max_usd: float | None = None,
    max_minutes: float | None = None,
    max_failure_rate: float = MAX_FAILURE_RATE,
    hygiene: Hygiene | None = None,
    announce: Callable[[SynthReport], None] = lambda _: None,
) -> SynthReport:
    """Have teachers write completions, and make scored episodes of them.

    teacher: name or file of a card, or several, each also as ``NAME=WEIGHT``: every completion is one teacher's, in
    proportion to the weights (see ``plan``), and the first one invents inputs. Or ``recorded:FILE`` for completions
    that already exist, ``written`` for those that ship: then inputs, tasks and samples are the file's, see
    ``udrl.teacher.backends.recorded``.
    tasks: names or files (none: all that ship).
    inputs: the user's file (None: the tasks' seeds), read as ``read_inputs`` does with ``input_field``; what stands in
    its column ``reference``, if it has one, is shown to teachers by settings that prime them with a reference; what
    stands in its column ``answer`` is kept as the right answer, as it is of recorded outputs.
    num_inputs: how many inputs each task gets (None: NUM_INPUTS, of a file all); which of a larger source is decided by
    ``seed``.
    samples: completions of each input (None: SAMPLES), each with its own settings and seed; raising it later only adds.
    invent: fill up with invented inputs (None: only where no file is given).
    keep_near_duplicates: take inputs that are nearly the same as others too (``udrl.data.dedup``).
    score: compute ``rewards`` (None: those of the tasks, else relevance); otherwise episodes are built without returns.
    retry_failed: ask again for what failed before. dry_run: count and estimate, but write nothing at all.
    base_url: ask the OpenAI-compatible endpoint there for the cards' models.
    backend, engine_arguments: run the cards by another backend, with these of vLLM's engine: see ``cards.adjusted``.
    max_tokens, max_usd, max_minutes: limits of this start, at which it stops asking, keeps what is in flight and
    builds the episodes; ``stopped`` in the report names the limit, and the next start goes on.
    max_failure_rate: share of the answered requests, in [0, 1], that may have failed.
    hygiene: benchmark suites whose inputs are kept out of training, and personal data (``udrl.data.hygiene``).
    announce: is told what is to be done, with estimates, before the first completion is asked for.

    Raises SynthInterrupted (a KeyboardInterrupt) after Ctrl-C, once what was in flight is in the ledger (a second
    Ctrl-C does not wait); TooManyFailed (a TeacherError) after everything is kept and built, NothingLeft (a RunError)
    where every completion was rejected; else as the parts do:
    UsageError, TaskError, InputError, RunError, TeacherError.
    """
    run = run if isinstance(run, Run) else Run(run)
    started = time.monotonic()
    limits = Limits(max_tokens, max_usd, max_minutes)
    scored = _rewards_of(rewards, score)
    named = [teacher] if isinstance(teacher, str | Path) else list(teacher)
    of_asking = {
        "inputs": inputs,
        "base_url": base_url,
        "backend": backend,
        "engine_arguments": engine_arguments,
        "invent": invent,
        "keep_near_duplicates": keep_near_duplicates,
        "limits": limits != Limits(),
        "num_inputs": num_inputs,
        "samples": samples,
        "retry_failed": retry_failed,  # what is not good in the ledger is always taken
    }
    if (file := recorded_file(named, of_asking)) is not None:
        return take_recorded(
            run, file, tasks, field=input_field, seed=seed, rewards=scored,
            dry_run=dry_run, started=started, hygiene=hygiene,
        )  # fmt: skip
    weighted = _teachers_of(named, base_url=base_url, backend=backend, engine_arguments=engine_arguments)
    check_limits(limits, [card for card, _ in weighted])
    wanted = _wanted(
        tasks, inputs, input_field, num_inputs=num_inputs, samples=samples or SAMPLES, seed=seed, invent=invent,
        near=keep_near_duplicates, retry_failed=retry_failed,
    )  # fmt: skip
    wanted.check_references([card for card, _ in weighted])
    report = wanted.report(run, [card.name for card, _ in weighted], dry_run=dry_run)
    with ExitStack() as stack:
        shares = [
            Share(card, weight, stack.enter_context(closing(choice.start(card, tasks=wanted.tasks))))
            for card, weight in weighted
        ]
        if dry_run:
            return _look_ahead(run, report, wanted, shares)
        with run.writing():
            store_tasks(run, wanted.tasks)
            if inputs is not None:
                store_answers(run.path, answers_of_file(inputs, field=input_field))
            start = Start(
                run,
                report,
                teachers={share.card.name: share.described() for share in shares},
                prices={share.writer.name: share.card.prices for share in shares},
                budget=Budget(limits, started=started),
                seed=seed,
                samples=wanted.samples,
                started=started,
            )
            with start.recording():
                _write(run, start, wanted, shares, announce)
            return start.finish(rewards=scored, max_failure_rate=max_failure_rate, hygiene=hygiene)


def _rewards_of(rewards: Sequence[str] | None, score: bool) -> Sequence[str] | None:
    """Return what the episodes are scored with: () is nothing, None what their tasks name.

    A wrong name is better found before the teacher is paid than after.
    """
    if rewards and not score:
        raise UsageError(f"{', '.join(rewards)}: nothing is scored with --no-score: leave it or --reward out")
    for source in rewards or ():
        if source not in BUILT_IN:
            load_reward(source)
    return rewards if score else ()


def _teachers_of(
    named: Sequence[str | Path],
    *,
    base_url: str | None,
    backend: str | None,
    engine_arguments: Mapping[str, Any] | None,
) -> list[tuple[Card, float]]:
    """Return the cards, each behind the endpoint or backend that is asked for, with their weights."""
    weighted = read_teachers(named)
    if base_url is not None and backend is not None:
        raise UsageError(f"an endpoint is asked by the backend 'openai', not '{backend}': leave one of the two out")
    if base_url is not None:
        weighted = [(cards.at_endpoint(card, base_url), weight) for card, weight in weighted]
    return [
        (cards.adjusted(card, backend=backend, engine_arguments=engine_arguments), weight) for card, weight in weighted
    ]


@dataclass(frozen=True)
class _Wanted:
    """What is to be written; see ``synth``. counts: what was found in the user's file, by ``read_inputs``."""

    tasks: tuple[Task, ...]
    texts: Sequence[str] | None
    num_inputs: int
    samples: int
    seed: int
    invent: bool
    near: bool
    retry_failed: bool
    references: Mapping[str, str]
    counts: Mapping[str, int]

    def check_references(self, teachers: Sequence[Card]) -> None:
        """Raise TaskError where a setting of ``teachers`` shows a reference, and the user's inputs have none."""
        for card in teachers:
            if not self.references:
                check_references(card.mix[: self.samples], self.tasks, where=str(card.path))

    def report(self, run: Run, teachers: Sequence[str], *, dry_run: bool) -> SynthReport:
        """Return the report of a start that has done nothing yet."""
        return SynthReport(
            run=run.path,
            teacher=", ".join(teachers),
            given=None if self.texts is None else len(self.texts),
            blank=self.counts["blank"],
            cut=self.counts["cut"],
            dry_run=dry_run,
        )

    def choose(self, run: Run, inventor: Inventor | None, *, store: bool) -> list[Chosen]:
        """Choose the inputs of all tasks."""
        return choose_inputs(
            run,
            self.tasks,
            texts=self.texts,
            num_inputs=self.num_inputs,
            seed=self.seed,
            invent=self.invent,
            near=self.near,
            inventor=inventor,
            store=store,
        )

    def plan(self, shares: Sequence[Share], chosen: Sequence[Chosen]) -> Plan:
        """Plan the completions of the chosen inputs."""
        return Plan(shares, chosen, samples=self.samples, seed=self.seed, references=self.references)


def _wanted(
    tasks: Sequence[str | Path],
    inputs: Path | str | None,
    field: str | None,
    *,
    num_inputs: int | None,
    samples: int,
    seed: int,
    invent: bool | None,
    near: bool,
    retry_failed: bool,
) -> _Wanted:
    """Read the tasks and the user's inputs."""
    if field is not None and inputs is None:
        raise UsageError(f"input_field '{field}' is a column of --inputs, which is not given: name its file")
    counts: Counter[str] = Counter()
    texts = None if inputs is None else list(read_inputs(inputs, field=field, counts=counts))
    return _Wanted(
        tasks=load_tasks(tasks),
        texts=texts,
        num_inputs=num_inputs or max(len(texts or ()), NUM_INPUTS),
        samples=samples,
        seed=seed,
        invent=inputs is None if invent is None else invent,
        near=near,
        retry_failed=retry_failed,
        references={} if inputs is None else read_references(inputs, field=field),
        counts=counts,
    )


def _look_ahead(run: Run, report: SynthReport, wanted: _Wanted, shares: Sequence[Share]) -> SynthReport:
    """Count and estimate what is to be done, without asking or writing anything."""
    known = survey(Ledger(run.ledger))
    earlier = run.facts().synth if (run.path / "run.json").exists() else SynthFacts()
    prices = {share.writer.name: share.card.prices for share in shares}
    account = Account(earlier.cost, prices=prices, usage=known.usage, inventing={})
    first = shares[0]

    def ask(*_: object) -> None:
        raise AssertionError("nothing is asked where nothing is stored")

    inventor = Inventor(first.writer, engine=first.card.invent, ask=ask)
    chosen = wanted.choose(run, None if first.card.backend == "builtin" else inventor, store=False)
    plan = wanted.plan(shares, chosen)
    return _count(report, chosen, plan.outlook(known, retry_failed=wanted.retry_failed), account)


def _write(
    run: Run, start: Start, wanted: _Wanted, shares: Sequence[Share], announce: Callable[[SynthReport], None]
) -> None:
    """Choose inputs, and have the teachers write, one after another: each has the machine to itself."""
    first = shares[0]
    inventor = None
    if first.card.backend != "builtin":
        inventor = start.inventor(
            first.writer, first.card.invent, backend=first.card.backend, retry=wanted.retry_failed
        )
    chosen = wanted.choose(run, inventor, store=True)
    plan = wanted.plan(shares, chosen)
    outlook = plan.outlook(start.known, retry_failed=wanted.retry_failed)
    start.report = _count(start.report, chosen, outlook, start.account)
    announce(start.report)
    by_name = {task.name: task for task in wanted.tasks}
    bar = track("synth", total=outlook.requests, initial=outlook.already, unit="completions")
    with closing(bar):
        for share in shares:
            requests = plan.requests(share, start.known, retry_failed=wanted.retry_failed)
            start.ask(share.writer, requests, bar=bar, backend=share.card.backend, tasks=by_name)
            share.writer.close()


def _count(report: SynthReport, chosen: Sequence[Chosen], outlook: Outlook, account: Account) -> SynthReport:
    return replace(
        report,
        inputs={item.task.name: len(item.inputs) for item in chosen},
        invented=sum(item.invented for item in chosen),
        missing=sum(item.missing for item in chosen),
        exact=sum(item.exact for item in chosen),
        near=sum(item.near for item in chosen),
        left=sum(max(0, (report.given or 0) - _walked(item)) for item in chosen),
        requests=outlook.requests,
        already=outlook.already,
        already_failed=outlook.failed,
        estimates=estimates(outlook, prices=account.prices, usage=account.usage, pace=account.pace()),
    )


def _walked(item: Chosen) -> int:
    """Return how many inputs of its source were taken or dropped as duplicates."""
    return len(item.inputs) - item.invented + item.exact + item.near

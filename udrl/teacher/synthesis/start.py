"""One start of a synthesis on a run that is held for writing: what it asks, what it records, how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

from udrl.data import hygiene as hygienic
from udrl.data.dataset_card import run_facts
from udrl.data.episode_builder import build_episodes
from udrl.data.episodes import NothingKept, check_kept, count_episodes, write_episodes
from udrl.data.facts import DuplicateFacts, SynthFacts, TeacherFacts, TokenFacts
from udrl.data.facts_json import written
from udrl.data.hygiene import Hygiene
from udrl.data.ledger import Ledger, LedgerRecord
from udrl.data.run import Run
from udrl.data.survey import survey
from udrl.data.tasks import Task, stored_tasks
from udrl.errors import RunError, TeacherError
from udrl.progress import Bar, track
from udrl.rewards.scoring import score
from udrl.teacher.cards import Prices
from udrl.teacher.protocol import Request, Teacher
from udrl.teacher.synthesis import invention
from udrl.teacher.synthesis.account import Account, Tally
from udrl.teacher.synthesis.budget import Budget
from udrl.teacher.synthesis.outcome import NothingLeft, SynthInterrupted, SynthReport, TooManyFailed
from udrl.teacher.synthesis.request_loop import INTERRUPTED, RequestLoop


class Start:
    """What one start did so far. known: what the ledger held when it began. report: see ``SynthReport``."""

    def __init__(
        self,
        run: Run,
        report: SynthReport,
        *,
        teachers: Mapping[str, TeacherFacts],
        prices: Mapping[str, Prices | None],
        budget: Budget,
        seed: int,
        samples: int | None,
        started: float,
    ) -> None:
        """teachers: what run.json says of them, by name. started: ``time.monotonic`` of the call."""
        self.known = survey(Ledger(run.ledger))
        self.report = report
        earlier = run.facts().synth
        self._run = run
        self._teachers = {**earlier.teachers, **teachers}
        self._tasks = tuple(task.name for task in stored_tasks(run))
        self._seed, self._samples, self._started = seed, samples, started
        self._tally, self._inventing = Tally(), Tally()
        self.account = Account(
            earlier.cost,
            prices=prices,
            usage=self.known.usage,
            inventing=survey(Ledger(run.ledger / invention.FOLDER)).usage,
        )
        self._loop = RequestLoop(self.account, budget, save=self.save)

    @property
    def stopped(self) -> str | None:
        """What ended this start early, if anything did."""
        return self._loop.stopped

    def ask(
        self, writer: Teacher, requests: Iterable[Request], *, bar: Bar, backend: str, tasks: Mapping[str, Task]
    ) -> None:
        """Put completions for ``requests`` into the run's ledger; see ``RequestLoop.ask``."""
        with Ledger(self._run.ledger) as ledger:
            self._loop.ask(writer, requests, tally=self._tally, ledger=ledger, bar=bar, backend=backend, tasks=tasks)

    def inventor(
        self, writer: Teacher, engine: Mapping[str, float], *, backend: str, retry: bool
    ) -> invention.Inventor:
        """Return how ``writer`` is asked for inputs; raises ``Stopped`` where this start ends meanwhile."""

        def ask(ledger: Ledger, requests: Sequence[Request], seen: Callable[[LedgerRecord], None]) -> None:
            with closing(track("inventing inputs", total=len(requests), unit="requests")) as bar:
                self._loop.ask(
                    writer,
                    requests,
                    tally=self._inventing,
                    ledger=ledger,
                    bar=bar,
                    backend=backend,
                    tasks=None,
                    seen=seen,
                )
            if self.stopped:
                raise Stopped
            if self._inventing.failed and not self._inventing.written:
                raise TeacherError(_all_failed(writer.name, self._inventing))

        return invention.Inventor(writer, engine=engine, ask=ask, retry_failed=retry)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what was done at the beginning and, however the block ends, at its end.

        Raises SynthInterrupted for Ctrl-C; ``Stopped`` ends the block.
        """
        self.save()
        try:
            with suppress(Stopped):
                yield
        except KeyboardInterrupt:
            self._loop.stopped = INTERRUPTED
        except BaseException:
            with suppress(RunError):  # the first failure counts, a full disk most of all
                self.save()
            raise
        self.save()
        if self.stopped == INTERRUPTED:
            raise SynthInterrupted(self.report)

    def save(self) -> None:
        """Bring the report up to date, and record it in run.json."""
        tally, invention, cost = self._tally, self._inventing, self.account.facts()
        self.report = report = replace(
            self.report,
            written=tally.written,
            failed=tally.failed,
            failures=dict(tally.kinds.most_common()),
            inventing={"written": invention.written, "failed": invention.failed},
            prompt_tokens=tally.prompt_tokens + invention.prompt_tokens,
            completion_tokens=tally.completion_tokens + invention.completion_tokens,
            seconds=round(time.monotonic() - self._started, 3),
            stopped=self.stopped,
            cost=written(cost),
        )
        self._run.record(
            SynthFacts(
                teachers=self._teachers,
                tasks=self._tasks,
                seed=self._seed,
                samples=self._samples,
                inputs=report.inputs,
                invented=report.invented,
                inventing=report.inventing,
                duplicates=DuplicateFacts(report.exact, report.near),
                responses={"earlier": report.already, "written": report.written, "failed": report.failed},
                failures=report.failures,
                tokens=TokenFacts(report.prompt_tokens, report.completion_tokens),
                seconds=report.seconds,
                stopped=report.stopped,
                cost=cost,
            )
        )

    def finish(
        self, *, rewards: Sequence[str] | None, max_failure_rate: float, hygiene: Hygiene | None = None
    ) -> SynthReport:
        """Build the run's episodes from all of its ledger, scored with ``rewards`` if any (None: the tasks').

        Raises TooManyFailed afterwards, where failures are above ``max_failure_rate``, and NothingLeft where every
        completion was rejected.
        """
        report = self.report
        if report.written or len(self.known.good):
            try:
                report = replace(report, episodes=_build(self._run, self._seed, rewards, hygiene or Hygiene()))
            except NothingKept as nothing:
                raise NothingLeft(str(nothing), replace(report, episodes=nothing.counts)) from None
        elif report.failed:
            raise TooManyFailed(_all_failed(report.teacher, self._tally), report)
        if report.failure_rate > max_failure_rate:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.failures.items())
            raise TooManyFailed(
                f"{report.failure_rate:.1%} of the answered requests failed, which is above {max_failure_rate:.1%} "
                f"(--max-failure-rate){f': {kinds}' if kinds else ''}; what was written is kept, --retry-failed asks "
                "for the others again",
                report,
            )
        return report


class Stopped(Exception):
    """Ends choosing inputs where the start was stopped meanwhile; never leaves ``Start.recording``."""


def _all_failed(teacher: str, tally: Tally) -> str:
    return f"all {tally.failed:,} requests to teacher '{teacher}' failed; the first: {tally.error}"


def _build(run: Run, seed: int, rewards: Sequence[str] | None, hygiene: Hygiene) -> Mapping[str, int]:
    """Make the run's episodes from all of its ledger; return their counts."""
    if rewards is None or rewards:
        score(run, rewards=rewards, seed=seed, hygiene=hygiene)
        return count_episodes(run.episodes)
    with Ledger(run.ledger) as ledger:
        screen = hygienic.screen(run, ledger, hygiene)
        episodes = build_episodes(ledger, stored_tasks(run), seed=seed, screen=screen)
        counts = write_episodes(run.episodes, episodes, card_facts={**run_facts(run), **screen.card_facts()})
        run.record(screen.facts())
        check_kept(run.path, counts)
        return counts

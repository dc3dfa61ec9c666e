"""A synthesis without a teacher: the completions of a file into the ledger, the ledger into scored episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from udrl.data.facts import TeacherFacts
from udrl.data.hygiene import Hygiene
from udrl.data.known_answers import answers_of_file, store_answers
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.survey import KeySet
from udrl.data.tasks import load_tasks, store_tasks
from udrl.errors import UsageError
from udrl.progress import track
from udrl.teacher.backends import recorded
from udrl.teacher.synthesis.budget import Budget
from udrl.teacher.synthesis.outcome import SynthReport
from udrl.teacher.synthesis.start import Start


def recorded_file(named: Sequence[str | Path], of_asking: Mapping[str, object]) -> Path | None:
    """Return the file, or folder, of recorded outputs that is named as a teacher; None where none is.

    of_asking: options that only a teacher has that is asked. Raises UsageError where one is given, or another teacher.
    """
    sources = [source for entry in named if (source := recorded.source_of(entry)) is not None]
    if not sources:
        return None
    for option, given in of_asking.items():
        if given:
            raise UsageError(f"{named[0]} brings its own inputs and completions: leave {option} out")
    if len(named) > 1:
        raise UsageError(f"recorded outputs are taken by a start of their own: name {named[0]} alone")
    return sources[0]


def take_recorded(
    run: Run,
    file: Path,
    tasks: Sequence[str | Path],
    *,
    field: str | None,
    seed: int,
    rewards: Sequence[str] | None,
    dry_run: bool,
    started: float,
    hygiene: Hygiene | None,
) -> SynthReport:
    """Put the completions of a file into the ledger, and make scored episodes of them."""
    files = [entry for entry in tasks if str(entry).endswith((".yaml", ".yml")) or "/" in str(entry)]
    defined = load_tasks(files) if files else ()
    names = [*(task.name for task in defined), *(str(entry) for entry in tasks if entry not in files)]
    with closing(recorded.RecordedTeacher(file, tasks=names, input_field=field)) as writer:
        survey = writer.survey()
        report = SynthReport(
            run=run.path,
            teacher=", ".join(sorted(survey.licences)),
            inputs=survey.inputs,
            blank=survey.blank,
            cut=survey.cut,
            given=survey.rows,
            requests=survey.rows,
            dry_run=dry_run,
        )
        if dry_run:
            return replace(report, already=_held(writer, recorded.taken(Ledger(run.ledger))))
        with run.writing():
            defined = recorded.define_tasks(run, survey, given=defined, source=file)
            store_tasks(run, defined)
            for path in recorded.tables_of(file):
                store_answers(run.path, answers_of_file(path, field=field))
            start = Start(
                run,
                report,
                teachers=_described(survey, file),
                prices={},
                budget=Budget(),
                seed=seed,
                samples=None,
                started=started,
            )
            known = recorded.taken(Ledger(run.ledger))
            start.report = replace(report, already=_held(writer, known))
            with (
                start.recording(),
                closing(track("synth", total=report.requests, initial=start.report.already, unit="completions")) as bar,
            ):
                wanted = (request for request in writer.requests() if request.key not in known)
                start.ask(writer, wanted, bar=bar, backend="recorded", tasks={task.name: task for task in defined})
            return start.finish(rewards=rewards, max_failure_rate=1.0, hygiene=hygiene)


def _held(writer: recorded.RecordedTeacher, keys: KeySet) -> int:
    """Return how many of the file's completions the ledger has already."""
    return sum(request.key in keys for request in writer.requests()) if len(keys) else 0


def _described(survey: recorded.FileSurvey, file: Path) -> dict[str, TeacherFacts]:
    """Return what run.json says of the models in the file."""
    return {
        model: TeacherFacts(
            model=model,
            licence=", ".join(sorted(licences)) or "not stated",
            outputs=f"recorded in {file.name}",
            backend="recorded",
        )
        for model, licences in sorted(survey.licences.items())
    }

"""Calibration of a run's student: at the end of training, and again where it is to be sampled in another way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udrl.arguments import checked
from udrl.commands import LENGTH
from udrl.data.episode import Episode
from udrl.data.facts import CalibrateFacts, RunFacts
from udrl.data.known_answers import Answers
from udrl.data.run import Run
from udrl.decoding.guidance import check_guidable
from udrl.errors import StudentError
from udrl.progress import track
from udrl.rewards import as_scored
from udrl.student.calibration import Calibration
from udrl.student.student import Student, load_student
from udrl.training.material import validation_of
from udrl.training.options import CALIBRATION_INPUTS
from udrl.training.origin import find_origin
from udrl.training.sweep import Score, calibrate, with_less_at_once

if TYPE_CHECKING:
    from udrl.student.calibration import Calibration


@dataclass(frozen=True)
class CalibrateReport:
    """What was measured. sampling: how the student is sampled from now on; reachable: by task and attribute, the lowest
    and highest mean that a command achieves with the other attributes open."""

    folder: Path
    inputs: int
    sampling: Mapping[str, Any]
    reachable: Mapping[str, Mapping[str, tuple[float, float]]]


@checked
def recalibrate(
    run: Path | str = "runs/default",
    *,
    inputs: int = CALIBRATION_INPUTS,
    temperature: float | None = None,
    top_p: float | None = None,
    no_repeat: int | None = None,
    guidance: float | None = None,
    encoder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
) -> CalibrateReport:
    """Measure on validation inputs what the run's student achieves under which command, and store it with the student.

    inputs: validation inputs a task. temperature, top_p, no_repeat, guidance: see `Sampling`; None keeps what the
    student ships with, and what is given becomes that. encoder: of relevance; None is the run's. device, precision,
    engine: what the student is loaded with.

    A student that was started from another one is measured on the tasks of both, as its training did. Raises
    StudentError where the run has no student or no validation episodes, or where a task would lose its calibration,
    and UsageError for guidance of a student that does not know the open command; its calibration then stays.
    """

    run_folder = Run(run)
    with run_folder.writing():
        student = load_student(run_folder.path, device=device, precision=precision, engine=engine)
        given = {"temperature": temperature, "top_p": top_p, "no_repeat": no_repeat, "guidance": guidance}
        changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        student.sampling = replace(student.sampling, **changed)
        if not student.attributes:
            raise StudentError(
                f"the student in {run_folder.student} learned no commands (--method sft and the like do not), so there "
                "is nothing to calibrate: train one with udrl train --method udrl"
            )
        if student.sampling.guidance != 1:
            check_guidable(run_folder)
        validation, facts, answers = _validation_of(run_folder)
        measured = student.calibration.curves if student.calibration else {}
        if lost := sorted(measured.keys() - {episode.task for episode in validation}):
            raise StudentError(
                f"there are no validation episodes of {', '.join(lost)} any more, whose calibration would be lost: "
                "synthesize them again, or put the run that the student was started from back where it was"
            )
        student.calibration = None
        if not calibrate_on(
            student,
            validation,
            run_folder.student,
            rewards_of(student, encoder, facts, answers),
            count=inputs,
            seed=seed,
        ):
            raise StudentError(
                f"{run_folder.episodes} holds no validation episodes to calibrate on: synthesize more inputs "
                "(udrl synth --num-inputs)"
            )
        report = _report(run_folder.student)
        run_folder.record(CalibrateFacts(**{**asdict(report), "folder": str(run_folder.student)}, seed=seed))
        return report


def _report(folder: Path) -> CalibrateReport:
    """Return what stands in the calibration of the student in ``folder``."""
    saved = Calibration.load(folder)
    assert saved is not None
    reachable = {task: {name: curves[0].reachable for name, curves in of.items()} for task, of in saved.curves.items()}
    return CalibrateReport(folder, saved.inputs, saved.sampling, reachable)


def _validation_of(run: Run) -> tuple[list[Episode], RunFacts, Answers]:
    """Return what the training of the run's student calibrated on, as far as it is still there."""
    trained_from = run.facts().train.origin
    try:
        origin = None if trained_from is None else find_origin(trained_from.student)
    except StudentError:
        origin = None
    return validation_of(run, origin)


def calibrate_on(
    student: Student,
    validation: Sequence[Episode],
    folder: Path,
    rewards: Mapping[str, Score],
    *,
    count: int,
    seed: int,
) -> int:
    """Sweep commands over ``count`` inputs a task of ``validation`` and save the calibration in ``folder``.

    rewards: see `rewards_of`. Returns how many completions it scored: 0, and nothing is saved, where there are no
    inputs.
    """

    chosen = first_inputs([episode for episode in validation if episode.task in student.tasks], count)
    if not any(chosen.values()):
        return 0
    cells = sum(len(texts) * student.space.bins * (1 + 4 * len(rewards)) for texts in chosen.values())

    def swept(batch: int) -> Calibration:
        with closing(track("calibrate", total=cells, unit="completions")) as bar:
            return calibrate(student, chosen, rewards, seed=seed, batch_size=batch, progress=bar.update)

    with_less_at_once(swept).save(folder)
    return cells


def first_inputs(episodes: Sequence[Episode], count: int) -> dict[str, list[str]]:
    """Return the first ``count`` different inputs of each task."""
    inputs: dict[str, dict[str, None]] = defaultdict(dict)
    for episode in episodes:
        inputs[episode.task][episode.input] = None
    return {task: list(texts)[:count] for task, texts in inputs.items()}


def rewards_of(student: Student, encoder: str | None, facts: RunFacts, answers: Answers) -> Mapping[str, Score]:
    """Return the student's rewards that can be computed for new completions, as the run was scored with them.

    encoder: another one than the run's; facts: what is known of the run; answers: the run's.
    """
    return as_scored([a for a in student.attributes if a != LENGTH], facts, encoder=encoder, answers=answers)

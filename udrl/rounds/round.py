"""One round, step by step: each step's result is a file, and what is there is not done again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from udrl.commands import CommandSpace
from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.facts import HygieneFacts, ScoreFacts, StageFacts, SynthFacts, TrainFacts
from udrl.data.known_answers import read_answers, store_answers
from udrl.data.run import Run
from udrl.data.tasks import Task, stored_tasks
from udrl.encoder import MINILM, Encoder, load_encoder
from udrl.errors import RunError, StudentError, UsageError
from udrl.files import copy_folder
from udrl.rewards.protocol import Reward, covered
from udrl.rounds import history
from udrl.rounds.episodes import build
from udrl.rounds.exploration import aims_of, explore, make_wishes, read_wishes, write_wishes
from udrl.rounds.history import KEPT, Round, State, folder_of
from udrl.rounds.inputs import Inputs, Source, chosen_tasks, given_inputs, own_inputs
from udrl.rounds.options import RoundOptions
from udrl.rounds.quality import TOP, Measured, judged_items, measure
from udrl.student.student import Student, load_student
from udrl.training.calibrate import calibrate_on, rewards_of
from udrl.training.checkpoint import is_trained
from udrl.training.origin import find_origin
from udrl.training.train import train

PLAN, EXPLORED = "plan.jsonl", "explored"


class Work:
    """Makes rounds; holds what all rounds of one call share, read when it is first needed."""

    def __init__(self, run: Run, options: RoundOptions, source: Source, device: str, precision: str) -> None:
        self.run = run
        self.options = options
        self.source = source
        self.facts = run.facts()
        self._answers = {**read_answers(run.path), **source.answers()}
        self._encoder_name = options.encoder
        self._device, self._precision = device, precision
        self._rewards: dict[str, Reward] = {}
        self._encoder: Encoder | None = None

    def _load(self, path: Path) -> Student:
        """Load a student in torch: an export of one of them would not be the others' like."""
        return load_student(path, engine="torch", device=self._device, precision=self._precision)

    def begin(self) -> State:
        """Copy the run's student as round 0 and measure it."""
        folder = folder_of(self.run, 0)
        if not (folder / "student").is_dir():
            student = self._load(self.run.student)
            if student.calibration is None:
                raise StudentError(
                    f"{self.run.student} is not calibrated: run udrl calibrate --run {self.run.path} first"
                )
            self._rewards_of(student)  # before anything is copied: is there something to explore?
            _begin_run(folder, self.run, (SynthFacts, ScoreFacts, HygieneFacts, TrainFacts))
            copy_folder(self.run.student, folder / "student")
        # An interrupted start may have had other options, or another encoder.
        (folder / history.MEASURED).unlink(missing_ok=True)
        _begin_run(folder, self.run, (ScoreFacts,), anew=True)
        clock: dict[str, float] = {}
        measured = self._measured(folder, clock)
        weights = find_origin(folder / "student").weights
        figures, gain = history.figures_of(measured, measured)
        done = Round(0, None, weights, 0, {}, 0, 0, 0, {}, figures, gain, 1.0, KEPT, clock)
        history.write_round(folder, done, self.options)
        state = State((done,), 0, 0)
        history.write_state(self.run, state)
        return state

    def round(self, state: State, number: int) -> Round:
        """Make round ``number``, or what is left of it."""
        options, folder, parent = self.options, folder_of(self.run, number), folder_of(self.run, state.head)
        clock: dict[str, float] = {}
        student = self._load(parent)
        rewards = self._rewards_of(student)
        self._check_comparable(student)
        _begin_run(folder, self.run, (SynthFacts, ScoreFacts, HygieneFacts))
        originals = [e for e in read_episodes(self.run.episodes) if e.task in student.tasks]
        pool = _pool(parent, originals) if state.head else []
        defined = {task.name: task for task in stored_tasks(self.run) if task.name in student.tasks}
        if not (folder / PLAN).exists():
            given = self._known(self._inputs(originals, defined))
            self._plan(folder / PLAN, given, [*originals, *pool], student, number=number, parent=state.head)
        about, wishes = read_wishes(folder / PLAN)
        _check_begun(folder, about, state, options, self.source)
        store_answers(folder, self._answers)
        with _timed(clock, "explore"):
            made = explore(student, wishes, folder / EXPLORED, temperature=options.temperature)
        validation = self._validation(student)
        with _timed(clock, "select"):
            counts = build(
                folder / "episodes",
                wishes,
                made,
                tasks=defined,
                originals=originals,
                origin=replace(find_origin(folder_of(self.run, 0)), run=self.run),
                pool=pool,
                validation=validation,
                rewards=rewards,
                space=student.space,
                options=options,
                number=number,
            )
        with _timed(clock, "train"):
            training = self._trained(folder, parent, student, number)
        with _timed(clock, "calibrate"):
            self._calibrated(folder, validation)
        measured = self._measured(folder, clock)
        first = Measured.load(folder_of(self.run, 0) / history.MEASURED)
        (figures, gain), diversity = history.figures_of(measured, first), history.diversity_share(measured, first)
        done = Round(
            round=number,
            parent=state.head,
            weights=find_origin(folder / "student").weights,
            explored=len(wishes),
            rejected=counts.rejected,
            added=counts.added,
            pool=counts.pool,
            originals=counts.originals,
            training=training,
            figures=figures,
            gain=gain,
            diversity=diversity,
            verdict=history.judge(state, figures[TOP][0], diversity, options),
            seconds=clock,
        )
        history.write_round(folder, done, options)
        return done

    def _plan(
        self, plan: Path, given: Inputs, episodes: Sequence[Episode], student: Student, *, number: int, parent: int
    ) -> None:
        """Write what the round explores: commands for ``given``, aimed at the best of what was written so far."""
        options = self.options
        written = [e for e in episodes if e.origin in ("teacher", "student")]
        aims = aims_of(written, reward=options.reward, share=options.best)
        wishes = make_wishes(given, aims, student.space, student.calibration, options, number=number)
        if not wishes:
            raise RunError(
                f"{self.run.episodes} has no training inputs with a '{options.reward}' to explore on: score the "
                "run with it (udrl score)"
            )
        about = {"schema": 1, "round": number, "parent": parent, "options": asdict(options)}
        about |= {"source": self.source.record()}
        write_wishes(plan, wishes, {**about, "aims": {task: asdict(aim) for task, aim in aims.items()}})

    def _inputs(self, originals: Sequence[Episode], defined: Mapping[str, Task]) -> Inputs:
        source = self.source
        wanted = chosen_tasks(defined, source.tasks)
        if source.inputs is not None:
            return given_inputs(
                source.inputs, wanted, field=source.field, hygiene=self.facts.hygiene, encoder=self._eye()
            )
        return {task: texts for task, texts in own_inputs(originals).items() if task in wanted}

    def _known(self, inputs: Inputs) -> Inputs:
        """Return those of ``inputs`` that the reward of the exploration can be computed for."""
        reward = self._rewards[self.options.reward]
        known = {
            task: [(key, text) for key, text in texts if covered(reward, [text])[0]] for task, texts in inputs.items()
        }
        if any(inputs.values()) and not any(known.values()):
            raise UsageError(
                f"'{self.options.reward}' cannot be computed for any input to explore on: "
                f"{getattr(reward, 'needs', 'it knows none of them')}"
            )
        return {task: texts for task, texts in known.items() if texts}

    def _trained(self, folder: Path, parent: Path, student: Student, number: int) -> dict[str, Any]:
        """Train on from the parent's weights on the round's episodes; return what run.json says of it."""
        if not is_trained(Run(folder)):
            options = self.options
            episodes = read_episodes(folder / "episodes")
            train(
                folder,
                start_from=parent,
                refit=(options.reward,) if options.refit else (),
                replay=0.0,  # the originals stand among the round's episodes already
                attributes=[a for a in student.attributes if any(e.returns.get(a) is not None for e in episodes)],
                steps=options.steps,
                epochs=options.epochs,
                batch_size=options.batch_size,
                learning_rate=options.learning_rate,
                seed=options.seed + number,
                calibration_inputs=0,
                signs_inputs=0,
                encoder=self._encoder_name,
                device=self._device,
                precision=self._precision,
            )
        facts = Run(folder).facts()
        shown = ("steps", "episodes", "seconds", "validation_loss", "loss_gap")
        return {name: getattr(facts.train, name) for name in shown}

    def _calibrated(self, folder: Path, validation: Sequence[Episode]) -> None:
        """Calibrate the round's student with the sampling that round 0's ships with."""
        student = self._load(folder)
        if student.calibration is not None:
            return
        student.sampling = self._load(folder_of(self.run, 0)).sampling
        calibrate_on(
            student,
            validation,
            folder / "student",
            self._rewards_of(student),
            count=self.options.calibration_inputs,
            seed=self.options.seed,
        )

    def _measured(self, folder: Path, clock: dict[str, float]) -> Measured:
        path = folder / history.MEASURED
        if not path.exists():
            student = self._load(folder)
            with _timed(clock, "measure"):
                measure(
                    student,
                    self._validation(student),
                    self._rewards_of(student),
                    self._eye(),
                    reward=self.options.reward,
                    space=CommandSpace.load(folder_of(self.run, 0) / "student"),  # the same levels in every round
                    inputs=self.options.validation_inputs,
                    sweep_inputs=self.options.sweep_inputs,
                    seed=self.options.seed,
                ).save(path)
        return Measured.load(path)

    def _check_comparable(self, student: Student) -> None:
        """Raise RunError where a round would be measured in another way, or on other inputs, than round 0 was."""
        first, options = folder_of(self.run, 0), self.options
        was, now = (_scoring(facts.score, self._rewards) for facts in (Run(first).facts(), self.facts))
        changed = [f"{name}: {was[name]}, now {now[name]}" for name in now if was[name] != now[name]]
        reward = self._rewards[options.reward]
        items = judged_items(self._validation(student), student.tasks, reward, options.validation_inputs)
        keys = {f"{item.task}/{item.input_id}" for item in items}
        known = Measured.load(first / history.MEASURED).values[TOP].keys()
        if keys != known:
            same = len(keys & known)
            changed.append(f"validation inputs: {len(known)}, now {len(keys)}, of which {same} are the same")
        if changed:
            raise RunError(
                f"{self.run.path} has changed since round 0 was measured, so that rounds cannot be compared "
                f"({'; '.join(changed)}): bring back what was (udrl score, udrl synth), or move "
                f"{self.run.path / 'rounds'} and {self.run.path / history.STATE} away to begin anew"
            )

    def _validation(self, student: Student) -> list[Episode]:
        episodes = read_episodes(self.run.episodes, splits=("validation",))
        return [episode for episode in episodes if episode.task in student.tasks]

    def _rewards_of(self, student: Student) -> dict[str, Reward]:
        if not self._rewards:
            self._rewards = cast(
                "dict[str, Reward]", dict(rewards_of(student, self._encoder_name, self.facts, self._answers))
            )
            if self.options.reward not in self._rewards:
                known = ", ".join(self._rewards) or "none"
                raise UsageError(
                    f"'{self.options.reward}' is no attribute of the student that can be computed for new completions; "
                    f"known: {known}: explore one of them with --reward, or train with one"
                )
        return self._rewards

    def _eye(self) -> Encoder:
        """The encoder of relevance, which also tells how far completions are apart."""
        if self._encoder is None:
            scored_with = self.facts.score.encoder
            known = getattr(self._rewards.get("relevance"), "encoder", None)
            self._encoder = known or load_encoder(self._encoder_name or (scored_with.name if scored_with else MINILM))
        return self._encoder


def _pool(parent: Path, originals: Sequence[Episode]) -> list[Episode]:
    """Return what students wrote that the parent was trained on; some of ``originals`` may be a student's, too."""
    known = {episode.episode_id for episode in originals}
    written = read_episodes(parent / "episodes", origins=("student",))
    return [episode for episode in written if episode.episode_id not in known]


def _begin_run(folder: Path, source: Run, stages: Sequence[type[StageFacts]], *, anew: bool = False) -> None:
    """Make the round's folder a run with what the run knows of its episodes: training and benchmarks read that.

    anew: also where the folder knows something of a stage already.
    """
    run = Run(folder)
    with run.writing():
        run.copy_stages(source, stages, anew=anew)


def _scoring(scored: ScoreFacts, names: Iterable[str]) -> dict[str, str]:
    """Return, for people, the encoder of a run and where each of its rewards ``names`` comes from."""
    encoder, sources = scored.encoder, scored.sources
    known = () if encoder is None else (encoder.name, encoder.revision, encoder.precision)
    sources_of = {f"reward '{name}'": sources.get(name, name) for name in names}
    return {"encoder": " ".join(filter(None, known)) or "none", **sources_of}


def _check_begun(folder: Path, about: Mapping[str, Any], state: State, options: RoundOptions, source: Source) -> None:
    now = {**asdict(options), **source.record(), "from round": state.head}
    was = {**now, **about["options"], **about.get("source", {}), "from round": about["parent"]}
    changed = [f"{name} {was.get(name)}, now {now[name]}" for name in now if was.get(name) != now[name]]
    if changed:
        raise UsageError(
            f"{folder} was begun with other options ({'; '.join(changed)}): give the same to finish it, or "
            "--restart to forget it"
        )


@contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    clock[name] = round(time.monotonic() - started, 1)

"""What run.json says: one record a stage.

`udrl.data.run` alone reads and writes the file, as `udrl.data.facts_json` says. To keep something new, add a field to
the record of its stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from udrl.data.pii import PiiMode

WHERE_GIVEN: Any = {"where_given": True}
"""Of a field that is not written where it is as by default."""
IN_KEY: Any = {"in_key": True}
"""Of a field that the stage's key holds."""


@dataclass(frozen=True)
class StageFacts:
    """What a stage says of itself. When it finished, with which versions and where, `Run.record` adds for people."""

    KEY: ClassVar[str]

    @property
    def stage(self) -> str:
        """Its key among the ``stages`` of run.json."""
        return self.KEY


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher of a run. outputs: what its licence says of them; card: its file, where it is a user's; revision: of
    its model, None where none is pinned, empty where nobody asks it any more; weight: its share of the completions,
    relative to the others'."""

    model: str = ""
    licence: str = ""
    outputs: str = ""
    card: str | None = field(default=None, metadata=WHERE_GIVEN)
    base_url: str | None = field(default=None, metadata=WHERE_GIVEN)
    engine_arguments: Mapping[str, Any] | None = field(default=None, metadata=WHERE_GIVEN)
    backend: str | None = None
    revision: str | None = field(default="", metadata=WHERE_GIVEN)
    weight: float | None = field(default=None, metadata=WHERE_GIVEN)


@dataclass(frozen=True)
class TokenFacts:
    """Tokens that a teacher read and wrote."""

    prompt: int = 0
    completion: int = 0


@dataclass(frozen=True)
class TeacherCost:
    """What a teacher has cost. responses: good ones; usd: None where its prices are not known."""

    responses: int = 0
    failed: int = 0
    tokens: TokenFacts = TokenFacts()
    seconds: float = 0.0
    gpu_hours: float = 0.0
    usd: float | None = None


@dataclass(frozen=True)
class CostFacts:
    """What all starts of a synthesis have cost together; see `udrl.teacher.synthesis.account`."""

    starts: int = 0
    tokens: TokenFacts = TokenFacts()
    seconds: float = 0.0
    gpu_hours: float = 0.0
    usd: float | None = None
    teachers: Mapping[str, TeacherCost] = field(default_factory=dict)


@dataclass(frozen=True)
class DuplicateFacts:
    """Inputs that were not asked: equal to an earlier one, or nearly so."""

    exact: int = 0
    near: int = 0


@dataclass(frozen=True)
class SynthFacts(StageFacts):
    """What ``udrl synth`` did; counts, tokens and seconds are of its last start, cost is of all starts."""

    KEY = "synth"
    teachers: Mapping[str, TeacherFacts] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    seed: int = 0
    samples: int | None = None
    inputs: Mapping[str, int] = field(default_factory=dict)
    invented: int = 0
    inventing: Mapping[str, int] = field(default_factory=dict)
    duplicates: DuplicateFacts = DuplicateFacts()
    responses: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    tokens: TokenFacts = TokenFacts()
    seconds: float = 0.0
    stopped: str | None = None
    cost: CostFacts = CostFacts()


@dataclass(frozen=True)
class DecontaminationFacts:
    """Inputs of benchmark suites among the run's. suites: which were looked at, by name; asked: those that the next
    building of episodes looks at, None for all that ship. The rest: see `udrl.data.decontamination`."""

    suites: tuple[str, ...] = ()
    held_out: int = 0
    inputs: int = 0
    contaminated: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    ngram: int = 0
    similarity: float | None = None
    asked: tuple[str, ...] | None = None


@dataclass(frozen=True)
class HygieneFacts(StageFacts):
    """What was kept out of the episodes, or masked in them."""

    KEY = "hygiene"
    pii: PiiMode = "off"
    decontamination: DecontaminationFacts = DecontaminationFacts()


@dataclass(frozen=True)
class RewardFacts:
    """What run.json keeps of a reward: enough to name, plot and load it again.

    source: what ``load_reward`` takes, or ``column`` where the values come from the user's own data.
    """

    name: str
    low: float
    high: float
    unit: str = ""
    source: str = ""


@dataclass(frozen=True)
class EncoderFacts:
    """The encoder that computed relevance. name: of a folder its absolute path; revision: of its weights."""

    name: str
    revision: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class ScoreFacts(StageFacts):
    """What ``udrl score`` did; see `udrl.rewards.scoring.ScoreReport`. shares: derived episodes a response."""

    KEY = "score"
    rewards: tuple[RewardFacts, ...] = ()
    episodes: Mapping[str, int] = field(default_factory=dict)
    means: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    unscored: Mapping[str, int] = field(default_factory=dict)
    within_inputs: Mapping[str, Any] = field(default_factory=dict)
    canaries: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    encoder: EncoderFacts | None = None
    truncated: int = 0
    unknown: int = 0
    seed: int = 0
    seconds: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, str]:
        """Where each reward was loaded from, by its name."""
        return {reward.name: reward.source for reward in self.rewards if reward.source}


@dataclass(frozen=True)
class SelectFacts(StageFacts):
    """What the last ``udrl select`` chose; see `udrl.training.selection.select.SelectReport`."""

    KEY = "select"
    name: str = ""
    file: str = ""
    by: str = ""
    share: float = 1.0
    episodes: int = 0
    kept: int = 0
    unscored: int = 0
    probe_steps: int = 0
    seconds: float = 0.0
    tasks: Mapping[str, Any] = field(default_factory=dict)
    bins: int = 0
    student: str = ""
    seed: int = 0


@dataclass(frozen=True)
class OriginFacts:
    """The student that a training started from. weights: a hash; replayed: of its episodes trained on again."""

    student: str
    weights: str = ""
    tasks: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    replayed: int | None = field(default=None, metadata=WHERE_GIVEN)


@dataclass(frozen=True)
class WeightsFacts:
    """Pretrained weights that a student began with. source: where they were; licence: of them, empty: not known."""

    source: str
    sha256: str
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainFigures:
    """What a training did; seconds and tokens_per_second are the loop's own, the losses the last validation's.

    kept_step: the step whose weights the student has. signs: the last ones of obedience (`udrl.training.signs`), or of
    the method (`udrl.training.methods.watch`). reward_calls: returns that the method has looked at, of the episodes and
    of completions while training; validation_calls: those that only validation made; calibration_calls: completions
    that were written and scored to calibrate. advice: what was seen to go wrong, and what to do. validation_reward:
    what completions for validation inputs were paid, where that is measured. stopped: the limit that ended the training
    before its steps were done, or that they were planned within. machine_hours: wall-clock time of all starts,
    calibration included, times the machines.
    """

    student: str = ""
    parameters: int = 0
    episodes: int = 0
    steps: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    validation_loss: float | None = None
    loss_gap: float | None = None
    calibrated: bool = False
    kept_step: int = 0
    signs: Mapping[str, Any] = field(default_factory=dict)
    reward_calls: int = 0
    advice: tuple[str, ...] = ()
    validation_reward: float | None = None
    validation_calls: int = 0
    calibration_calls: int = 0
    stopped: str | None = None
    machine_hours: float = 0.0
    gpu_hours: float = 0.0
    usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainFacts(TrainFigures, StageFacts):
    """What ``udrl train`` did. options: of the loop; method: its name and options; preset: published hyper-parameters;
    selection: name of the choice among the episodes."""

    KEY = "train"
    folder: str = ""
    method: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    lora: int = 0
    freeze: int = 0
    seed: int = 0
    machine_usd: float | None = None
    preset: Mapping[str, Any] | None = field(default=None, metadata=WHERE_GIVEN)
    selection: str | None = field(default=None, metadata=WHERE_GIVEN)
    origin: OriginFacts | None = field(default=None, metadata=WHERE_GIVEN)
    weights: WeightsFacts | None = field(default=None, metadata=WHERE_GIVEN)
    precision: str = ""
    device: str = ""
    torch: str = ""
    processes: int = 1

    @property
    def knows_open(self) -> bool:
        """Whether the student was trained with all of a command open now and then."""
        return bool(self.options.get("open_all", 1) != 0)


@dataclass(frozen=True)
class CalibrateFacts(StageFacts):
    """What ``udrl calibrate`` measured; see `udrl.training.calibrate.CalibrateReport`."""

    KEY = "calibrate"
    folder: str = ""
    inputs: int = 0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    reachable: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class PreferFacts(StageFacts):
    """What ``udrl prefer`` learnt; see `udrl.training.reward_model.PreferReport`."""

    KEY = "prefer"
    folder: str = ""
    source: str = ""
    pairs: int = 0
    validation_pairs: int = 0
    accuracy: tuple[float, float, float] | None = None
    steps: int = 0
    seconds: float = 0.0
    by: str = ""
    gap: float = 0.0
    seed: int = 0
    batch_size: int = 0
    learning_rate: float | None = None
    origin: OriginFacts | None = None


@dataclass(frozen=True)
class ExportedFacts:
    """One export. name: of its engine; bytes: of its files; verification: see `udrl.export.verification`."""

    name: str
    folder: str = ""
    bytes: int = 0
    verification: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportFacts(StageFacts):
    """What the last ``udrl export`` made."""

    KEY = "export"
    exports: tuple[ExportedFacts, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class ImproveFacts(StageFacts):
    """Where the rounds of ``udrl improve`` stand. kept: the round whose student the run has; weights: their hash."""

    KEY = "improve"
    kept: int = 0
    weights: str = ""
    rounds: int = 0
    stopped: str | None = None


@dataclass(frozen=True)
class BenchFacts(StageFacts):
    """What ``udrl bench`` measured. name: of the benchmark, which is part of the stage's."""

    KEY = "bench"
    name: str = field(default="", metadata=IN_KEY)
    suite: str = ""
    seed: int = 0
    limit: int | None = None
    inputs: int = 0
    completions: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def stage(self) -> str:
        """``bench NAME``: a run can have several."""
        return f"{self.KEY} {self.name}"


@dataclass(frozen=True)
class RunFacts:
    """All of run.json. stages: the keys of those that there are; the record of another one is as empty as can be.

    bench: by the name of the benchmark.
    """

    schema: int = 1
    udrl: str = ""
    created: str = ""
    stages: tuple[str, ...] = ()
    synth: SynthFacts = SynthFacts()
    hygiene: HygieneFacts = HygieneFacts()
    score: ScoreFacts = ScoreFacts()
    select: SelectFacts = SelectFacts()
    train: TrainFacts = TrainFacts()
    calibrate: CalibrateFacts = CalibrateFacts()
    prefer: PreferFacts = PreferFacts()
    export: ExportFacts = ExportFacts()
    improve: ImproveFacts = ImproveFacts()
    bench: Mapping[str, BenchFacts] = field(default_factory=dict)

"""Scoring: the ledger's responses become episodes with returns. Nothing is generated here."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path

from udrl.arguments import checked
from udrl.data import hygiene as hygienic
from udrl.data.dataset_card import run_facts
from udrl.data.derived import Derivation
from udrl.data.episode import Episode
from udrl.data.episode_builder import build_episodes
from udrl.data.episodes import check_kept, write_episodes
from udrl.data.facts import EncoderFacts, HygieneFacts, RewardFacts, ScoreFacts
from udrl.data.hygiene import Hygiene
from udrl.data.index import LedgerIndex
from udrl.data.known_answers import answers_of_file, read_answers, store_answers
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.data.tasks import stored_tasks
from udrl.encoder import MINILM, SentenceEncoder, load_encoder
from udrl.errors import RewardError, RunError, UsageError
from udrl.files import disk_errors
from udrl.progress import Bar, track
from udrl.rewards import BUILT_IN, canaries, default_rewards, load_reward
from udrl.rewards.columns import Column, Field, columns_of_file, columns_of_ledger, parse_field
from udrl.rewards.protocol import Reward, compute_known, known_inputs
from udrl.rewards.spread import Spread, SpreadByOrigin, advice

CHUNK = 2048
"""Episodes that are held and scored at a time: some 20 seconds of one core, between two steps of the bar."""

CANARY_INPUTS = 16
"""Inputs of each task on which rewards are tested with completions that deserve none."""


@dataclass(frozen=True)
class ScoreReport:
    """What a scoring did.

    rewards: what was computed, with ranges. episodes: counts by origin, split and ``rejected:RULE``, and the
    ``total``. means: mean return by reward and origin. unscored: kept episodes without a value, by reward.
    within_inputs: share of each reward's variance that lies within inputs, of what teachers wrote
    (``udrl.rewards.spread``); with_derived: the same with each kind of derived episodes, by its name, and with ``all``.
    A small one of ``graded`` ones is also a warning.
    canaries: mean reward of completions that deserve none, by reward and canary (``udrl.rewards.canaries``).
    hygiene: what was done about benchmark inputs and personal data, see ``udrl.data.hygiene``.
    encoder: name, revision and precision, where a reward uses one. truncated: distinct texts longer than what
    it reads; unknown: distinct texts in a script that it does not know, which are not scored. seconds: all of it; texts
    are encoded once, so that a second scoring takes less.
    """

    run: Path
    rewards: tuple[RewardFacts, ...]
    episodes: Mapping[str, int]
    means: Mapping[str, Mapping[str, float]]
    unscored: Mapping[str, int]
    within_inputs: Mapping[str, Spread]
    with_derived: Mapping[str, Mapping[str, Spread]]
    canaries: Mapping[str, Mapping[str, float]]
    hygiene: HygieneFacts
    encoder: EncoderFacts | None
    truncated: int
    unknown: int
    seed: int
    seconds: float


@checked
def score(
    run: Run | Path | str,
    *,
    rewards: Sequence[str] | None = None,
    reward_fields: Sequence[str] = (),
    reward_file: Path | str | None = None,
    answers: Path | str | None = None,
    encoder: str | None = None,
    precision: str = "auto",
    device: str = "auto",
    seed: int | None = None,
    mismatched: float = Derivation.mismatched,
    truncated: float = Derivation.truncated,
    spliced: float = Derivation.spliced,
    hygiene: Hygiene | None = None,
) -> ScoreReport:
    """Build the run's episodes from its ledger, labelled with ``rewards``, and replace the old ones at once.

    rewards: names or ``module:function`` (see ``udrl.rewards``); None: those of the run's tasks, else relevance.
    reward_fields: columns of the user's own, ``NAME``, ``NAME=LOW:HIGH`` or ``NAME=LOW:HIGH:UNIT``; without
        LOW:HIGH, the range is what was found. They are read from ``reward_file``, a table with the columns input
        and completion beside them, or, without one, from the settings that the ledger's responses carry. Derived
        episodes have none.
    answers: a table with the columns input (or question) and answer, which is added to the answers of the run that
        accuracy compares with (``udrl.data.known_answers``).
    encoder, precision, device: what relevance is computed with, see ``udrl.encoder.load_encoder``; None:
        all-MiniLM-L6-v2.
    seed: decides the derived episodes; None: the seed of the run's synthesis.
    mismatched, truncated, spliced: episodes that are derived from a response, see ``udrl.data.derived``.
    hygiene: benchmark suites whose inputs are kept out of training, and personal data; None: as the last time.

    Episodes that a rule rejected are written without returns. Memory does not grow with the ledger's texts.
    Raises RunError (no ledger, another writer), UsageError (unknown names), RewardError (a value that is NaN
    or outside its range, with its input; a reward that knows no input of the run), InputError (reward_file, answers),
    and, once the episodes are written, NothingKept (a RunError) where all of them were rejected or none was scored.
    """
    run = run if isinstance(run, Run) else Run(run)
    started = time.monotonic()
    run.check()
    fields = _fields_of(rewards, reward_fields, reward_file)
    derivation = Derivation(mismatched=mismatched, truncated=truncated, spliced=spliced)
    with run.writing(), Ledger(run.ledger) as ledger:
        responses = len(LedgerIndex(ledger))
        if not responses:
            raise RunError(f"{run.ledger} holds no responses: run 'udrl synth --run {run.path}' first")
        if seed is None:
            seed = run.facts().synth.seed
        tasks = stored_tasks(run)
        sources = [_lasting_reward(source) for source in (default_rewards(tasks) if rewards is None else rewards)]
        _check_encoder_is_used(encoder, sources, fields)
        if answers is not None:
            store_answers(run.path, answers_of_file(answers, needed=True))
        columns = (
            columns_of_ledger(ledger, fields)
            if reward_file is None
            else columns_of_file(Path(reward_file), fields, ledger)
        )
        eye = None
        if "relevance" in sources:
            eye = load_encoder(
                _lasting(encoder or MINILM), precision=precision, device=device, cache=run.path / "cache"
            )
        wanted = hygiene or Hygiene()
        hygienic.store_masked_answers(run, ledger, wanted)
        known = read_answers(run.path)
        scorer = _Scorer({source: load_reward(source, encoder=eye, answers=known) for source in sources}, columns, eye)
        screen = hygienic.screen(run, ledger, wanted, encoder=eye)
        built = build_episodes(ledger, tasks, seed=seed, screen=screen, **asdict(derivation))
        counts = _write(run, scorer, built, int(responses * (1 + derivation.total)), screen.card_facts())
        report = scorer.report(run, counts, screen.facts(), seed=seed, seconds=time.monotonic() - started)
        run.record(report.hygiene)
        run.record(_score_facts(report, asdict(derivation)))
    check_kept(run.path, counts, report.unscored)
    for warning in _warnings(report):
        warnings.warn(warning, stacklevel=2)
    return report


def _fields_of(
    rewards: Sequence[str] | None, reward_fields: Sequence[str], reward_file: Path | str | None
) -> list[Field]:
    """Return the columns that are rewards; raises UsageError where nothing is asked for, or a file and no column."""
    fields = [parse_field(text) for text in reward_fields]
    if rewards is not None and not rewards and not fields:
        raise UsageError("nothing to score with: name a reward or a reward field")
    if reward_file is not None and not fields:
        raise UsageError(f"which columns of {reward_file} are rewards? Name each with --reward-field")
    return fields


def _check_encoder_is_used(encoder: str | None, rewards: Sequence[str], fields: Sequence[Field]) -> None:
    if encoder is not None and "relevance" not in rewards:
        named = ", ".join([*rewards, *(one.name for one in fields)])
        raise UsageError(
            f"the encoder '{encoder}' computes relevance, which is not among the rewards ({named}): leave "
            "--encoder out or add --reward relevance"
        )


def _write(
    run: Run, scorer: _Scorer, built: Iterable[Episode], expected: int, card: Mapping[str, object]
) -> Mapping[str, int]:
    """Write ``built`` with returns into the run; return their counts. expected: roughly how many they are."""
    told = {**run_facts(run), **card}

    def labelled() -> Iterator[Episode]:
        with closing(track("score", total=expected, unit="episodes")) as bar:
            yield from scorer.label(built, bar)
        scorer.finish()  # before the old episodes are replaced
        told.update(scorer.card_facts())  # the card is written after the last episode

    with disk_errors(run.path):
        names = [fact.name for fact in scorer.facts]
        return write_episodes(run.episodes, labelled(), reward_names=names, card_facts=told)


def _warnings(report: ScoreReport) -> list[str]:
    """Return what a user must know of the returns before training on them."""
    known = []
    if report.unknown:
        name = _shown(report.encoder.name) if report.encoder else ""
        known.append(
            f"{report.unknown:,} texts are in a script that the encoder {name} does not know: "
            "episodes of them have no relevance; name an encoder that knows it with --encoder"
        )
    return [*known, *advice({name: of["graded"] for name, of in report.with_derived.items()})]


class _Scorer:
    """Labels a stream of episodes in chunks, and keeps what the report says of it."""

    def __init__(self, rewards: Mapping[str, Reward], columns: Sequence[Column], eye: SentenceEncoder | None) -> None:
        """rewards: by their sources. eye: the encoder that they use. Raises UsageError where two have one name."""
        self.facts = _facts(rewards, columns)
        self.canaries: dict[str, dict[str, float]] = {}
        self.truncated = self.unknown = 0
        self._rewards = tuple(rewards.values())
        self._own = [reward for source, reward in rewards.items() if source not in BUILT_IN]
        self._columns = columns
        self._eye = eye
        self._sums: dict[tuple[str, str], tuple[float, int]] = {}
        self._unscored: Counter[str] = Counter()
        self._example = ""
        self._spread = SpreadByOrigin()
        self._inputs: dict[str, dict[str, None]] = {}  # the first few of each task, for the canaries

    def label(self, episodes: Iterable[Episode], bar: Bar) -> Iterator[Episode]:
        """Yield ``episodes`` in their order with returns; rejected ones without.

        A reward of the user's own is tried on canaries of the first input before, so that what fails there fails early.
        """
        stream = iter(episodes)
        for first in islice(stream, 1):
            for reward in self._own:
                _canaries(reward, [first.input])
            stream = chain([first], stream)
        while chunk := list(islice(stream, CHUNK)):
            kept = [episode for episode in chunk if episode.rejected_by is None]
            returns = self._returns(kept)
            for episode, values in zip(kept, returns, strict=True):
                self._count(episode, values)
            labels = iter(returns)
            for episode in chunk:
                yield episode if episode.rejected_by is not None else replace(episode, returns=next(labels))
            bar.update(len(chunk))

    def finish(self) -> None:
        """Check that every reward knew something, and test them with canaries, after the last episode.

        Raises RewardError for a reward that knew no input, and where one fails on a canary.
        """
        self._check_known()
        if self._eye is not None:  # of the episodes: the canaries are texts of our own
            self.truncated, self.unknown = self._eye.truncated, self._eye.unknown
        tested = [text for texts in self._inputs.values() for text in texts]
        if tested:
            self.canaries = {reward.name: _canaries(reward, tested) for reward in self._rewards}

    def card_facts(self) -> dict[str, object]:
        """Return what the dataset card says of the returns."""
        card: dict[str, object] = {
            f"reward {fact.name}": f"{_shown(fact.source)}, in [{fact.low:g}, {fact.high:g}] {fact.unit}".strip()
            for fact in self.facts
        }
        if self._eye is not None:
            card["encoder"] = f"{_shown(self._eye.name)}, weights {self._eye.revision}, {self._eye.precision}"
            card["texts truncated by the encoder"] = self.truncated
            card["texts in a script unknown to the encoder"] = self.unknown
        return card

    def report(
        self, run: Run, counts: Mapping[str, int], hygiene: HygieneFacts, *, seed: int, seconds: float
    ) -> ScoreReport:
        """Return what was found, once all is written; counts: those of ``write_episodes``."""
        eye = self._eye
        spreads = self._spread.spreads()
        return ScoreReport(
            run=run.path,
            rewards=tuple(self.facts),
            episodes=dict(counts),
            means=self.means(),
            within_inputs={name: of["teacher"] for name, of in spreads.items() if "teacher" in of},
            with_derived=spreads,
            unscored={fact.name: self._unscored[fact.name] for fact in self.facts},
            canaries=self.canaries,
            hygiene=hygiene,
            encoder=None if eye is None else EncoderFacts(eye.name, eye.revision, eye.precision),
            truncated=self.truncated,
            unknown=self.unknown,
            seed=seed,
            seconds=seconds,
        )

    def _check_known(self) -> None:
        """Raise RewardError for a reward that knew no input of the episodes, and a file that holds none of them."""
        valued = {name for name, _ in self._sums}
        for reward in self._rewards:
            if self._unscored[reward.name] and reward.name not in valued:
                raise RewardError(
                    f"reward '{reward.name}' cannot be computed for any input of the run, such as {self._example!r}: "
                    f"{getattr(reward, 'needs', 'it knows none of them')}; the episodes stay as they were"
                )
        for column in self._columns:
            name = column.facts.name
            if not self._unscored[name] or name in valued:
                continue
            if column.by_text is None:
                raise RewardError(
                    f"{column.source}: no response of a kept episode carries the number '{name}', such as one for "
                    f"{self._example!r}; the episodes stay as they were"
                )
            raise RewardError(
                f"{column.source}: no row with a value of '{name}' has input and completion of a kept episode, such "
                f"as one for {self._example!r}: write both as the ledger has them; the episodes stay as they were"
            )

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean return by reward and origin."""
        means: dict[str, dict[str, float]] = {}
        for (name, origin), (total, count) in sorted(self._sums.items()):
            means.setdefault(name, {})[origin] = total / count
        return means

    def _returns(self, kept: Sequence[Episode]) -> list[dict[str, float | None]]:
        inputs = [episode.input for episode in kept]
        completions = [episode.completion for episode in kept]
        names = [f"the {episode.origin} episode {episode.episode_id} of task '{episode.task}'" for episode in kept]
        by_name: dict[str, Sequence[float | None]] = {
            reward.name: compute_known(reward, inputs, completions, names=names) for reward in self._rewards
        }
        for column in self._columns:
            by_name[column.facts.name] = [column(episode) for episode in kept]
        return [{name: values[i] for name, values in by_name.items()} for i in range(len(kept))]

    def _count(self, episode: Episode, values: Mapping[str, float | None]) -> None:
        self._spread.add(episode, values)
        of_task = self._inputs.setdefault(episode.task, {})
        if len(of_task) < CANARY_INPUTS:
            of_task[episode.input] = None
        for name, value in values.items():
            if value is None:
                self._unscored[name] += 1
                self._example = self._example or episode.input[:60]
            else:
                total, count = self._sums.get((name, episode.origin), (0.0, 0))
                self._sums[name, episode.origin] = total + value, count + 1


def _canaries(reward: Reward, inputs: Sequence[str]) -> dict[str, float]:
    """Return what ``canaries`` does, on those of ``inputs`` that the reward knows."""
    known = known_inputs(reward, inputs)
    return canaries(reward, known) if known else {}


def _facts(functions: Mapping[str, Reward], columns: Sequence[Column]) -> list[RewardFacts]:
    """Return what there is to know of each reward; raises UsageError where two have one name."""
    facts = [
        RewardFacts(reward.name, reward.low, reward.high, reward.unit, source) for source, reward in functions.items()
    ]
    facts += [column.facts for column in columns]
    for name, count in Counter(fact.name for fact in facts).items():
        if count > 1:
            raise UsageError(f"{count} rewards have the name '{name}': rename or leave out all but one")
    return facts


_NOT_KEPT = ("run", "hygiene", "within_inputs", "with_derived")


def _score_facts(report: ScoreReport, shares: Mapping[str, float]) -> ScoreFacts:
    """Return what run.json keeps of a scoring; what it says of hygiene is a record of its own."""
    kept = {name: value for name, value in vars(report).items() if name not in _NOT_KEPT}
    within = {name: asdict(spread) for name, spread in report.within_inputs.items()}
    return ScoreFacts(**kept, within_inputs=within, shares=shares)


def _lasting(name: str) -> str:
    """Return the name of an encoder as run.json keeps it: a folder's is its absolute path."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _lasting_reward(source: str) -> str:
    kind, colon, folder = source.partition(":")
    return f"preference:{_lasting(folder)}" if colon and kind == "preference" else source


def _shown(name: str) -> str:
    """Return the name of an encoder or reward as cards, which are published, show it: of an absolute path, its end."""
    kind, colon, path = name.rpartition(":")
    return f"{kind}{colon}{Path(path).name}" if Path(path).is_absolute() else name

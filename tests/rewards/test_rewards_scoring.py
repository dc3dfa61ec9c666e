"""Scoring: what is labelled, and that nothing is generated or lost on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from reward_module import episode, own_rewards

from udrl.commands import CommandSpace
from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.facts import EncoderFacts, RewardFacts, RunFacts, ScoreFacts
from udrl.data.hygiene import Hygiene
from udrl.data.known_answers import read_answers
from udrl.data.pii import PiiMode
from udrl.data.run import Run
from udrl.encoder import MINILM, SentenceEncoder, load_encoder, loading
from udrl.errors import RewardError, RunError, UsageError
from udrl.rewards import load_reward, protocol, scoring
from udrl.rewards.relevance import Relevance
from udrl.rewards.scoring import score
from udrl.teacher.synthesis.synth import synth
from udrl.training.origin import Origin, joined_facts

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_encoder(precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a ledger and without episodes; copied by those who score it."""
    run = tmp_path_factory.mktemp("rewards") / "run"
    synth(Run(run), tasks=("search-query", "text-to-image"), num_inputs=15, samples=3, seed=7, score=False)
    return run


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Run:
    return Run(shutil.copytree(written, tmp_path / "run"))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of rewards in it that no other test has imported."""
    yield from own_rewards(tmp_path, monkeypatch)


def all_episodes(run: Run) -> list[Episode]:
    return read_episodes(run.episodes, splits=SPLITS, kept=False)


def test_score_labels_every_kept_episode(run: Run, encoder: SentenceEncoder) -> None:
    before = {path.name: path.read_bytes() for path in run.ledger.iterdir()}
    report = score(
        run, rewards=("relevance", "novelty"), reward_fields=("fidelity",), precision="fp32", device="cpu", spliced=1
    )
    episodes = all_episodes(run)
    kept = [one for one in episodes if one.rejected_by is None]
    assert report.episodes["total"] == len(episodes) > 90
    assert {one.origin for one in kept} == {"teacher", "mismatched", "truncated", "spliced"}
    expected = Relevance(encoder)([one.input for one in kept], [one.completion for one in kept])
    assert [one.returns["relevance"] for one in kept] == expected
    for one in kept:
        fidelity = json.loads(one.sampling)["fidelity"] if one.origin == "teacher" else None
        assert one.returns["fidelity"] == fidelity, "a derived episode is not what was sampled"
    means = report.means["relevance"]
    assert means["teacher"] > means["spliced"] > means["mismatched"]
    assert means["truncated"] > means["spliced"], "a beginning is about its input, if about less of it"
    assert report.with_derived["relevance"]["teacher"] == report.within_inputs["relevance"]
    assert report.unscored == {"relevance": 0, "novelty": 0, "fidelity": sum(o.origin != "teacher" for o in kept)}
    assert report.canaries["relevance"]["echo"] == pytest.approx(1.0, abs=1e-6)
    assert {path.name: path.read_bytes() for path in run.ledger.iterdir()} == before, "nothing is generated"


def test_score_records_what_it_scored_with(run: Run) -> None:
    score(run, precision="fp32", device="cpu")
    facts = run.facts().score
    assert facts.rewards == (RewardFacts("relevance", 0.0, 1.0, "", "relevance"),)
    assert facts.encoder == EncoderFacts("all-MiniLM-L6-v2", "53aa51172d142c89", "fp32")
    assert (facts.seed, facts.truncated) == (7, 0), "derived episodes follow the seed of the synthesis"
    assert facts.seconds > 0
    card = (run.episodes / "README.md").read_text()
    assert "| encoder | all-MiniLM-L6-v2, weights 53aa51172d142c89, fp32 |" in card
    assert "| reward relevance | relevance, in [0, 1] |" in card
    assert "| texts truncated by the encoder | 0 |" in card


def test_score_again_gives_the_same_bits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    score(run, precision="fp32", device="cpu")
    first = all_episodes(run)
    shutil.rmtree(run.path / "cache")
    monkeypatch.setattr(scoring, "CHUNK", 7)
    score(run, precision="fp32", device="cpu")
    assert all_episodes(run) == first, "neither chunks nor what was cached may show"


def test_score_reads_no_text_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    score(run, precision="fp32", device="cpu")
    first = all_episodes(run)

    def refuse(*_: object) -> object:
        raise AssertionError("a text was encoded again")

    monkeypatch.setattr("udrl.encoder.bert.Bert.__call__", refuse)
    score(run, precision="fp32", device="cpu")
    assert all_episodes(run) == first


def test_score_counts_truncated_texts(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.jsonl"
    long = " ".join(f"harbour{n} with boats" for n in range(150))
    inputs.write_text(json.dumps({"text": long}) + "\n" + json.dumps({"text": "a red fox in the snow"}) + "\n")
    run = Run(tmp_path / "run")
    synth(run, tasks=("search-query",), inputs=inputs, samples=2, score=False)
    assert score(run, precision="fp32", device="cpu").truncated == 1
    assert "| texts truncated by the encoder | 1 |" in (run.episodes / "README.md").read_text()


class Silent:
    """A progress bar that shows nothing."""

    def update(self, n: float | None = 1) -> bool | None: ...
    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None: ...
    def close(self) -> None: ...


def test_score_leaves_rejected_episodes_unscored() -> None:
    scorer = scoring._Scorer({"novelty": load_reward("novelty")}, (), None)
    given = [episode("a fox", "one"), episode("a fox", "two", rejected_by="loop"), episode("a fox", "a fox")]
    labelled = list(scorer.label(given, Silent()))
    assert [one.completion for one in labelled] == ["one", "two", "a fox"], "in their order"
    assert [dict(one.returns) for one in labelled] == [{"novelty": 1.0}, {}, {"novelty": 0.0}]
    assert scorer.means() == {"novelty": {"teacher": 0.5}}


def test_score_with_a_reward_of_ones_own(run: Run, own_module: Path) -> None:
    report = score(run, rewards=("novelty", "my_rewards:brevity"))
    assert report.rewards[1] == RewardFacts("brevity", 0.0, 1.0, "share", "my_rewards:brevity")
    assert report.encoder is None, "no encoder is loaded where no reward needs it"
    for one in read_episodes(run.episodes):
        assert one.returns["brevity"] == 1 / (1 + len(one.completion.split()))


def test_score_with_a_column_of_a_file(run: Run, tmp_path: Path) -> None:
    score(run, rewards=("novelty",))
    teachers = [one for one in read_episodes(run.episodes, splits=SPLITS) if one.origin == "teacher"]
    rows = [{"input": o.input, "completion": o.completion, "clicks": n} for n, o in enumerate(teachers[:20])]
    table = tmp_path / "clicks.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = score(run, rewards=(), reward_fields=("clicks",), reward_file=table)
    assert report.rewards == (RewardFacts("clicks", 0.0, 19.0, "", "column"),)
    found = {o.episode_id: o.returns["clicks"] for o in all_episodes(run) if o.returns.get("clicks") is not None}
    assert found == {one.episode_id: float(n) for n, one in enumerate(teachers[:20])}


def test_score_with_a_column_of_a_file_finds_what_was_repaired_or_masked(tmp_path: Path) -> None:
    fox = "a red fox asleep under an old apple tree in low morning sun"
    rows = [
        {"input": "a fox", "output": f'"{fox}"'},
        {"input": "a call", "output": f"Here is your prompt: {fox}"},
        {"input": "mail jane@example.org about it", "output": f"{fox}, call +49 30 901820"},
        {"input": "a vixen", "output": f'"{fox}, and a vixen"'},
    ]
    outputs, table = tmp_path / "outputs.jsonl", tmp_path / "clicks.jsonl"
    outputs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run(tmp_path / "run")
    synth(run, teacher=f"recorded:{outputs}", score=False)
    rows[3]["output"] = f"{fox}, and a vixen"  # as its episode has it
    table.write_text(
        "".join(
            json.dumps({"input": row["input"], "completion": row["output"], "clicks": n}) + "\n"
            for n, row in enumerate(rows)
        )
    )
    wanted = Hygiene(pii="mask")
    score(run, rewards=(), reward_fields=("clicks",), reward_file=table, hygiene=wanted)
    teachers = [one for one in all_episodes(run) if one.origin == "teacher"]
    assert {one.input: one.returns["clicks"] for one in teachers} == {
        "a fox": 0.0,
        "a call": 1.0,
        "mail [EMAIL] about it": 2.0,
        "a vixen": 3.0,
    }
    table.write_text('{"input": "a", "completion": "b", "clicks": 1}\n{"input": "c", "completion": "d", "clicks": 2}\n')
    before = all_episodes(run)
    with pytest.raises(RewardError, match=r"clicks.jsonl: no row with a value of 'clicks' has input and completion of"):
        score(run, rewards=("novelty",), reward_fields=("clicks",), reward_file=table)
    assert all_episodes(run) == before


def test_score_knows_the_answers_of_masked_inputs(tmp_path: Path) -> None:
    rows = [
        {"input": "Call +49 30 901820 and say 3 and 4.", "output": "that makes 7", "answer": "7"},
        {"input": "Whose is jane@example.org?", "output": "it is number 1", "answer": "1"},
        {"input": "Whose is joan@example.org?", "output": "it is number 1", "answer": "2"},
    ]
    outputs = tmp_path / "outputs.jsonl"
    outputs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run(tmp_path / "run")
    synth(run, teacher=f"recorded:{outputs}", score=False)

    def scored(pii: PiiMode) -> dict[str, float | None]:
        score(run, rewards=("accuracy",), hygiene=Hygiene(pii=pii))
        return {one.input: one.returns["accuracy"] for one in all_episodes(run) if one.origin == "teacher"}

    assert scored("off") == {rows[0]["input"]: 1.0, rows[1]["input"]: 1.0, rows[2]["input"]: 0.0}
    assert scored("mask") == {"Call [PHONE] and say 3 and 4.": 1.0, "Whose is [EMAIL]?": None}
    reward = load_reward("accuracy", answers=read_answers(run.path))
    known = protocol.covered(reward, ["Call [PHONE] and say 3 and 4.", "Whose is [EMAIL]?", rows[1]["input"]])
    assert known == [True, False, True], "later commands ask about the texts of the episodes"


def test_score_remembers_folders_by_their_absolute_paths(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").symlink_to(loading.find(MINILM), target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    score(run, encoder="own", precision="fp32", device="cpu")
    assert run.facts().score.encoder == EncoderFacts(str(tmp_path / "own"), "53aa51172d142c89", "fp32")
    assert "| encoder | own, weights 53aa51172d142c89, fp32 |" in (run.episodes / "README.md").read_text()
    (tmp_path / "reward").mkdir()
    assert scoring._lasting_reward("preference:reward") == f"preference:{tmp_path / 'reward'}"
    assert scoring._lasting_reward("reward:reward") == "reward:reward"
    assert scoring._shown(f"preference:{tmp_path / 'reward'}") == "preference:reward"


def test_score_with_one_encoder_under_two_names_can_be_trained_on_together() -> None:
    def scored(name: str, revision: str) -> RunFacts:
        return RunFacts(score=ScoreFacts(encoder=EncoderFacts(name, revision)))

    space = cast(CommandSpace, None)
    origin = Origin(Path("student"), None, "s", "w", 0, space, scored("./own", "1"))
    assert joined_facts(scored("/here/own", "1"), origin).score.encoder == EncoderFacts("/here/own", "1")
    with pytest.raises(
        UsageError, match=r"learned relevance by the encoder \./own, and this run was scored with /here"
    ):
        joined_facts(scored("/here/own", "2"), origin)


def test_score_that_fails_leaves_the_episodes_there(run: Run, own_module: Path) -> None:
    score(run, rewards=("novelty",))
    before = {path.name: path.read_bytes() for path in run.episodes.iterdir()}
    with pytest.raises(RewardError, match="'unknown' returned nan for the canary 'empty'"):
        score(run, rewards=("novelty", "my_rewards:unknown"))
    with pytest.raises(RewardError, match=r"'mean_word' failed on the canary 'empty', .* with ZeroDivisionError"):
        score(run, rewards=("my_rewards:mean_word",))
    last = read_episodes(run.episodes)[-1]
    (own_module / "half_written.py").write_text(
        "def fussy(inputs, completions):\n"
        f"    if {last.completion!r} in completions: raise KeyError(7)\n"
        "    return [0.5] * len(inputs)\n"
        "fussy.low, fussy.high = 0, 1\n"
    )
    with pytest.raises(RewardError, match=rf"'fussy' failed on the \w+ episode \w+ of task '{last.task}', .* KeyError"):
        score(run, rewards=("half_written:fussy",))
    assert {path.name: path.read_bytes() for path in run.episodes.iterdir()} == before
    assert len(run.facts().score.rewards) == 1


def test_score_holds_one_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 10)
    taken = 0

    def stream() -> Iterator[Episode]:
        nonlocal taken
        for n in range(100):
            taken += 1
            yield episode(f"input {n}", "some completion")

    scorer = scoring._Scorer({"novelty": load_reward("novelty")}, (), None)
    for given, one in enumerate(scorer.label(stream(), Silent()), start=1):
        assert one.returns == {"novelty": 1.0}
        assert taken - given <= 10


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rewards": ("relevnce",)}, UsageError, "did you mean relevance"),
        ({"rewards": ()}, UsageError, "nothing to score with"),
        ({"rewards": ("novelty",), "reward_fields": ("novelty",)}, RewardError, "carries the number 'novelty'"),
        ({"rewards": ("novelty",), "reward_fields": ("fidelty",)}, RewardError, r"did you mean fidelity\?"),
        ({"rewards": (), "reward_fields": ("fidelity", "fidelity")}, UsageError, "2 rewards have the name"),
        ({"reward_file": "clicks.csv"}, UsageError, "Name each with --reward-field"),
        ({"rewards": ("novelty",), "spliced": 16.5}, UsageError, "spliced must be at least 0 and at most 16"),
        (
            {"encoder": "a/b", "rewards": ("novelty",)},
            UsageError,
            r"encoder 'a/b' computes relevance.*\(novelty\): leave",
        ),
    ],
)
def test_score_wrong_usage(run: Run, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        score(run, **options)  # type: ignore[arg-type]


def test_score_without_responses(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run"):
        score(tmp_path / "nothing")
    with Run(tmp_path / "empty").writing():
        pass
    with pytest.raises(RunError, match="holds no responses: run 'udrl synth"):
        score(tmp_path / "empty")

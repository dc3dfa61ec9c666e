"""Rewards and scoring: what is labelled, what is refused, and that nothing is generated or lost on the way."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from udrl.data.episodes import Episode, read_episodes
from udrl.data.run import Run
from udrl.encoder import SentenceEncoder, load_encoder
from udrl.errors import InputError, RewardError, RunError, UsageError
from udrl.rewards import base, canaries, columns, computable, compute, gameable, load_reward, reward_names, scoring
from udrl.rewards.relevance import Relevance
from udrl.rewards.scoring import score
from udrl.teacher.synthesis import synth

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
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "my_rewards.py").write_text(
        "def brevity(inputs, completions):\n"
        "    return [1 / (1 + len(c.split())) for c in completions]\n"
        "brevity.low, brevity.high, brevity.unit = 0.0, 1.0, 'share'\n"
        "def bare(inputs, completions): return [0.0] * len(inputs)\n"
        "class Shouting:\n"
        "    name, low, high, unit = 'shouting', 0, 2, ''\n"
        "    def __call__(self, inputs, completions): return [float(c.isupper()) for c in completions]\n"
        "ready = Shouting()\n"
        "def length(inputs, completions): return [0.5] * len(inputs)\n"
        "length.low, length.high = 0, 1\n"
        "def upside_down(inputs, completions): return [0.5] * len(inputs)\n"
        "upside_down.low, upside_down.high = 1, 0\n"
        "def unknown(inputs, completions): return [float('nan')] * len(inputs)\n"
        "unknown.low, unknown.high = 0, 1\n"
        "def endless(inputs, completions): return [0.5] * len(inputs)\n"
        "endless.low, endless.high = 0, float('inf')\n"
        "def mean_word(inputs, completions): return [len(c) / len(c.split()) for c in completions]\n"
        "mean_word.low, mean_word.high = 0, 1000\n"
        "def picky(inputs, completions):\n"
        "    if any('seven' in c for c in completions): raise KeyError('seven')\n"
        "    return [0.5] * len(inputs)\n"
        "picky.low, picky.high = 0, 1\n"
        "def single(inputs, completions): return 0.5\n"
        "single.low, single.high = 0, 1\n"
        "class Configured:\n"
        "    low, high = 0, 1\n"
        "    def __init__(self, path): ...\n"
    )
    yield folder
    import sys

    for name in ("my_rewards", "needs_another", "half_written"):
        sys.modules.pop(name, None)


def all_episodes(run: Run) -> list[Episode]:
    return read_episodes(run.episodes, splits=SPLITS, kept=False)


# --- the rewards -----------------------------------------------------------------------------------------------


def test_relevance_is_the_clipped_cosine(encoder: SentenceEncoder) -> None:
    text, other = "a red fox in the snow", "quarterly tax report of a bank"
    near = "a photograph of a red fox standing in fresh snow"
    values = Relevance(encoder)([text] * 4, [text, near, other, ""])
    rows = encoder.encode([text, near])
    assert values[0] == pytest.approx(1.0, abs=1e-6)
    assert values[0] <= 1.0
    assert values[1] == pytest.approx(float(rows[0] @ rows[1]), abs=1e-6)
    assert values[1] > 0.6 > 0.3 > values[2] >= 0.0
    assert values[3] == 0.0, "an empty completion deserves nothing"
    assert Relevance(encoder)([], []) == []


def test_relevance_never_falls_below_zero(encoder: SentenceEncoder) -> None:
    texts = ["a red fox in the snow", "SELECT id FROM users;", "tax report", "zebra", "7", "sonata in D minor"]
    pairs = [(a, b) for a in texts for b in texts]
    cosines = encoder.encode(texts) @ encoder.encode(texts).T
    assert cosines.min() < 0, "otherwise this test shows nothing"
    values = Relevance(encoder)([a for a, _ in pairs], [b for _, b in pairs])
    assert min(values) == 0.0
    assert max(values) <= 1.0


def test_relevance_needs_pairs(encoder: SentenceEncoder) -> None:
    with pytest.raises(RewardError, match="2 inputs, 1 completions"):
        Relevance(encoder)(["a", "b"], ["a"])


def test_novelty_reward() -> None:
    values = load_reward("novelty")(["one two three four five"] * 2, ["one two three four six", "something new"])
    assert values == [0.5, 1.0]


# --- finding them ----------------------------------------------------------------------------------------------


def test_load_reward_unknown_name_suggests() -> None:
    with pytest.raises(UsageError, match=r"unknown reward 'relevence' \(did you mean relevance\?\); known: novelty, "):
        load_reward("relevence")


def test_load_reward_function_of_ones_own(own_module: Path) -> None:
    reward = load_reward("my_rewards:brevity")
    assert (reward.name, reward.low, reward.high, reward.unit) == ("brevity", 0.0, 1.0, "share")
    assert compute(reward, ["a", "b"], ["one", "one two three"]) == [0.5, 0.25]


@pytest.mark.parametrize("source", ["my_rewards:Shouting", "my_rewards:ready"])
def test_load_reward_object_of_ones_own(own_module: Path, source: str) -> None:
    reward = load_reward(source)
    assert (reward.name, reward.high) == ("shouting", 2.0)
    assert compute(reward, ["a"], ["LOUD"]) == [1.0]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("my_rewards:bare", RewardError, "set the numbers low and high on it"),
        ("my_rewards:length", RewardError, "none of length, task"),
        ("my_rewards:upside_down", RewardError, "low must be below high"),
        ("my_rewards:endless", RewardError, "both finite"),
        ("my_rewards:Configured", RewardError, "cannot be made without arguments"),
        ("half_written:f", RewardError, "half_written cannot be imported .SyntaxError"),
        ("my_rewards:brevety", UsageError, r"did you mean brevity\?"),
        ("no_such_module:f", UsageError, "no module no_such_module"),
        ("needs_another:f", RewardError, "needs not_installed_here: install it"),
    ],
)
def test_load_reward_says_what_is_wrong(own_module: Path, source: str, error: type[Exception], message: str) -> None:
    (own_module / "needs_another.py").write_text("import not_installed_here\n")
    (own_module / "half_written.py").write_text("def f(inputs,\n")
    with pytest.raises(error, match=message):
        load_reward(source)


def test_load_reward_of_an_installed_package(own_module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(own_module))
    info = own_module / "my_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[udrl.rewards]\nshort = my_rewards:brevity\nbroken = my_rewards:no_such_function\n"
    )
    assert reward_names() == ["broken", "novelty", "relevance", "short"]
    assert load_reward("short")(["a"], ["one"]) == [0.5]
    assert (load_reward("short").name, load_reward("short").unit) == ("short", "share")
    with pytest.raises(RewardError, match=r"'broken' \(my_rewards:no_such_function\) cannot be loaded"):
        load_reward("broken")


def test_computable_leaves_out_columns(own_module: Path, encoder: SentenceEncoder) -> None:
    found = computable(
        ["relevance", "clicks", "brevity"],
        encoder=encoder,
        sources={"clicks": "column", "brevity": "my_rewards:brevity"},
    )
    assert list(found) == ["relevance", "brevity"]
    assert found["relevance"](["a fox"], ["a fox"]) == pytest.approx([1.0], abs=1e-6)


# --- checks on what they return --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, float("nan")], r"'toy' returned nan for input 'second input' and completion 'b', outside .*\[0, 1\]"),
        ([0.5, 1.01], r"'toy' returned 1.01 for input 'second input'"),
        ([0.5], "1 values for 2 pairs, the first of them input 'first'"),
        ([0.5, "high"], "returned 'high', which is no number, for input 'second input'"),
        ([0.5, None], "returned None, which is no number, for input 'second input'"),
    ],
)
def test_compute_names_reward_input_and_value(values: list[float], message: str) -> None:
    class Toy:
        name, low, high, unit = "toy", 0.0, 1.0, ""

        def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
            return values

    with pytest.raises(RewardError, match=message):
        compute(Toy(), ["first", "second input"], ["a", "b"])


def test_compute_wants_one_number_for_each_pair(own_module: Path) -> None:
    with pytest.raises(RewardError, match=r"'single' returned 0\.5 for 2 pairs: return a list"):
        compute(load_reward("my_rewards:single"), ["a", "b"], ["c", "d"])


def test_compute_finds_the_pair_that_a_reward_fails_on(own_module: Path) -> None:
    reward = load_reward("my_rewards:picky")
    completions = [f"number {n}" for n in range(40)]
    assert compute(reward, [""] * 40, completions) == [0.5] * 40
    completions[23] = "number seven"
    with pytest.raises(RewardError, match=r"'picky' failed on episode 23, input '' and completion 'number seven' with"):
        compute(reward, [""] * 40, completions, names=[f"episode {n}" for n in range(40)])


def test_gameable_names_the_canaries_that_are_paid_like_the_teacher() -> None:
    paid = {"relevance": {"empty": 0.0, "echo": 1.0, "repetition": 0.3}, "good": {"empty": 0.0, "echo": 0.2}}
    means = {"relevance": {"teacher": 0.6, "mismatched": 0.1}, "good": {"teacher": 0.5}}
    (line,) = gameable({"canaries": paid, "means": means})
    assert "'relevance' can be gamed: it pays a copy of the input 1.00, and the teacher's completions 0.60" in line
    assert gameable({}) == []


def test_canaries_show_what_a_reward_pays_for(encoder: SentenceEncoder) -> None:
    inputs = ["a red fox in the snow", "two boats in a harbour", "   "]
    of_relevance = canaries(Relevance(encoder), inputs[:2])
    assert of_relevance["empty"] == 0.0
    assert of_relevance["echo"] == pytest.approx(1.0, abs=1e-6), "why relevance is never reported without copy rate"
    assert of_relevance["repetition"] < 0.6
    assert canaries(load_reward("novelty"), inputs)["echo"] == 0.0
    with pytest.raises(RewardError, match="at least one input"):
        canaries(load_reward("novelty"), [])


# --- columns ---------------------------------------------------------------------------------------------------

ROWS = [
    {"input": "a fox", "completion": "a red fox", "clicks": 3, "stars": 4.5},
    {"input": "a fox", "completion": "a red fox", "clicks": 5, "stars": None},
    {"input": " a boat ", "completion": "a boat at sea\n", "clicks": 10, "stars": 1.0},
]


def episode(text: str, completion: str, **changed: Any) -> Episode:
    values: dict[str, Any] = {"episode_id": "e", "task": "t", "input_id": "0" * 16, "teacher": "x", "sampling": "{}"}
    values |= {"horizon": 3, "origin": "teacher", "seed": 0, "split": "train"}
    return Episode(input=text, completion=completion, **{**values, **changed})


def write_table(folder: Path, name: str) -> Path:
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif name.endswith(".csv"):
        text = "input,completion,clicks,stars\na fox,a red fox,3,4.5\na fox,a red fox,5,\n"
        path.write_text(text + '" a boat ","a boat at sea\n",10,1.0\n')
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.csv", "t.parquet"])
def test_columns_of_file_joins_by_input_and_completion(tmp_path: Path, name: str) -> None:
    fields = [columns.parse_field("clicks"), columns.parse_field("stars=0:5")]
    clicks, stars = columns.columns_of_file(write_table(tmp_path, name), fields)
    assert (clicks.facts.low, clicks.facts.high) == (4.0, 10.0), "the mean of a pair that stands twice"
    assert (stars.facts.low, stars.facts.high, stars.facts.source) == (0.0, 5.0, "column")
    assert (clicks.facts.unit, columns.parse_field("clicks=0:99: per day").unit) == ("", "per day")
    assert clicks(episode("a fox", "a red fox")) == 4.0
    assert stars(episode("a fox", "a red fox")) == 4.5
    assert clicks(episode("a boat", "a boat at sea")) == 10.0
    assert clicks(episode("a fox", "a boat at sea")) is None
    assert clicks(episode("a fox", "a red fox", origin="mismatched")) is None


@pytest.mark.parametrize(
    ("content", "field", "error", "message"),
    [
        (None, "clicks", InputError, "there is no file"),
        ("", "clicks", InputError, "cannot be read as .csv"),
        ("input,completion\na,b\n", "clicks", InputError, "no column 'clicks'; found: input, completion"),
        ("input,completion,click\na,b,1\n", "clicks", InputError, r"did you mean click\?"),
        (
            "input,completion,clicks\na,b,many\n",
            "clicks",
            RewardError,
            "row 1: 'clicks' must be a number, found 'many'",
        ),
        ("input,completion,clicks\na,b,\nc,d,\n", "clicks", RewardError, "holds no number"),
        ("input,completion,clicks\na,b,2\nc,d,2\n", "clicks", RewardError, "2 in every row"),
        ("input,completion,clicks\na,b,2\nc,d,7\n", "clicks=0:5", RewardError, r"is 7 in a row, .*\[0, 5\]"),
        ("input,completion,clicks\na,b,inf\nc,d,7\n", "clicks", RewardError, "row 1: 'clicks' must be a number"),
    ],
)
def test_columns_of_file_bad_input(
    tmp_path: Path, content: str | None, field: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        columns.columns_of_file(path, [columns.parse_field(field)])


@pytest.mark.parametrize("text", ["click rate", "length", "clicks=5:0", "clicks=low:high", "clicks=0:inf", "clicks="])
def test_parse_field_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="reward field"):
        columns.parse_field(text)


# --- scoring ---------------------------------------------------------------------------------------------------


def test_score_labels_every_kept_episode(run: Run, encoder: SentenceEncoder) -> None:
    before = {path.name: path.read_bytes() for path in run.ledger.iterdir()}
    report = score(run, rewards=("relevance", "novelty"), reward_fields=("fidelity",), precision="fp32", device="cpu")
    episodes = all_episodes(run)
    kept = [one for one in episodes if one.rejected_by is None]
    assert report.episodes["total"] == len(episodes) > 90
    assert {one.origin for one in kept} == {"teacher", "mismatched", "truncated"}
    expected = Relevance(encoder)([one.input for one in kept], [one.completion for one in kept])
    assert [one.returns["relevance"] for one in kept] == expected
    for one in kept:
        fidelity = json.loads(one.sampling)["fidelity"] if one.origin == "teacher" else None
        assert one.returns["fidelity"] == fidelity, "a derived episode is not what was sampled"
    means = report.means["relevance"]
    assert means["teacher"] > means["truncated"] > means["mismatched"]
    assert report.unscored == {"relevance": 0, "novelty": 0, "fidelity": sum(o.origin != "teacher" for o in kept)}
    assert report.canaries["relevance"]["echo"] == pytest.approx(1.0, abs=1e-6)
    assert {path.name: path.read_bytes() for path in run.ledger.iterdir()} == before, "nothing is generated"


def test_score_records_what_it_scored_with(run: Run) -> None:
    score(run, precision="fp32", device="cpu")
    facts = run.facts()["stages"]["score"]
    ((reward),) = facts["rewards"]
    assert reward == {"name": "relevance", "low": 0.0, "high": 1.0, "unit": "", "source": "relevance"}
    assert facts["encoder"] == {"name": "all-MiniLM-L6-v2", "revision": "53aa51172d142c89", "precision": "fp32"}
    assert (facts["seed"], facts["truncated"]) == (7, 0), "derived episodes follow the seed of the synthesis"
    assert facts["seconds"] > 0
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
    scorer = scoring._Scorer((load_reward("novelty"),), ())
    given = [episode("a fox", "one"), episode("a fox", "two", rejected_by="loop"), episode("a fox", "a fox")]
    labelled = list(scorer.label(given, Silent()))
    assert [one.completion for one in labelled] == ["one", "two", "a fox"], "in their order"
    assert [dict(one.returns) for one in labelled] == [{"novelty": 1.0}, {}, {"novelty": 0.0}]
    assert scorer.means() == {"novelty": {"teacher": 0.5}}


def test_score_with_a_reward_of_ones_own(run: Run, own_module: Path) -> None:
    report = score(run, rewards=("novelty", "my_rewards:brevity"))
    assert report.rewards[1] == base.RewardFacts("brevity", 0.0, 1.0, "share", "my_rewards:brevity")
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
    assert report.rewards == (base.RewardFacts("clicks", 0.0, 19.0, "", "column"),)
    found = {o.episode_id: o.returns["clicks"] for o in all_episodes(run) if o.returns.get("clicks") is not None}
    assert found == {one.episode_id: float(n) for n, one in enumerate(teachers[:20])}


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
    assert len(run.facts()["stages"]["score"]["rewards"]) == 1


def test_score_holds_one_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 10)
    taken = 0

    def stream() -> Iterator[Episode]:
        nonlocal taken
        for n in range(100):
            taken += 1
            yield episode(f"input {n}", "some completion")

    scorer = scoring._Scorer((load_reward("novelty"),), ())
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
        ({"encoder": "/nowhere/a/b", "rewards": ("novelty",), "mismatched": 2.0}, UsageError, "mismatched"),
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

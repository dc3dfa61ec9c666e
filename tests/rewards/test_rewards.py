"""Rewards: what they pay for, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from reward_module import own_rewards

from udrl.data.facts import EncoderFacts, RunFacts, ScoreFacts
from udrl.encoder import SentenceEncoder, load_encoder
from udrl.errors import RewardError, UsageError
from udrl.rewards import (
    BUILT_IN,
    as_scored,
    canaries,
    canary_lines,
    computable,
    compute,
    load_reward,
    reward_names,
)
from udrl.rewards.relevance import Relevance


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_encoder(precision="fp32", device="cpu")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of rewards in it that no other test has imported."""
    yield from own_rewards(tmp_path, monkeypatch)


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
    with pytest.raises(UsageError, match=r"unknown reward 'relevence' \(did you mean relevance\?\); known: accuracy, "):
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
    assert reward_names() == sorted(["broken", "short", *BUILT_IN])
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


def test_canary_lines_show_what_is_paid_and_warn_where_it_is_as_much_as_the_teacher_gets() -> None:
    paid = {"relevance": {"empty": 0.0, "echo": 1.0, "repetition": 0.3}, "good": {"empty": 0.0, "echo": 0.2}}
    means = {"relevance": {"teacher": 0.6, "mismatched": 0.1}, "good": {"teacher": 0.5}}
    first, second = canary_lines(ScoreFacts(canaries=paid, means=means))
    assert first.startswith(
        "the reward 'relevance' pays an empty completion 0.00, a copy of the input 1.00, one word repeated 0.30, the "
        "teacher's completions 0.60 in the mean; it can be gamed: "
    )
    assert second == (
        "the reward 'good' pays an empty completion 0.00, a copy of the input 0.20, the teacher's completions 0.50 in "
        "the mean"
    )
    assert canary_lines(ScoreFacts()) == []
    assert canary_lines(ScoreFacts(canaries={"accuracy": {}})) == [], "tried on no input that it knows"


def test_rewards_of_a_run_encode_as_the_run_was_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("udrl.encoder.load_encoder", lambda name, **options: asked.append((name, options["precision"])))
    for precision in ("fp32", "bf16"):
        as_scored(["relevance"], RunFacts(score=ScoreFacts(encoder=EncoderFacts("e", precision=precision))))
    exact = RunFacts(score=ScoreFacts(encoder=EncoderFacts("e", precision="fp32")))
    as_scored(["relevance"], exact, encoder="own")
    assert asked == [("e", "fp32"), ("e", "auto"), ("own", "auto")]


def test_canaries_show_what_a_reward_pays_for(encoder: SentenceEncoder) -> None:
    inputs = ["a red fox in the snow", "two boats in a harbour", "   "]
    of_relevance = canaries(Relevance(encoder), inputs[:2])
    assert of_relevance["empty"] == 0.0
    assert of_relevance["echo"] == pytest.approx(1.0, abs=1e-6), "why relevance is never reported without copy rate"
    assert of_relevance["repetition"] < 0.6
    assert canaries(load_reward("novelty"), inputs)["echo"] == 0.0
    with pytest.raises(RewardError, match="at least one input"):
        canaries(load_reward("novelty"), [])

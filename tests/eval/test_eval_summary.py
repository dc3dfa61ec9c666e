"""Known truths: systems whose quality is decided by the test, so that the figures can be checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from udrl.eval.completions import Completion, Kind, SystemFacts
from udrl.eval.parity import PARITY, items_needed, ratios
from udrl.eval.report_sentences import headline_systems, report_sentences
from udrl.eval.scores import COLUMNS, Scores, score
from udrl.eval.summary import build_summary

ABOUT = {"suite": "s", "encoder": "e", "second_encoder": None, "hardware": "h", "seed": 0}
KINDS: Mapping[str, Kind] = {"teacher": "teacher", "shuffled": "baseline", "echo": "baseline"}


def facts(name: str) -> SystemFacts:
    kind = KINDS.get(name, "student")
    return SystemFacts(name, kind, student="student" if kind == "student" else None)


def scores_of(systems: Mapping[str, npt.NDArray[np.float64]], **columns: Mapping[str, float]) -> Scores:
    """Scores with the relevance (inputs, samples) of each system; ``columns``: constants by system."""
    rows: list[Completion] = []
    values: dict[str, list[float]] = {name: [] for name in COLUMNS}
    defaults = {
        "relevance_second": 0.5,
        "copy_rate": 0.3,
        "novelty": 0.7,
        "length": 20.0,
        "truncated": 0.0,
        "unknown": 0.0,
    }
    for system, table in systems.items():
        for number, samples in enumerate(table):
            for sample, value in enumerate(samples):
                failed = np.isnan(value)
                rows.append(
                    Completion(
                        system, system, "comparison", f"task{number % 2}", f"i{number}", f"input {number}", sample, 0,
                        None if failed else f"{system} {number} {sample} words of it",
                        finish_reason=None if system in ("shuffled", "echo") else "stop",
                        error="broken" if failed else None,
                    )
                )  # fmt: skip
                values["relevance"].append(value)
                for name, default in defaults.items():
                    values[name].append(np.nan if failed else columns.get(name, {}).get(system, default))
    n = len(rows)
    vectors = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Scores(tuple(rows), {k: np.array(v) for k, v in values.items()}, {"teacher": np.full(n, 0.5)}, vectors)


def summary_of(systems: Mapping[str, npt.NDArray[np.float64]], **columns: Mapping[str, float]) -> dict[str, Any]:
    return build_summary(
        scores_of(systems, **columns),
        [facts(name) for name in systems],
        references=["teacher"],
        about=ABOUT,
        command_following={},
    )


def draws(mean: float, seed: int, *, inputs: int = 300, samples: int = 3) -> npt.NDArray[np.float64]:
    """Relevance with a difficulty that all systems share by input, and noise of each completion."""
    difficulty = np.random.default_rng(99).normal(0, 0.1, size=(inputs, 1))
    noise = np.random.default_rng(seed).normal(0, 0.05, size=(inputs, samples))
    return mean * (1 + difficulty) + noise


def test_summary_finds_a_system_that_is_exactly_five_percent_worse() -> None:
    entry = summary_of({"student@matched": draws(0.57, 1), "teacher": draws(0.6, 2)})["parity"]
    found = entry["student@matched"]["teacher"]
    assert found["ci95"][0] < 0.95 < found["ci95"][1]
    assert found["ratio"] == pytest.approx(0.95, abs=0.01)
    assert found["within_5_percent"] is False
    assert found["ci95"][1] - found["ci95"][0] < 0.04  # paired: the shared difficulty does not widen it
    assert found["win_rate"] < 0.5


def test_summary_two_draws_of_one_system_show_no_difference() -> None:
    found = summary_of({"student@matched": draws(0.6, 1), "teacher": draws(0.6, 2)})["parity"]["student@matched"]
    assert found["teacher"]["ci95"][0] < 1 < found["teacher"]["ci95"][1]
    assert found["teacher"]["within_5_percent"] is True
    assert found["teacher"]["win_rate_ci95"][0] < 0.5 < found["teacher"]["win_rate_ci95"][1]


def test_parity_tells_the_truth_in_about_95_of_100_benchmarks() -> None:
    """Of 200 benchmarks of a system that is exactly 5 % worse, and of a second draw of the reference itself."""
    items = [("task", str(number)) for number in range(60)]
    covered = {"worse": 0, "again": 0}
    claimed = 0
    others = {"relevance_second": np.full(60, np.nan), "length": np.full(60, 20.0)}
    for seed in range(200):
        difficulty = 1 + np.random.default_rng(1000 + seed).normal(0, 0.1, size=60)
        noise = np.random.default_rng(seed).normal(0, 0.05, size=(3, 60))
        level = {"worse": 0.57, "theirs": 0.6, "again": 0.6}
        systems = {
            name: {"relevance": level[name] * difficulty + own, **others}
            for name, own in zip(level, noise, strict=True)
        }
        found = ratios(systems, [(name, "theirs") for name in covered], items)
        for name, truth in (("worse", 0.95), ("again", 1.0)):
            low, high = found[name, "theirs"]["ci95"]
            covered[name] += low <= truth <= high
        claimed += found["worse", "theirs"]["within_5_percent"]
    assert 180 <= covered["worse"] <= 199
    assert 180 <= covered["again"] <= 199
    assert claimed <= 12, "'within 5 %' is said of a system on the edge in about 2.5 % of the benchmarks"


def test_summary_anchors_at_shuffled_and_reference() -> None:
    systems = {"s": draws(0.35, 1), "teacher": draws(0.6, 2), "shuffled": draws(0.1, 3)}
    table = summary_of(systems)["systems"]
    anchored = {name: entry["anchored_relevance"]["teacher"]["mean"] for name, entry in table.items()}
    assert anchored["teacher"] == 1.0
    assert anchored["shuffled"] == 0.0
    assert anchored["s"] == pytest.approx(0.5, abs=0.02)


def test_summary_counts_failures_apart_and_scores_what_is_there() -> None:
    ours = draws(0.6, 1, inputs=10)
    ours[0] = np.nan
    ours[1, 0] = np.nan
    found = summary_of({"s": ours, "teacher": draws(0.6, 2, inputs=10)})
    entry = found["systems"]["s"]
    assert (entry["n"], entry["failed"], entry["coverage"]) == (26, 4, 0.9)
    assert entry["relevance"]["mean"] == pytest.approx(np.nanmean([np.nanmean(row) for row in ours[1:]]))
    assert "it answered 90 % of the inputs" in found["parity"]["s"]["teacher"]["caveats"]
    assert "it failed 4 times" in found["parity"]["s"]["teacher"]["caveats"]


def test_summary_of_a_system_that_failed_throughout_is_null_not_nan() -> None:
    found = summary_of({"s": np.full((10, 2), np.nan), "teacher": draws(0.6, 2, inputs=10, samples=2)})
    entry = found["systems"]["s"]
    assert (entry["n"], entry["failed"], entry["coverage"], entry["relevance"]) == (0, 20, 0.0, None)
    assert (entry["distinct_2"], entry["stop_rate"], entry["length"]) == (None, None, None)
    parity = found["parity"]["s"]["teacher"]
    assert (parity["ratio"], parity["within_5_percent"]) == (None, False)
    assert parity["caveats"] == ["no input was answered by both"]
    json.dumps(found, allow_nan=False)
    assert report_sentences(found)[0].sentence == "Parity with teacher: cannot be told."


def test_summary_one_completion_an_input_has_no_diversity_within_it() -> None:
    entry = summary_of({"s": draws(0.6, 1, inputs=30, samples=1), "teacher": draws(0.6, 2, inputs=30)})["systems"]
    assert entry["s"]["distinct_2"]["within_input"] is None
    assert entry["teacher"]["distinct_2"]["within_input"] is not None
    assert entry["s"]["pairwise_distance"]["mean"] == pytest.approx(1.0, abs=0.1)  # random directions


def test_summary_diversity_does_not_depend_on_the_number_of_inputs() -> None:
    few = summary_of({"s": draws(0.6, 1, inputs=20), "teacher": draws(0.6, 2, inputs=20)})["systems"]["s"]
    many = summary_of({"s": draws(0.6, 1, inputs=200), "teacher": draws(0.6, 2, inputs=200)})["systems"]["s"]
    assert few["distinct_2"]["mean"] == pytest.approx(many["distinct_2"]["mean"], abs=0.02)


@pytest.mark.parametrize(
    ("columns", "caveat"),
    [
        ({"length": {"s": 12.0}}, "lengths differ: 12.0 words against 20.0"),
        ({"copy_rate": {"s": 0.36}}, "copies more of the input: copy rate 0.36 against 0.30"),
        ({"relevance_second": {"s": 0.3}}, "the second encoder disagrees: ratio 0.60"),
        ({"unknown": {"s": 1.0}}, "completions of it are in a script that the encoder does not know"),
        ({"truncated": {"s": 1.0}}, "the encoder saw only the start of 100 % of the completions of it"),
    ],
)
def test_summary_says_what_speaks_against_parity(columns: dict[str, dict[str, float]], caveat: str) -> None:
    fair = {"s": draws(0.6, 1), "teacher": draws(0.6, 2)}
    assert summary_of(fair)["parity"]["s"]["teacher"]["caveats"] == []
    caveats = summary_of(fair, **columns)["parity"]["s"]["teacher"]["caveats"]
    assert any(caveat in each for each in caveats)


def test_summary_names_the_tasks_in_which_lengths_differ() -> None:
    systems = {"s": draws(0.6, 1), "teacher": draws(0.6, 2)}
    scores = scores_of(systems)
    for i, row in enumerate(scores.rows):
        if row.system == "s":
            scores.columns["length"][i] = 24.0 if row.task == "task0" else 16.0
    found = build_summary(
        scores, [facts(n) for n in systems], references=["teacher"], about=ABOUT, command_following={}
    )
    assert found["parity"]["s"]["teacher"]["caveats"] == ["lengths differ by more than 10 % in task0, task1"]


def test_summary_compares_lengths_and_copy_rates_on_the_inputs_that_both_answered() -> None:
    """The teacher's long answers, which copy nothing, are to inputs that the student did not answer."""
    half = draws(0.6, 1)
    half[200:] = np.nan
    scores = scores_of({"s": half, "teacher": draws(0.6, 2)})
    for i, row in enumerate(scores.rows):
        if row.system == "teacher" and int(row.input_id[1:]) >= 200:
            scores.columns["length"][i], scores.columns["copy_rate"][i] = 60.0, 0.0
    found = build_summary(
        scores, [facts(n) for n in ("s", "teacher")], references=["teacher"], about=ABOUT, command_following={}
    )
    entry = found["parity"]["s"]["teacher"]
    assert entry["equal_length"]
    assert entry["per_task"]["task0"]["equal_length"]
    assert entry["caveats"] == ["it answered 67 % of the inputs", "it failed 300 times"]


def test_summary_too_few_inputs_names_the_number_needed() -> None:
    systems = {"s": draws(0.585, 4, inputs=12, samples=1), "teacher": draws(0.6, 50, inputs=12, samples=1)}
    entry = summary_of(systems)["parity"]["s"]["teacher"]
    assert entry["ci95"][0] < PARITY < entry["ratio"]
    needed = items_needed(entry["ratio"], entry["ci95"][0], 12)
    assert (
        f"too few inputs to say that it is within 5 %: at the spread measured here ({entry['spread']:.2f}) about "
        f"{needed} would be needed, there are 12"
    ) in entry["caveats"]


@pytest.mark.parametrize(("above", "hopeless"), [(0.0001, True), (0.0005, True), (0.003, False)])
def test_summary_says_that_no_number_of_inputs_shows_a_ratio_at_the_limit(above: float, hopeless: bool) -> None:
    """The ratio is 0.95 and ``above`` it exactly: noise of one half of the inputs is the other half's, turned round."""
    theirs = np.full((200, 1), 0.6)
    noise = np.random.default_rng(0).normal(0, 0.12, size=(100, 1))
    ours = (PARITY + above) * theirs + np.concatenate([noise, -noise])
    entry = summary_of({"s": ours, "teacher": theirs})["parity"]["s"]["teacher"]
    assert entry["ratio"] == pytest.approx(PARITY + above, abs=1e-9)
    assert (entry["items_needed"] >= 100_000) is hopeless
    said = "more inputs will not show it: the ratio is at the limit"
    assert (said in entry["caveats"]) is hopeless
    assert any("would be needed" in caveat for caveat in entry["caveats"]) is not hopeless


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_parity_items_needed_follow_the_spread_of_the_benchmark(noise: float) -> None:
    """With as many inputs as a small benchmark asks for, about half of the large ones show what was claimed."""

    def drawn(inputs: int, seed: int) -> dict[str, Any]:
        random = np.random.default_rng(seed)
        theirs = random.uniform(0.5, 0.7, inputs)
        ours = 0.97 * theirs + random.normal(0, noise, inputs) * 0.6
        others = {"relevance_second": np.full(inputs, np.nan), "length": np.full(inputs, 20.0)}
        both = {"a": {"relevance": ours, **others}, "b": {"relevance": theirs, **others}}
        return ratios(both, [("a", "b")], [("t", str(n)) for n in range(inputs)])["a", "b"]

    assert drawn(4000, 0)["spread"] == pytest.approx(noise, rel=0.1)
    needed = math.ceil((1.96 * noise / 0.02) ** 2)
    assert items_needed(0.97, 0.97 - 1.96 * noise / 4, 16) == pytest.approx(needed, abs=1)
    shown = np.mean([drawn(needed, seed)["within_5_percent"] for seed in range(40)])
    assert 0.25 <= shown <= 0.75


def test_summary_says_that_intervals_of_few_inputs_are_too_narrow() -> None:
    few = summary_of({"s": draws(0.6, 1, inputs=29), "teacher": draws(0.6, 2, inputs=29)})["parity"]["s"]["teacher"]
    assert "there are only 29 inputs, and intervals of so few are too narrow" in few["caveats"]
    many = summary_of({"s": draws(0.6, 1, inputs=30), "teacher": draws(0.6, 2, inputs=30)})["parity"]["s"]["teacher"]
    assert not any("so few" in caveat for caveat in many["caveats"])


def test_parity_items_needed_follow_the_root_law() -> None:
    assert items_needed(0.97, 0.93, 50) == 200
    assert items_needed(0.97, 0.96, 50) is None  # shown already
    assert items_needed(0.94, 0.90, 50) is None  # more inputs would not show it


def test_verdict_leads_with_the_row_matched_in_length() -> None:
    systems = {name: draws(0.6, k) for k, name in enumerate(["student@open", "student@matched", "teacher"])}
    found = summary_of(systems)
    assert headline_systems(found) == {"teacher": "student@matched"}
    first = report_sentences(found)[0]
    assert first.sentence.startswith("Parity with teacher at equal length: 1.0")
    assert first.sentence.endswith("within 5 %: yes.")
    assert first.passed is True


def test_verdict_says_not_shown_where_the_interval_holds_both() -> None:
    found = summary_of({"student@matched": draws(0.57, 1), "teacher": draws(0.6, 2)})
    assert report_sentences(found)[0].sentence.endswith("within 5 %: not shown.")
    worse = summary_of({"student@matched": draws(0.4, 1), "teacher": draws(0.6, 2)})
    assert report_sentences(worse)[0].sentence.endswith("within 5 %: no.")


class LetterEncoder:
    """Directions by first letter; reads eight characters."""

    name = revision = precision = "letters"
    truncated = 0

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = np.zeros((len(texts), 26), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[ord((text or "z")[0]) - ord("a")] = 1.0
        return rows

    def is_truncated(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        return np.array([len(text) > 8 for text in texts])

    def is_unknown(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        return np.zeros(len(texts), dtype=bool)


def completion(system: str, text: str | None, sample: int = 0) -> Completion:
    return Completion(system, system, "comparison", "t", "i", "apple", sample, 0, text)


def test_scores_relevance_agreement_truncation_and_empty_completions() -> None:
    rows = [
        completion("teacher", "acorn"),
        completion("teacher", "birch", 1),
        completion("s", "almond trees"),
        completion("s", "", 1),
        completion("s", None, 2),
    ]
    found = score(rows, encoder=LetterEncoder(), second=None, references=["teacher"])
    assert found.columns["relevance"][:4].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert np.isnan(found.columns["relevance"][4])
    assert np.isnan(found.columns["relevance_second"]).all()
    assert found.columns["truncated"][:4].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert found.columns["length"][:4].tolist() == [1.0, 1.0, 2.0, 0.0]
    # the teacher agrees with its own other completion, the student with both on average
    assert found.agreement["teacher"][:4].tolist() == [0.0, 0.0, 0.5, 0.0]


def test_scores_sweeps_are_embedded_only_where_relevance_is_asked_for() -> None:
    def swept(part: Any, attribute: str, targets: dict[str, float]) -> Completion:
        return Completion("b", "s", part, "t", "i", "apple", 0, 0, "acorn", attribute, 0, targets)

    rows = [
        swept("following", "relevance", {"relevance": 0.5}),
        swept("following", "length", {"length": 9}),
        swept("leakage", "length", {"length": 9, "relevance": 0.5}),
        swept("leakage", "relevance", {"length": 9, "relevance": 0.5}),
    ]
    found = score(rows, encoder=LetterEncoder(), second=None, references=[])
    assert np.isnan(found.columns["relevance"]).tolist() == [False, True, False, True]
    assert found.columns["length"].tolist() == [1.0] * 4
    assert np.isnan(found.columns["copy_rate"]).all()

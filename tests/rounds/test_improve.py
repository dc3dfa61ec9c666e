"""The parts of a round: commands, rejections, the pool, the verdict, inputs of one's own."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.data.episode import Episode
from udrl.data.facts import DecontaminationFacts, HygieneFacts
from udrl.data.inputs import input_id, split_of
from udrl.data.rules import OTHER_RULES, RULES
from udrl.data.tasks import Task, load_tasks
from udrl.errors import InputError, RunError, UsageError
from udrl.rewards.novelty import Novelty
from udrl.rounds.exploration import Wish, Written, aims_of, make_wishes, read_wishes, write_wishes
from udrl.rounds.history import KEPT, LESS_DIVERSE, NO_BETTER, Round, State, advanced, diversity_share, judge
from udrl.rounds.inputs import chosen_tasks, given_inputs
from udrl.rounds.options import RoundOptions
from udrl.rounds.pool import bounded, return_bin
from udrl.rounds.quality import TOP, Measured
from udrl.rounds.rejections import COPIED, NEAR, REPETITIVE, reasons, scored, select

TASK = "text-to-image"


def space() -> CommandSpace:
    rng = np.random.default_rng(0)
    values = {TASK: {"relevance": rng.random(1000).tolist(), LENGTH: rng.integers(3, 40, 1000).tolist()}}
    return CommandSpace.fit(80, (Attribute("relevance", 0, 1), Attribute(LENGTH, 1, 1000, "words")), values)


def episode(number: int, value: float, *, text: str = "", given: str = "an input", **changed: object) -> Episode:
    made = Episode(
        episode_id=f"e{number}", task=TASK, input_id=input_id(given), input=given, completion=text or f"words {number}",
        horizon=10 + number % 5, origin="teacher", teacher="t", sampling="{}", seed=0, split="train",
        returns={"relevance": value},
    )  # fmt: skip
    return replace(made, **changed)  # type: ignore[arg-type]


def tasks() -> dict[str, Task]:
    return {task.name: task for task in load_tasks()}


# -- commands --------------------------------------------------------------------------------------------------------


def test_aims_are_the_best_episodes_of_each_task() -> None:
    rows = [episode(k, k / 100) for k in range(100)] + [episode(200, 5.0, task="other"), episode(201, 9.0, returns={})]
    aims = aims_of(rows, reward="relevance", share=0.1)
    best = [k / 100 for k in range(90, 100)]
    assert aims[TASK].mean == pytest.approx(fmean(best))
    assert aims[TASK].deviation == pytest.approx(pstdev(best))
    assert sorted(aims[TASK].horizons) == sorted(10 + k % 5 for k in range(90, 100))
    assert aims["other"].mean == 5.0, "a task with few episodes has one at least"


def test_wishes_ask_ahead_of_the_best_and_hold_their_shares() -> None:
    aims = aims_of([episode(k, k / 100) for k in range(100)], reward="relevance", share=0.1)
    inputs = {TASK: [(f"{k:04d}", f"input {k}") for k in range(500)], "unknown": [("a", "a")]}
    options = RoundOptions(num_inputs=300, samples=5, best_bin=0.2, random=0.3)
    wishes = make_wishes(inputs, aims, space(), None, options, number=1)
    assert len(wishes) == 1500
    assert set(Counter(w.input_id for w in wishes).values()) == {5}
    kinds = Counter(wish.kind for wish in wishes)
    assert kinds["best_bin"] / 1500 == pytest.approx(0.2, abs=0.04)
    assert kinds["random"] / 1500 == pytest.approx(0.3, abs=0.04)
    ahead = [wish for wish in wishes if wish.kind == "ahead"]
    aim = aims[TASK]
    asked = [wish.targets["relevance"] for wish in ahead]
    assert min(asked) >= aim.mean
    assert max(asked) <= min(1.0, aim.mean + aim.deviation)
    assert np.std(asked) > 0.2 * aim.deviation
    assert {wish.targets[LENGTH] for wish in ahead} == set(map(float, aim.horizons))
    assert all(wish.positions == {"relevance": 9.0} for wish in wishes if wish.kind == "best_bin")
    spread = [wish.positions["relevance"] for wish in wishes if wish.kind == "random"]
    assert min(spread) < 1
    assert max(spread) > 8
    assert len({wish.seed for wish in wishes}) == 1500
    assert make_wishes(inputs, aims, space(), None, options, number=1) == wishes
    other = make_wishes(inputs, aims, space(), None, options, number=2)
    assert {w.input_id for w in other} != {w.input_id for w in wishes}, "every round draws its own inputs"


def test_wishes_survive_their_file(tmp_path: Path) -> None:
    aims = aims_of([episode(1, 0.5)], reward="relevance", share=1)
    wishes = make_wishes({TASK: [("a", "ä “b”\u2028c\u2029d\x85e")]}, aims, space(), None, RoundOptions(), number=1)
    write_wishes(tmp_path / "plan.jsonl", wishes, about := {"round": 1, "options": {}, "parent": 0})
    assert read_wishes(tmp_path / "plan.jsonl") == (about, wishes)
    (tmp_path / "plan.jsonl").write_text('{"round": 1}\n{"task": "a"}\n')
    with pytest.raises(RunError, match="damaged"):
        read_wishes(tmp_path / "plan.jsonl")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"best_bin": 0.6, "random": 0.6}, "together at most 1"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"original": 1.0}, "original must be at least 0 and below 1"),
        ({"best": 0.0}, "best must be above 0 and at most 1"),
        ({"diversity_floor": 1.5}, "diversity_floor must be at least 0 and at most 1"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_options_that_cannot_be_are_refused(changed: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RoundOptions(**changed)  # type: ignore[arg-type]


# -- what is kept out --------------------------------------------------------------------------------------------------

GIVEN = "a lighthouse on a rocky cliff above the grey sea at dawn"
ORIGINAL = "A tall white lighthouse stands over dark water, soft golden light, wide angle, long exposure, calm mood"


def completions(*texts: str, diverse: bool = True, finish: str = "stop") -> list[str | None]:
    wishes = [
        Wish(TASK, input_id(GIVEN), GIVEN, n, "ahead", {"relevance": 0.9}, {"relevance": 9.0}, n)
        for n in range(len(texts))
    ]
    originals = [episode(1, 0.5, text=ORIGINAL, given=GIVEN)] + [
        episode(n, 0.5, given="x", text=f"number {n} is a plain scene with nothing said twice") for n in range(2, 20)
    ]
    made = select(
        wishes, [Written(text, finish) for text in texts], tasks=tasks(), originals=originals, pool=[], number=3,
        temperature=0.8, diverse=diverse,
    )  # fmt: skip
    assert all(one.origin == "student" and one.round == 3 and one.split == "train" for one in made)
    assert json.loads(made[0].sampling)["targets"] == {"relevance": 0.9}
    return [one.rejected_by for one in made]


def test_select_names_the_rule_that_each_completion_broke() -> None:
    fresh = "Oil painting of a beacon at daybreak, heavy brush strokes, cold palette, waves breaking below, high detail"
    stammer = "a beacon in fog, a beacon in light, a beacon in rain, a beacon in mist, a beacon in snow, painted softly"
    texts = (fresh, ORIGINAL, ORIGINAL.replace("calm", "quiet"), GIVEN, stammer, "", "light " * 20)
    assert completions(*texts) == [None, "duplicate", NEAR, COPIED, REPETITIVE, "empty", "loop"]
    assert completions(*texts, diverse=False) == [None, None, None, COPIED, None, "empty", "loop"]
    assert completions(fresh, fresh) == [None, "duplicate"]
    assert completions(fresh, finish="length") == ["unfinished"]
    assert {COPIED, REPETITIVE, NEAR, "pool_full"} <= OTHER_RULES.keys()
    assert not {COPIED, REPETITIVE, NEAR} & RULES.keys()


def test_scored_labels_what_was_kept_and_nothing_else() -> None:
    rows = [episode(1, 0.0, returns={}), episode(2, 0.0, returns={}, rejected_by="loop")]
    one, other = scored(rows, {"novelty": Novelty()}, names=["novelty", "clicks"], explored="novelty")
    assert one.returns == {"novelty": 1.0, "clicks": None}
    assert other.returns == {}
    assert reasons([one, other]) == {"loop": 1}


def test_scored_rejects_what_the_explored_reward_cannot_be_computed_for() -> None:
    """As relevance cannot for a completion whose script the encoder does not know: it has no bin in the pool."""

    class OfLatin(Novelty):
        def scorable(self, inputs: Sequence[str], completions: Sequence[str]) -> list[bool]:
            return [text.isascii() for text in completions]

    rows = [episode(1, 0.0, returns={}, text="a fox"), episode(2, 0.0, returns={}, text="สุนัข")]
    for explored, rules in (("novelty", {"unscored": 1}), ("clicks", {"unscored": 2})):
        known = scored(rows, {"novelty": OfLatin()}, names=["novelty", "clicks"], explored=explored)
        assert reasons(known) == rules
        assert [one.returns["novelty"] for one in known] == [1.0, None]
    assert "unscored" in OTHER_RULES


# -- the pool ----------------------------------------------------------------------------------------------------------

EXAMPLES = settings(max_examples=40)
pools = st.lists(
    st.tuples(st.integers(0, 4), st.floats(0, 1), st.integers(1, 3)), max_size=80, unique_by=lambda row: row
)


@EXAMPLES
@given(pools, st.integers(1, 6), st.integers(0, 30), st.randoms(use_true_random=False))
def test_pool_is_bounded_and_empties_no_bin_for_another(
    rows: list[tuple[int, float, int]], per_input: int, per_task: int, random: object
) -> None:
    scale = space()
    given_to = [episode(n, v, given=f"input {i}", round=r) for n, (i, v, r) in enumerate(rows)]

    def bin_of(one: Episode) -> int:
        return return_bin(one, scale, "relevance")

    kept = bounded(given_to, bin_of, per_input=per_input, per_task={TASK: per_task})
    assert {e.episode_id for e in kept} <= {e.episode_id for e in given_to}
    assert len(kept) <= per_task
    by_input: dict[str, list[Episode]] = defaultdict(list)
    for one in kept:
        by_input[one.input_id].append(one)
    assert all(len(of_input) <= per_input for of_input in by_input.values())
    within = bounded(given_to, bin_of, per_input=per_input, per_task={TASK: len(rows)})
    assert len(kept) == min(per_task, len(within)), "no room is left unused"
    before, after = Counter(map(bin_of, within)), Counter(map(bin_of, kept))
    for number, count in before.items():
        if after[number] < count:  # what lost an episode has no fewer than any other, but for one of rounding
            assert after[number] >= max(after.values(), default=0) - 1
    shuffled = list(given_to)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = bounded(shuffled, bin_of, per_input=per_input, per_task={TASK: per_task})
    assert [e.episode_id for e in again] == [e.episode_id for e in kept]


def test_pool_prefers_later_rounds_within_a_bin() -> None:
    rows = [episode(n, 0.5, given=f"input {n}", round=1 + n % 2) for n in range(20)]
    kept = bounded(rows, lambda _: 5, per_input=1, per_task={TASK: 10})
    assert {one.round for one in kept} == {2}


# -- the verdict -------------------------------------------------------------------------------------------------------


def done(number: int, top: float, diversity: float, verdict: str) -> Round:
    figures = {TOP: (top, top, top)}
    return Round(number, number - 1, f"w{number}", 0, {}, 0, 0, 0, {}, figures, figures, diversity, verdict, {})


def play(options: RoundOptions, *rounds: tuple[float, float]) -> State:
    state = State((done(0, 0.5, 1.0, KEPT),), 0, 0)
    for number, (top, diversity) in enumerate(rounds, start=1):
        assert state.stopped is None
        state = advanced(state, done(number, top, diversity, judge(state, top, diversity, options)), options)
    return state


def test_rounds_end_where_validation_stops_improving() -> None:
    state = play(RoundOptions(), (0.6, 1.0), (0.55, 1.0))
    assert (state.kept, state.head) == (1, 2)
    assert state.stopped is not None
    assert "round 2 was no better" in state.stopped
    patient = RoundOptions(patience=2)
    assert play(patient, (0.6, 1.0), (0.55, 1.0)).stopped is None
    assert play(patient, (0.6, 1.0), (0.55, 1.0), (0.61, 1.0)).kept == 3
    assert play(patient, (0.6, 1.0), (0.55, 1.0), (0.6, 1.0)).stopped is not None


def test_rounds_end_where_diversity_falls_below_its_floor() -> None:
    state = play(RoundOptions(), (0.6, 0.97), (0.9, 0.94))
    assert (state.kept, state.head) == (1, 1)
    assert state.rounds[-1].verdict == LESS_DIVERSE
    assert "0.940 of round 0's diversity" in str(state.stopped)
    free = play(RoundOptions(diversity_floor=0.0), (0.6, 0.97), (0.9, 0.2))
    assert (free.kept, free.stopped) == (2, None)
    assert judge(free, 0.1, 1.0, RoundOptions()) == NO_BETTER


def test_diversity_is_the_lowest_of_its_figures() -> None:
    before = Measured({"distinct_2": {"t/0/0": 0.8}, "pairwise_distance": {"t/0/0": 0.5}})
    now = Measured({"distinct_2": {"t/0/0": 0.84}, "pairwise_distance": {"t/0/0": 0.4}})
    assert diversity_share(now, before) == pytest.approx(0.8)


def test_gain_is_paired_by_item() -> None:
    rng = np.random.default_rng(0)
    level = {f"t/{n}": float(rng.random()) for n in range(50)}
    before, now = Measured({TOP: level}), Measured({TOP: {key: value + 0.1 for key, value in level.items()}})
    found = now.gain(before, TOP)
    assert (found.mean, found.lo, found.hi) == pytest.approx((0.1, 0.1, 0.1))
    assert before.interval(TOP).hi - before.interval(TOP).lo > 0.05


# -- inputs ------------------------------------------------------------------------------------------------------------

HYGIENE = HygieneFacts(decontamination=DecontaminationFacts(asked=()))


def test_given_inputs_leave_out_what_must_not_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"a fox number {n}" for n in range(60)]
    (tmp_path / "a.txt").write_text("\n".join([*texts, texts[0].upper()]))
    found = given_inputs(tmp_path / "a.txt", [TASK], field=None, hygiene=HYGIENE, encoder=None)
    train = [text for text in texts if split_of(input_id(text)) == "train"]
    assert len(train) < 60
    assert [text for _, text in found[TASK]] == train
    err = capsys.readouterr().err
    assert f"{60 - len(train)} held out for validation and test" in err
    assert "1 repeated" in err


def test_given_inputs_name_the_line_that_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a fox"}\n{"text": \n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: not a line of JSON"):
        given_inputs(tmp_path / "a.jsonl", [TASK], field=None, hygiene=HYGIENE, encoder=None)
    held = next(t for t in (f"a fox {n}" for n in range(1000)) if split_of(input_id(t)) == "test")
    (tmp_path / "b.txt").write_text(held)
    with pytest.raises(InputError, match="no input is left to explore on"):
        given_inputs(tmp_path / "b.txt", [TASK], field=None, hygiene=HYGIENE, encoder=None)


def test_given_inputs_of_benchmark_suites_are_left_out(tmp_path: Path) -> None:
    from udrl.data.decontamination import suite_inputs

    asked = next(iter(suite_inputs(["relevance"]).values()))
    (tmp_path / "a.txt").write_text("\n".join([*asked[:40], *(f"a quiet fox number {n}" for n in range(5))]))
    hygiene = HygieneFacts(decontamination=DecontaminationFacts(asked=("relevance",)))
    found = given_inputs(tmp_path / "a.txt", [TASK], field=None, hygiene=hygiene, encoder=None)
    assert found[TASK]
    assert all(text.startswith("a quiet fox") for _, text in found[TASK])


def test_unknown_tasks_are_refused_with_the_known_ones() -> None:
    assert chosen_tasks(["b", "a"], []) == ("a", "b")
    with pytest.raises(UsageError, match="unknown task 'c'"):
        chosen_tasks(["b", "a"], ["c"])

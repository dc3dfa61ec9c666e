"""Several students in one benchmark: the run's own, others, one that cannot be commanded."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from eval_fakes import FakeStudent

from udrl.commands import CommandSpace
from udrl.data.run import Run
from udrl.errors import UsageError
from udrl.eval.bench import BenchReport, _bench
from udrl.eval.students import student_entry, tasks_in_common
from udrl.eval.suites import Sweep, load_suite
from udrl.eval.thresholds import figure_at

TASK = "recorded"
INPUTS = [f"a {thing} in the {place} {time}" for place in ("harbour", "attic") for thing in ("lamp", "kettle", "map")
          for time in ("at dawn", "in winter")]  # fmt: skip


@dataclass
class Plain(FakeStudent):
    """A student that was trained without commands."""

    def __post_init__(self) -> None:
        self.space = CommandSpace.fit(1000, (), {TASK: {}})


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> BenchReport:
    folder = tmp_path_factory.mktemp("several")
    file = folder / "outputs.jsonl"
    forms = {"long": "{} under a low grey sky while rain begins to fall", "short": "{} and rain"}
    data = [{"input": x, "output": form.format(x), "model": m} for m, form in forms.items() for x in INPUTS]
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    suite = replace(
        load_suite("recorded"),
        recorded=(file,),
        samples=2,
        latency_requests=1,
        following=Sweep(inputs=4, seeds=2, leakage_inputs=2),
        references=("short", "long"),
    )
    students = {"student": FakeStudent((TASK,)), "wild": FakeStudent((TASK,), obedience=0.0), "plain": Plain((TASK,))}
    run = Run(folder / "run")
    entries = [student_entry(name, student, key=name, run=None) for name, student in students.items()]
    return _bench(
        run,
        suite,
        entries,
        {},
        name=None,
        base_url=None,
        teacher=None,
        judge=None,
        seed=0,
        limit=None,
        machine_usd=3.6,
    )


def test_students_have_rows_of_their_own(several: BenchReport) -> None:
    systems = several.summary["systems"]
    rows = ["matched", "matched-long", "top", "open"]
    wanted = [*(f"{name}@{row}" for name in ("student", "wild") for row in rows), "plain@open"]
    assert list(systems)[: len(wanted)] == wanted
    assert {name: systems[name]["student"] for name in wanted} == {name: name.split("@")[0] for name in wanted}
    assert systems["short"]["student"] is None
    assert systems["student@open"]["batch_size"] == 2 * len(INPUTS)
    assert "There is no row plain@matched: the student cannot be commanded so." in several.notes
    matched = systems["student@matched-long"]["length"]["mean"]
    assert matched == pytest.approx(systems["long"]["length"]["mean"], rel=0.1)


def test_students_are_compared_by_their_fairest_rows_the_best_first(several: BenchReport) -> None:
    summary = several.summary
    assert summary["references"] == ["short", "long"]
    for ref, rows in {
        "short": ("student@matched", "wild@matched"),
        "long": ("student@matched-long", "wild@matched-long"),
    }.items():
        assert set(summary["headline"][ref]) == {*rows, "plain@open"}
        ratios = [summary["parity"][name][ref]["ratio"] for name in summary["headline"][ref]]
        assert ratios == sorted(ratios, reverse=True)
        assert figure_at(summary, f"parity.{ref}") == ratios[0]
    sentences = [one.sentence for one in several.sentences]
    assert sum("parity with long" in sentence for sentence in sentences) == 3


def test_students_each_have_their_curves(several: BenchReport) -> None:
    following = several.summary["command_following"]
    assert set(following) == {"student", "wild"}, "what cannot be commanded is not swept"
    assert following["student"]["length"]["spearman_within_input"] > 0.9
    assert following["wild"]["length"]["spearman_within_input"] < 0.5
    assert following["student"]["length"]["range"] is None, "without a run nobody knows what a teacher achieves"
    assert (
        following["student"]["length"]["uncalibrated"]["curve"][-1][1] < following["student"]["length"]["curve"][-1][1]
    )


def test_students_calls_have_a_price(several: BenchReport) -> None:
    system = several.summary["systems"]["student@open"]
    cost = system["cost_per_1000"]
    tokens = np.mean([row["mean"] + 1 for row in [system["length"]]])
    assert cost["usd"] == pytest.approx(tokens / system["tokens_per_second"], rel=0.05), "0.1 cents a second"
    assert cost["basis"].endswith("3.6 USD an hour")
    assert several.summary["systems"]["short"]["cost_per_1000"] is None


def test_students_of_different_tasks_cannot_be_compared() -> None:
    one, other = (student_entry(t, FakeStudent((t,)), key=t, run=None) for t in ("alpha", "beta"))
    with pytest.raises(UsageError, match="alpha, beta have no task in common"):
        tasks_in_common([one, other])
    both = student_entry("both", FakeStudent(("beta", "alpha")), key="b", run=None)
    assert tasks_in_common([both, one]) == ("alpha",)

"""The command under which a student writes as long as a reference."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from eval_fakes import FakeStudent, Written, items

from udrl.commands import Attribute, Command, CommandSpace
from udrl.eval import systems
from udrl.eval.matched_length import PILOT, TRIES, matched_targets, mean_lengths, settled_targets

ITEMS = items("alpha", [f"subject {n}" for n in range(PILOT + 6)])


@dataclass
class Short(FakeStudent):
    """Writes a share of the words that it is commanded to, at most so many."""

    share: float = 0.8
    most: float = 1000.0

    def _write(self, text: str, command: Command, seed: int, calibrated: bool) -> Written:
        length = min(self.share * command.targets["length"], self.most)
        return super()._write(text, replace(command, targets={**command.targets, "length": length}), seed, calibrated)


class Silent(FakeStudent):
    """Mostly writes nothing, whatever it is told."""

    def reachable(self, task: str, attribute: str, *, length: float | None = None) -> tuple[float, float]:
        return (0.0, 0.7) if attribute == "length" else (0.0, 0.1)


def achieved(student: FakeStudent, targets: systems.Targets) -> float:
    wanted = [systems.wish("b", "s", item, 0, 1, targets=targets["alpha"]) for item in ITEMS]
    return mean_lengths(systems.answer(student, wanted))["alpha"]


def test_matched_commands_a_reachable_length_and_the_highest_relevance() -> None:
    student = FakeStudent()
    matched = matched_targets(student, {"alpha": 17.0, "beta": 400.0})
    assert matched["alpha"] == {"length": 17.0, "relevance": student.reachable("alpha", "relevance")[1]}
    assert matched["beta"]["length"] == student.reachable("beta", "length")[1]
    assert matched_targets(Silent(), {"alpha": 9.0}) == {"alpha": {"length": 1.0, "relevance": 0.1}}
    student.space = CommandSpace.fit(9, (Attribute("clicks", 0, 9),), {"alpha": {"clicks": list(range(9))}})
    assert matched_targets(student, {"alpha": 9.0}) == {}


@pytest.mark.parametrize("share", [0.8, 1.25])
def test_settled_on_what_achieves_the_length(share: float) -> None:
    student = Short(share=share)
    assert achieved(student, matched_targets(student, {"alpha": 15.0})) == pytest.approx(share * 15, abs=0.5)
    settled = settled_targets(student, ITEMS, {"alpha": 15.0}, seed=0)
    assert achieved(student, settled) == pytest.approx(15, rel=0.04)
    assert settled["alpha"]["relevance"] == student.reachable("alpha", "relevance")[1]
    assert settled == settled_targets(Short(share=share), ITEMS, {"alpha": 15.0}, seed=0)


def test_settled_at_once_where_the_command_is_obeyed() -> None:
    student = FakeStudent()
    assert settled_targets(student, ITEMS, {"alpha": 15.0}, seed=0) == matched_targets(student, {"alpha": 15.0})
    assert student.calls == [PILOT]


def test_settled_on_the_nearest_where_the_length_cannot_be_reached() -> None:
    student = Short(most=10)
    settled = settled_targets(student, ITEMS, {"alpha": 15.0}, seed=0)
    assert achieved(student, settled) == 10
    assert len(student.calls) - 1 <= TRIES
    silent = Silent()
    assert settled_targets(silent, ITEMS, {"alpha": 9.0}, seed=0) == matched_targets(silent, {"alpha": 9.0})

"""Rounds that go on: what was restarted leaves nothing, what could not be compared is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from methods_run import TASKS, brevity, episodes_of, methods_run

import udrl.cli.main as cli
from udrl.data.episodes import write_episodes
from udrl.data.facts import EncoderFacts, RewardFacts, ScoreFacts
from udrl.data.run import Run
from udrl.errors import RunError, UsageError
from udrl.rounds.history import MEASURED, folder_of
from udrl.rounds.improve import improve
from udrl.rounds.inputs import Source
from udrl.rounds.options import RoundOptions
from udrl.rounds.quality import TOP, Measured, judged_items
from udrl.rounds.round import Work, _begin_run

ENCODER = EncoderFacts("lsa", "1", "fp32")


def rescored(place: Run, **changed: Any) -> None:
    with place.writing():
        place.record(replace(place.facts().score, **changed))


def resynthesized(place: Run) -> None:
    more = [
        replace(e, episode_id=f"more-{n}", input_id="a new one", input="a new one")
        for n, e in enumerate(episodes_of(seed=1))
        if e.split == "validation"
    ]
    with place.writing():
        write_episodes(place.episodes, [*episodes_of(seed=1), *more], reward_names=("brevity", "relevance"))


def unchanged(place: Run) -> None:
    rescored(place, seconds=9.0, rewards=(*place.facts().score.rewards, RewardFacts("new", 0.0, 1.0, source="new")))


def work_on(place: Run) -> Work:
    work = Work(place, RoundOptions(reward="brevity"), Source(), "cpu", "fp32")
    work._rewards = {"brevity": cast("Any", brevity)}
    return work


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (unchanged, None),
        (lambda place: rescored(place, encoder=replace(ENCODER, revision="2")), "encoder: lsa 1 fp32, now lsa 2 fp32"),
        (
            lambda place: rescored(place, rewards=(RewardFacts("brevity", 0.0, 1.0, source="mine:brevity"),)),
            "reward 'brevity': methods_run:brevity, now mine:brevity",
        ),
        (resynthesized, "validation inputs: 4, now 6, of which 4 are the same"),
    ],
)
def test_rounds_that_could_not_be_compared_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Run], None], says: str | None
) -> None:
    place = Run(methods_run(tmp_path, monkeypatch)[0])
    student = cast("Any", SimpleNamespace(tasks=TASKS))
    rescored(place, encoder=ENCODER)
    begun = work_on(place)
    _begin_run(folder_of(place, 0), place, (ScoreFacts,))
    items = judged_items(begun._validation(student), TASKS, cast("Any", brevity), 40)
    values = {TOP: {f"{item.task}/{item.input_id}": 0.5 for item in items}}
    Measured(values).save(folder_of(place, 0) / MEASURED)
    change(place)
    if says is None:
        work_on(place)._check_comparable(student)
    else:
        with pytest.raises(RunError, match=rf"cannot be compared \({says}\): .*rounds"):
            work_on(place)._check_comparable(student)


def test_column_of_no_file_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="'prompt' names a column"):
        improve(tmp_path, input_field="prompt")
    assert cli.run(["improve", "--run", str(tmp_path), "--input-field", "prompt"]) == 2
    assert "give --inputs, too" in capsys.readouterr().err

"""Votes of people: the page without names, what its exports say, and files that it cannot have exported."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from report_fakes import SYSTEMS, inputs, made

from udrl.cli.main import run as cli
from udrl.data.facts import SynthFacts
from udrl.data.run import Run
from udrl.errors import InputError, RunError
from udrl.eval import votes
from udrl.eval.completions import read_blocks
from udrl.eval.people import blind, count_votes
from udrl.eval.summary import read_summary
from udrl.eval.votes import BlindPair, by_key, figures

THREE = {**SYSTEMS, "mistral": ("recorded", 0.5)}
STRENGTH = {"llama3": 3, "student@matched": 2, "mistral": 1}
"""Whom the voter of these tests prefers. The student's other row and the baselines are shown to nobody."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    with run.writing():
        run.record(SynthFacts(seed=0))
    made(run.bench("suite"), inputs(("alpha", "beta"), 8), systems=THREE)
    return run


def page_data(page: Path) -> dict[str, Any]:
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), flags=re.S)
    data: dict[str, Any] = json.loads(text)
    return data


def pairs(run: Run) -> dict[str, BlindPair]:
    return by_key(list(read_blocks(run.bench("suite")).values()))


def prefer(pair: BlindPair) -> int:
    return 1 if STRENGTH[pair.systems[0]] > STRENGTH[pair.systems[1]] else 2


def exported(path: Path, entries: object, **about: object) -> Path:
    path.write_text(json.dumps({"schema": 1, "benchmark": "suite", "seed": 0, "votes": entries, **about}))
    return path


def test_blind_shows_every_two_systems_without_their_names(run: Run) -> None:
    report = blind(run)
    assert (report.pairs, report.systems) == (3 * 16, 3)
    data, known = page_data(report.page), pairs(run)
    assert Counter(frozenset(known[one["key"]].systems) for one in data["pairs"]) == {
        frozenset(two): 16
        for two in (("student@matched", "llama3"), ("student@matched", "mistral"), ("llama3", "mistral"))
    }
    for one in data["pairs"]:
        pair = known[one["key"]]
        assert (one["input"], one["first"], one["second"], one["task"]) == (pair.input, *pair.texts, pair.task)
    said = report.page.read_text().lower()
    assert not [name for name in ("llama3", "student@", "mistral") if name in said]


def test_blind_draws_order_and_places_by_seed(run: Run) -> None:
    first, again, other = (page_data(blind(run, seed=seed).page)["pairs"] for seed in (1, 1, 2))
    assert first == again
    keys = [one["key"] for one in first]
    assert keys != [one["key"] for one in other]
    known = pairs(run)
    places = Counter(known[key].systems[0] for key in keys if "llama3" in known[key].systems)
    assert 4 <= places["llama3"] <= 28, "of 32 pairs it stands first in about half"
    few = page_data(blind(run, seed=1, limit=2).page)["pairs"]
    assert Counter(one["task"] for one in few) == {"alpha": 6, "beta": 6}
    assert {one["key"] for one in few} < set(keys)


def test_votes_stand_beside_relevance_in_summary_and_report(run: Run, tmp_path: Path) -> None:
    known = pairs(run)
    entries = [
        {"pair": one["key"], "choice": 0 if one["task"] == "beta" else prefer(known[one["key"]])}
        for one in page_data(blind(run).page)["pairs"]
    ]
    before = read_summary(run.bench("suite"))
    report = count_votes(run, [exported(tmp_path / "a.json", entries), exported(tmp_path / "b.json", entries[:9])])
    summary = read_summary(run.bench("suite"))
    assert {name: value for name, value in summary.items() if name != "votes"} == {
        name: value for name, value in before.items() if name != "votes"
    }, "nothing but votes is added"
    found = summary["votes"]
    assert (found["voters"], found["votes"], found["outdated"]) == (2, 48 + 9, 0)
    for one, others in found["systems"].items():
        for two, entry in others.items():
            of_pair = [e for e in [*entries, *entries[:9]] if set(known[e["pair"]].systems) == {one, two}]
            decided = sum(e["choice"] != 0 for e in of_pair)
            win = decided if STRENGTH[one] > STRENGTH[two] else 0
            assert entry["votes"] == len(of_pair)
            assert entry["win_rate"] == pytest.approx((win + (len(of_pair) - decided) / 2) / len(of_pair))
            low, high = entry["win_rate_ci95"]
            assert low <= entry["win_rate"] <= high
            assert entry["ties"] == pytest.approx(1 - decided / len(of_pair))
            assert 0 <= entry["relevance_win_rate"] <= 1
    assert [row["system"] for row in found["order"]] == ["llama3", "student@matched", "mistral"]
    assert sum(row["strength"] for row in found["order"]) == pytest.approx(0, abs=1e-6)
    assert all(row["ci95"][0] < row["strength"] < row["ci95"][1] for row in found["order"])
    page = report.report.read_text()
    assert "What people prefer" in page
    assert any(one.sentence.startswith("People prefer") for one in report.sentences)


def test_votes_of_two_systems_have_no_order_and_old_ones_count_apart(run: Run) -> None:
    known = pairs(run)
    of_two = [pair for pair in known.values() if pair.systems == ("student@matched", "llama3")]
    relevance = {(name, pair.task, pair.input_id): 0.5 for pair in known.values() for name in pair.systems}
    cast = [votes.Vote(0, pair.key, 2) for pair in of_two] + [votes.Vote(0, "of another text", 1)]
    found = figures(cast, known, relevance)
    assert found["order"] is None
    assert (found["votes"], found["outdated"]) == (16, 1)
    entry = found["systems"]["student@matched"]["llama3"]
    assert (entry["win_rate"], entry["ties"], entry["relevance_win_rate"]) == (0.0, 0.0, 0.5)
    assert entry["agreement"] is None, "relevance is the same everywhere"
    assert votes.stored(run.bench("suite")) is None
    votes.store(run.bench("suite"), cast)
    assert votes.stored(run.bench("suite")) == cast


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", r"a\.json is no JSON \(.*\): export the votes"),
        ("[" * 100_000, r"a\.json is no JSON"),
        ("[]", r"a\.json is no file of votes: export the votes"),
        ('{"schema": 1}', r"a\.json is no file of votes"),
        ('{"schema": 2, "votes": []}', r"a\.json has schema 2, this version reads 1"),
        ('{"schema": 1, "votes": []}', r"a\.json holds no vote: judge a pair"),
        ('{"schema": 1, "votes": [7]}', r"vote 1: must hold 'pair', a text, and 'choice', 0, 1 or 2; found 7"),
        ('{"schema": 1, "votes": [{"pair": "KEY", "choice": 3}]}', "vote 1: must hold 'pair'"),
        ('{"schema": 1, "votes": [{"pair": "KEY", "choice": true}]}', "vote 1: must hold 'pair'"),
        ('{"schema": 1, "votes": [{"pair": "KEY", "choice": "1"}]}', "vote 1: must hold 'pair'"),
        ('{"schema": 1, "votes": [{"pair": "x", "choice": 1}]}', "vote 1: its pair is none of benchmark 'suite'"),
        (
            '{"schema": 1, "votes": [{"pair": "KEY", "choice": 1}, {"pair": "TURNED", "choice": 1}]}',
            "vote 2: judges the pair that vote 1 judges",
        ),
    ],
)
def test_votes_that_no_page_exported_are_one_sentence(run: Run, tmp_path: Path, content: str, sentence: str) -> None:
    pair = next(iter(pairs(run).values()))
    path = tmp_path / "a.json"
    path.write_text(content.replace("KEY", pair.key).replace("TURNED", pair.turned().key))
    before = read_summary(run.bench("suite"))
    with pytest.raises(InputError, match=sentence) as error:
        count_votes(run, [path])
    assert "\n" not in str(error.value)
    assert read_summary(run.bench("suite")) == before


def test_votes_of_files_that_are_missing_or_given_twice(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.json: export the votes"):
        count_votes(run, [tmp_path / "none.json"])
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        count_votes(run, [tmp_path])
    key = next(iter(pairs(run)))
    files = [exported(tmp_path / name, [{"pair": key, "choice": 1}]) for name in ("a.json", "b.json")]
    with pytest.raises(InputError, match=r"b\.json holds the same votes as .*a\.json"):
        count_votes(run, files)


def test_blind_and_votes_on_the_command_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--run", str(run.path)]
    assert cli(["bench", "--blind", "--limit", "1", "--json", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"page": str(run.bench("suite") / "blind.html"), "pairs": 6, "systems": 3}
    file = exported(tmp_path / "a.json", [{"pair": page_data(Path(told["page"]))["pairs"][0]["key"], "choice": 1}])
    assert cli(["bench", "--votes", str(file), "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["votes"]["votes"] == 1
    for wrong in (["--blind", "--rescore"], ["--blind", "--votes", str(file)], ["--blind", "--suite", "relevance"],
                  ["--votes", str(file), "--judge", "llama3"]):  # fmt: skip
        assert cli(["bench", *wrong, *where]) == 2, wrong
    assert cli(["bench", "--votes", str(tmp_path / "none.json"), *where]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_blind_says_what_is_missing(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with run.writing():
        run.record(SynthFacts(seed=0))
    with pytest.raises(RunError, match="run udrl bench"):
        blind(run)
    made(run.bench("alone"), inputs(("alpha",), 2), systems={"student@open": ("student", 0.5), "echo": ("baseline", 1)})
    with pytest.raises(RunError, match=r"no two completions of different systems for one input \(1 systems"):
        blind(run)

"""The LLM judge, behind a real endpoint whose preferences are known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer

from udrl.errors import RunError, UsageError
from udrl.eval.bench import bench
from udrl.eval.llm_judge import FILE, _lines, read_points

CARD = """
schema: 1
name: judge
title: A judge
description: A server that compares.
backend: openai
base_url: {url}
model: judge-1
licence: {{name: mit, outputs: no limits}}
sampling: [{{name: careful, temperature: 0.2}}]
settings: {{openai: {{attempts: 1}}}}
"""
INPUTS = [f"a {thing} in the {place}" for place in ("harbour", "attic") for thing in ("lamp", "kettle", "clock", "map")]


def outputs(path: Path) -> Path:
    data = []
    for number, text in enumerate(INPUTS):
        extra = " and the rain that has begun to fall" if number % 2 else ""
        data.append({"input": text, "output": f"good {text} under a low grey sky", "model": "good"})
        data.append({"input": text, "output": f"bad nothing of that kind here today{extra}", "model": "bad"})
        data.append({"input": text, "output": f"same {text} under a low grey sky", "model": "same"})
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def opinion(body: dict[str, Any]) -> str:
    """Prefers what begins with 'good' to what begins with 'bad', and the first one otherwise."""
    asked = str(body["messages"][-1]["content"])
    first, second = (re.search(rf"Text {name}:\n(\w+)", asked)[1] for name in "AB")  # type: ignore[index]
    if "bad" in (first, second):
        return "**B**" if first == "bad" else "The better text is A."
    return "A"


def test_judge_is_asked_twice_with_places_swapped_and_paid_once(tmp_path: Path) -> None:
    file = outputs(tmp_path / "outputs.jsonl")
    with FaultServer(write=opinion) as server:
        (tmp_path / "judge.yaml").write_text(CARD.format(url=server.url))
        judge = tmp_path / "judge.yaml"
        found = bench(tmp_path / "run", recorded=[file], reference=["good"], judge=judge)
        assert len(server.answered) == 2 * 2 * len(INPUTS), "two systems beside the reference, two places"
        assert all(body["temperature"] == 0 for body in server.bodies)
        again = bench(tmp_path / "run", recorded=[file], reference=["good"], judge=judge)
        assert len(server.answered) == 4 * len(INPUTS), "nothing is asked for twice"
    assert again.summary["judge"] == found.summary["judge"]
    judged = found.summary["judge"]
    assert (judged["name"], judged["model"], set(judged["systems"])) == ("judge", "judge-1", {"bad", "same"})
    bad, same = judged["systems"]["bad"]["good"], judged["systems"]["same"]["good"]
    assert (bad["items"], bad["failed"], bad["win_rate"], bad["win_rate_ci95"]) == (len(INPUTS), 0, 0.0, [0.0, 0.0])
    assert (bad["consistency"], bad["first_position"], bad["ties"]) == (1.0, 0.5, 0.0)
    assert bad["agreement"] == 1.0, "what is about nothing of the kind is less relevant, too"
    assert (same["win_rate"], same["consistency"], same["first_position"]) == (0.5, 0.0, 1.0)
    assert same["agreement"] is None, "a preference that does not survive the swap is none"
    told = {one.sentence: one for one in found.sentences}
    assert told["judge prefers bad to good in 0 % of the inputs [0, 0]."].passed is False
    inconsistent = told["judge prefers same to good in 50 % of the inputs [50, 50]."]
    assert inconsistent.against == ("only 0 % of the judgements are the same when the two texts change places",)
    lines = (tmp_path / "run" / "bench" / "recorded" / FILE).read_text().splitlines()
    assert {json.loads(line)["points"] for line in lines} == {0.0, 1.0}


def test_judge_failures_are_counted_and_asked_for_again(tmp_path: Path) -> None:
    file = outputs(tmp_path / "outputs.jsonl")
    options: dict[str, Any] = {"recorded": [file], "reference": ["good"], "judge": tmp_path / "judge.yaml"}
    with FaultServer(write=lambda body: "Both have their merits.") as server:
        (tmp_path / "judge.yaml").write_text(CARD.format(url=server.url))
        found = bench(tmp_path / "run", **options)
    entry = found.summary["judge"]["systems"]["bad"]["good"]
    assert (entry["items"], entry["failed"], entry["win_rate"]) == (0, len(INPUTS), None)
    with (tmp_path / "run" / "bench" / "recorded" / FILE).open("a") as torn:
        torn.write('{"schema": 1, "key": "ab')  # as a kill leaves it
    with FaultServer(write=opinion) as server:
        (tmp_path / "judge.yaml").write_text(CARD.format(url=server.url))
        found = bench(tmp_path / "run", **options)
        assert len(server.answered) == 4 * len(INPUTS)
    assert found.summary["judge"]["systems"]["bad"]["good"]["items"] == len(INPUTS)
    with (tmp_path / "run" / "bench" / "recorded" / FILE).open("a") as damaged:
        damaged.write("nonsense\n")
    with pytest.raises(RunError, match=rf"{FILE}, line \d+: is damaged"):
        bench(tmp_path / "run", **options)


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        ("A", 1.0), ("b.", 0.0), ("T", 0.5), ("Tie", 0.5), ("**B**", 0.0), ("Answer: A", 1.0), ("<x>\nAnswer: B", 0.0),
        ("A\n\nBecause it is a good text.", 1.0), ("A good text", None), ("", None), (None, None), ("C", None),
    ],
)  # fmt: skip
def test_judge_replies_are_read_strictly(reply: str | None, points: float | None) -> None:
    assert read_points(reply) == points


def test_judge_needs_a_reference(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("schema: 1\nname: mine\ntitle: M\ndescription: d\ninputs: {recorded: true}\nsystems: [echo]\n")
    with pytest.raises(UsageError, match="unknown teacher 'nobody'"):
        bench(tmp_path / "run", suite=suite, recorded=[outputs(tmp_path / "o.jsonl")], judge="nobody")


def test_judgements_survive_what_a_line_may_hold_and_what_a_kill_leaves(tmp_path: Path) -> None:
    path = tmp_path / FILE
    whole = json.dumps({"key": "a", "points": 1.0, "reply": "A\u2028because\u0085it is"}, ensure_ascii=False)
    path.write_bytes(whole.encode() + b"\n" + '{"key": "b", "reply": "é'.encode()[:-1])
    assert [line["key"] for line in _lines(path)] == ["a"]
    assert path.read_bytes() == whole.encode() + b"\n"

"""What the report is made of: which examples a page holds, its pictures, and that a text stays a text."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_fakes import JUDGE, SYSTEMS, inputs, made

from udrl.errors import RunError
from udrl.eval.pages.benchmark import report
from udrl.eval.pages.charts import Estimate, Point, forest_chart, pareto, scatter_chart
from udrl.eval.pages.example_browser import EXTREMES, Example, browser_of, sampled

TASKS = ("alpha", "beta")


def example(number: int, *, task: str = "alpha", characters: int = 100) -> Example:
    row = {"completion": "x" * characters, "error": None, "targets": "{}"}
    return Example(task, str(number), "", {"student": (row, {"relevance": number / 1000})})


def test_examples_fit_the_page_by_the_stated_rule() -> None:
    many = [example(n, task="beta" if n % 10 == 0 else "alpha") for n in range(500)]
    chosen = sampled(many, "student", 100 * 100)
    assert len(chosen) == 100
    numbers = [int(one.input_id) for one in chosen]
    assert numbers == sorted(numbers)  # in the suite's order
    assert {*range(EXTREMES), *range(500 - EXTREMES, 500)} <= set(numbers)
    drawn = [one for one in chosen if EXTREMES <= int(one.input_id) < 500 - EXTREMES]
    assert sum(one.task == "beta" for one in drawn) == pytest.approx(len(drawn) / 2, abs=3)  # each task in turn
    assert sampled(many, "student", 100 * 100) == chosen
    assert sampled(many, "student", 500 * 100) == many
    assert len(sampled(many, "student", 1)) == 1


def test_examples_browser_says_what_it_left_out() -> None:
    many = [example(n) for n in range(300)]
    browser = browser_of(many, {"student": "student"}, leading="student", other=None, budget=20_000)
    assert "200 of 300 inputs are on this page, which holds up to 0.02 million characters" in browser.lead
    assert len(browser.data["examples"]) == 200
    browser = browser_of(many[:5], {"student": "student"}, leading="student", other=None)
    assert "on this page" not in browser.lead
    assert browser.data["scores"] == [{"name": "relevance", "digits": 2}]
    long = example(1, characters=30_000)
    browser = browser_of([long], {"student": "student"}, leading="student", other=None)
    assert browser.data["examples"][0]["answers"][0][1] == "x" * 20_000 + " […]"


def test_report_holds_every_figure_that_the_summary_has(tmp_path: Path) -> None:
    folder = made(tmp_path / "bench", inputs(TASKS, 6), judge=JUDGE)
    page = report(folder).read_text()
    for section in ("systems", "parity", "pictures", "commands", "judge", "tasks", "examples", "how"):
        assert f'<section id="{section}">' in page
    assert page.count("<svg ") == 1 + 2 + 3 + 1 + 2  # parity, its tasks, costs, commands, their tasks
    for place in re.findall(r'href="#(\w+)"', page):
        assert f'id="{place}"' in page
    assert "brevity" in page
    assert "0.65 (without calibration" not in page
    assert "Rank correlation within an input: 0.80 (without calibration 0.70)" in page
    assert "8.0\N{NO-BREAK SPACE}B" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert [system["name"] for system in data["systems"]][:2] == ["student@matched", "llama3"]
    assert [len(one["answers"]) for one in data["examples"]] == [len(SYSTEMS)] * 12


def test_report_of_recorded_outputs_alone(tmp_path: Path) -> None:
    """No student, no reference, one task: what cannot be said is left out."""
    folder = made(tmp_path / "bench", inputs(TASKS[:1], 6), systems={"a": ("recorded", 0.5), "b": ("recorded", 0.6)})
    summary = json.loads((folder / "summary.json").read_text())
    summary["command_following"] = {}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = report(folder).read_text()
    for section in ("parity", "commands", "judge", "tasks"):
        assert f'id="{section}"' not in page
        assert f'href="#{section}"' not in page
    assert "recorded outputs: written before and elsewhere" in page


def test_report_refuses_a_summary_without_what_it_needs(tmp_path: Path) -> None:
    folder = made(tmp_path / "bench", inputs(TASKS, 3))
    summary = json.loads((folder / "summary.json").read_text())
    del summary["headline"]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match="of an earlier udrl: run udrl bench again"):
        report(folder)


def test_pareto_keeps_what_nothing_smaller_matches() -> None:
    assert pareto([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (5, 0.9)]) == [(1, 0.5), (2, 0.7), (3, 0.9)]


def test_scatter_labels_do_not_cover_each_other() -> None:
    points = [Point(f"system-{n}", f"system-{n}", 0.5 + 0.002 * n, 0.5, 0.49, 0.51, "student") for n in range(5)]
    points.append(Point("system-far", "system-far", 0.9, 0.6, 0.59, 0.61, "student"))  # which crowds the others
    svg = scatter_chart(points, title="Size and <b>", x="x", y="y")
    root = ElementTree.fromstring(svg)
    texts = {e.text: e for e in root.iter("{http://www.w3.org/2000/svg}text") if (e.text or "").startswith("system")}
    assert set(texts) == {point.label for point in points}
    places = [(float(e.attrib["x"]), float(e.attrib["y"])) for e in texts.values()]
    for (x, y), (u, v) in itertools.combinations(places, 2):
        assert abs(y - v) > 7 or abs(x - u) > 30  # lines of 8 points, words of some 35


def test_forest_shows_systems_and_moves_far_baselines_to_the_edge() -> None:
    rows = [Estimate("字 <x>", 0.97, 0.95, 0.99), Estimate("echo", 3.0, 2.9, 3.1, "baseline")]
    svg = forest_chart(rows, title='a "title"', axis="share", line=1.0, bound=0.95, zone=(0.95, None))
    assert "字 &lt;x&gt;" in svg
    assert 'aria-label="a &#34;title&#34;"' in svg
    ticks = [float(text) for text in re.findall(r">(\d\.\d+)</text>", svg)]
    assert max(ticks) < 1.1  # the baseline did not squeeze the others together
    assert "3.00 [2.90, 3.10]" in svg
    assert not re.search(r"#0\d0\d0\d", svg)  # every stand-in colour became the page's

"""The page to look at episodes before training: its figures are those of the files, and every text stays text."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from udrl.cli.main import run as cli
from udrl.data.episode import SPLITS, Episode
from udrl.data.episodes import read_episodes, write_episodes
from udrl.data.hygiene import Hygiene
from udrl.data.inputs import input_id, split_of
from udrl.data.run import Run
from udrl.errors import RunError
from udrl.eval.pages.episodes import episodes_report
from udrl.eval.pages.episodes_survey import BINS, EXAMPLES, survey_of
from udrl.teacher.synthesis.synth import synth

HOSTILE = '</h3><script>alert("{{title}}")</script><img src=x onerror=alert(1)> & \u202e "quoted"'

REFUSAL = "I'm sorry, but I can't help with that."


class Page(HTMLParser):
    """tables: by label, rows of cell texts; texts: by tag and class; addresses: of every src, href and url()."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.said: list[str] = []
        self.ids: Counter[str] = Counter()
        self._rows: list[list[str]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] += 1
        self.addresses += [str(given[name]) for name in ("src", "href", "xlink:href") if name in given]
        self.ids.update([str(given["id"])] if "id" in given else [])
        if given.get("role") == "region":
            self._rows = self.tables.setdefault(str(given["aria-label"]), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if given.get("class") == "said" or (tag == "h3" and "dir" in given):
            self.said.append("")
        if tag not in ("meta", "link", "br", "path", "use", "rect", "line"):
            self._open.append((tag, str(given.get("class"))))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if ("td" in tags or "th" in tags) and self._rows:
            self._rows[-1][-1] += data
        if self._open and (self._open[-1][1] == "said" or (tags[-1] == "h3" and "article" in tags)):
            self.said[-1] += data


def page_of(run: Path | Run) -> Page:
    return Page(episodes_report(run).page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scored episodes of recorded outputs: good, refused, wrapped in talk, hostile, with an address in one input."""
    folder = tmp_path_factory.mktemp("page")
    rows = []
    for n in range(150):
        given = f"a red fox number {n} in the snow" if n else f"mail jane.doe@example.org {HOSTILE}"
        for m in range(3):
            copied = given if "fox" in given and m == n % 3 else "a fox"
            text = (
                f"{copied}, {'very ' * m}quick and number {n * m}, stands in deep snow at {m + 1} in the morning light"
            )
            rows.append({"task": "image", "input": given, "output": text, "model": f"model-{m}", "licence": "mit"})
    rows[1]["output"] = rows[3]["output"] = f"{REFUSAL} {HOSTILE}"
    rows[6]["output"] = "Here is your prompt:\n\na red fox in the snow at dawn, seen from below"
    rows[0]["output"] += " " + HOSTILE
    rows[9]["model"] = "<b>model</b>"
    table = folder / "said.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    synth(folder / "run", teacher=f"recorded:{table}", rewards=("novelty",), hygiene=Hygiene(suites=(), pii="mask"))
    return folder / "run"


def test_page_counts_what_is_in_the_files(made: Path) -> None:
    page = page_of(made)
    every = read_episodes(made / "episodes", splits=SPLITS, kept=False)
    kept = [e for e in every if e.rejected_by is None]
    own = [e for e in kept if e.origin == "teacher"]
    head, row = page.tables["Counts"]
    found = dict(zip(head[1:], (int(cell) for cell in row[1:]), strict=True))
    assert found["Episodes"] == len(every)
    assert found["Rejected"] == len(every) - len(kept) > 0
    assert {name: found[name] for name in SPLITS} == Counter(e.split for e in every)
    origins = ("teacher", "mismatched", "truncated", "spliced")
    assert {name: found[name] for name in origins} == Counter(e.origin for e in every)
    lengths = np.quantile([e.horizon for e in own], (0.1, 0.5, 0.9))
    assert page.tables["Lengths"][1][1:] == [f"{value:.0f}" for value in lengths]
    novelty = [e.returns["novelty"] for e in own]
    cells = page.tables["Returns: novelty"][1]
    assert cells[1:4] == [f"{value:.2f}" for value in np.quantile(np.array(novelty, float), (0.1, 0.5, 0.9))]
    facts = Run(made).facts().score.within_inputs["novelty"]
    assert cells[4] == f"{100 * facts['overall']:.0f}\N{NO-BREAK SPACE}%"
    written = Counter(e.teacher for e in every if e.origin == "teacher")
    assert {row[0]: int(row[1]) for row in page.tables["Writers"][1:]} == written
    rules = Counter(e.rejected_by for e in every if e.rejected_by)
    shown = {row[0]: int(row[1]) for row in page.tables["Rules"][1:]}
    assert {name: count for name, count in shown.items() if ":" not in name} == rules
    assert shown["repaired:preamble"] == 1


def test_page_shows_what_derived_episodes_do_to_the_variance_within_inputs(made: Path) -> None:
    kept = read_episodes(made / "episodes", splits=SPLITS)

    def share(*kinds: str) -> str:
        by_input: dict[str, list[float]] = {}
        for one in kept:
            if one.origin in ("teacher", *kinds):
                by_input.setdefault(one.input_id, []).append(one.returns["novelty"] or 0.0)
        within = sum(np.var(values) * len(values) for values in by_input.values())
        values = [value for of_input in by_input.values() for value in of_input]
        return f"{100 * within / (np.var(values) * len(values)):.0f}\N{NO-BREAK SPACE}%"

    derived = ("mismatched", "truncated", "spliced")
    head, row = page_of(made).tables["Variance within inputs: novelty"]
    assert head == ["Task", "As written", "With mismatched", "With truncated", "With spliced", "With all"]
    assert row == ["image", share(), *(share(kind) for kind in derived), share(*derived)]
    [check] = [one for one in episodes_report(made).checks if "variance of novelty" in one.sentence]
    graded, written = (text.replace("\N{NO-BREAK SPACE}", "") for text in (share("truncated", "spliced"), share()))
    without = "" if graded == written else f" ({written} without truncated and spliced episodes)"
    assert check.sentence == f"{graded} of the variance of novelty lies within inputs{without}."


def test_page_escapes_every_text_and_needs_nothing_from_outside(made: Path) -> None:
    text = episodes_report(made).page.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags["script"] == page.tags["img"] == page.tags["b"] == page.tags["iframe"] == 0
    assert [address for address in page.addresses if not address.startswith("#")] == ["data:,"]
    assert not re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    assert max(page.ids.values()) == 1
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert any("onerror=alert(1)" in said for said in page.said)  # what was written is shown, as text
    assert any("{{title}}" in said for said in page.said)
    assert "jane.doe@example.org" not in text
    assert any("[EMAIL]" in said for said in page.said)
    assert "<b>model</b>" in {row[0] for row in page.tables["Writers"]}


def test_page_shows_examples_of_each_bin_and_rule(made: Path) -> None:
    found = survey_of(Run(made))
    kept = read_episodes(made / "episodes", splits=SPLITS)
    assert found.by == "novelty"
    for task, bins in found.bins.items():
        assert 1 < len(bins) <= BINS
        assert sum(part.count for part in bins) == sum(e.task == task for e in kept)
        for part in bins:
            assert len(part.examples) == min(EXAMPLES, part.count)
            assert all(part.low <= (e.returns["novelty"] or 0.0) <= part.high for e in part.examples)
    text = episodes_report(made).page.read_text(encoding="utf-8")
    said = Page(text).said
    for part in found.bins["image"]:
        assert {e.completion.strip() for e in part.examples} <= set(said)
    assert f"{REFUSAL} {HOSTILE}" in said
    assert "Here is your prompt:\n\na red fox in the snow at dawn, seen from below" in said
    assert episodes_report(made).page.read_text(encoding="utf-8") == text  # the same examples each time


def test_page_of_unscored_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    synth(run, tasks=["search-query"], num_inputs=20, samples=2, score=False)
    capsys.readouterr()
    assert cli(["report", "--episodes", "--run", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    every = read_episodes(run / "episodes", splits=SPLITS, kept=False)
    assert report["page"] == str(run / "episodes.html")
    assert report["episodes"] == len(every)
    assert "Nothing is scored yet: run udrl score." in {check["sentence"] for check in report["checks"]}
    page = Page((run / "episodes.html").read_text())
    assert "Returns: relevance" not in page.tables
    assert page.tags["svg"] == 1  # the lengths
    assert page.said


def episodes(count: int, *, flat: bool = False) -> list[Episode]:
    """Episodes of two tasks; flat: what an episode achieves depends on its input alone, and so does its length."""
    found = []
    for n in range(count):
        given = f"input {n // 4}"
        share = ((n // 4) % 97 if flat else (n * 31) % 97) / 96
        found.append(
            Episode(
                episode_id=f"{n:032x}",
                task=f"task-{n % 8 // 4}",
                input_id=input_id(given),
                input=f"{given} {'with some words ' * 5}",
                completion=f"completion {n} {'of some length ' * 12}",
                horizon=5 + int(40 * share) if flat else 5 + n % 13,
                origin="teacher",
                teacher="t",
                sampling='{"style": "careful"}',
                seed=n,
                split=split_of(input_id(given)),
                returns={"relevance": share},
            )
        )
    return found


def stored(folder: Path, rows: list[Episode]) -> Run:
    run = Run(folder)
    with run.writing():
        write_episodes(run.episodes, rows, reward_names=("relevance",))
    return run


def test_page_says_what_speaks_against_training(tmp_path: Path) -> None:
    flat = episodes_report(stored(tmp_path / "flat", episodes(1600, flat=True)))
    against = " ".join(check.sentence for check in flat.checks if check.passed is False)
    assert "0% of the variance of relevance lies within inputs" in against
    assert "relevance and length move together in 2 of 2 tasks" in against
    good = episodes_report(stored(tmp_path / "good", episodes(1600)))
    assert all(check.passed for check in good.checks)
    few = episodes_report(stored(tmp_path / "few", episodes(80)))
    assert any("fewer than 100" in check.sentence for check in few.checks if check.passed is False)


def test_page_of_many_episodes_is_small(tmp_path: Path) -> None:
    small = episodes_report(stored(tmp_path / "small", episodes(2_000)))
    large = episodes_report(stored(tmp_path / "large", episodes(20_000)))
    assert large.episodes == 20_000
    assert large.page.stat().st_size < min(500_000, 1.1 * small.page.stat().st_size)


def test_report_says_what_is_missing(tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match="there is no run"):
        episodes_report(tmp_path / "none")
    run = Run(tmp_path / "empty")
    with run.writing():
        pass
    with pytest.raises(RunError, match="make episodes with 'udrl synth'"):
        episodes_report(run)
    assert cli(["report", "--run", str(made)]) == 1
    assert "holds no benchmark" in capsys.readouterr().err
    assert cli(["report", "--run", str(made), "--output", str(tmp_path / "x.html")]) == 2
    assert "--output belongs to --episodes" in capsys.readouterr().err
    assert cli(["report", "--episodes", "--run", str(made), "--output", str(tmp_path / "new" / "x.html")]) == 0
    assert "<h1>Episodes of run</h1>" in (tmp_path / "new" / "x.html").read_text()

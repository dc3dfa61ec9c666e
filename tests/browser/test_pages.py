"""The pages in a real browser: no errors, nothing from elsewhere, hostile texts stay text, phone, dark, print."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_fakes import JUDGE, SYSTEMS, inputs, made

from udrl.data.facts import SynthFacts
from udrl.data.run import Run
from udrl.eval.completions import read_blocks
from udrl.eval.pages.benchmark import report
from udrl.eval.pages.comparison import compare_report
from udrl.eval.people import blind
from udrl.eval.votes import by_key

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)> \u2028 \u2029 \"quoted\" 'single' {{data}} ${1}",
    "--><!--<script> &lt;b&gt; &amp; \u202e mirrored \u202c \x07 字 العربية",
)
TASKS = ("alpha", "<i>beta</i>", "字")
NAMED = '<b>"model"</b>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A benchmark with everything in it; hostile inputs, completions, and names of tasks and systems."""
    asked = inputs(TASKS, 12)
    asked["alpha"][:3] = HOSTILE
    systems = {**SYSTEMS, NAMED: ("recorded", 0.5)}
    texts = {("student@matched", text): f"{text} said back" for text in HOSTILE}
    texts["llama3", asked["alpha"][5]] = "needle " * 400
    run = Run(tmp_path_factory.mktemp("browser") / "first")
    with run.writing():
        run.record(SynthFacts(seed=0))
    place = made(run.bench("suite"), asked, systems=systems, texts=texts, judge=JUDGE, title=HOSTILE[0])
    report(place)
    return place


@pytest.fixture(scope="module")
def compared(folder: Path) -> Path:
    """The page that compares it with another draw, in which students are more relevant by 0.05."""
    asked = inputs(TASKS, 12)
    asked["alpha"][:3] = HOSTILE
    run = Run(folder.parents[1].with_name("second <u>"))
    with run.writing():
        run.record(SynthFacts(seed=2))
    made(run.bench("suite"), asked, seed=2, shift=0.05)
    return compare_report(folder.parents[1], run.path).page


@pytest.fixture(scope="module", params=["report", "compare", "episodes"])
def any_page(request: pytest.FixtureRequest) -> Path:
    if request.param == "compare":
        return Path(request.getfixturevalue("compared"))
    if request.param == "report":
        return Path(request.getfixturevalue("folder")) / "report.html"
    return Path(request.getfixturevalue("episodes"))


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from udrl.data.hygiene import Hygiene
    from udrl.eval.pages.episodes import episodes_report
    from udrl.teacher.synthesis.synth import synth

    folder = tmp_path_factory.mktemp("episodes")
    rows = [
        {
            "task": "image",
            "input": f"{HOSTILE[n % 3]} fox {n}",
            "output": f"{'very ' * (n % 9)} red {HOSTILE[n % 3]} {n}",
        }
        for n in range(60)
    ]
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    synth(folder / "run", teacher=f"recorded:{folder / 'said.jsonl'}", rewards=("novelty",), hygiene=Hygiene(suites=()))
    return episodes_report(folder / "run").page


def test_blind_page_is_judged_with_the_keyboard_and_saves_its_votes(
    folder: Path, open_page: Any, tmp_path: Path
) -> None:
    run = Run(folder.parents[1])
    known = by_key(list(read_blocks(folder).values()))
    report = blind(run, seed=1, limit=1)
    for width in (320, 1280):
        page = open_page(report.page, width=width, dark=width == 320)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("(({backgroundColor: b}) => b)(getComputedStyle(document.body))") != "rgba(0, 0, 0, 0)"
    assert page.locator("#progress").text_content() == f"Pair 1; 0 of {report.pairs} judged."
    assert page.locator("#save").is_disabled()
    for key in ("1", "2", "0"):
        page.keyboard.press(key)
    page.keyboard.press("ArrowLeft")
    assert page.locator("#vote0").get_attribute("aria-pressed") == "true"
    page.locator("#vote1").click()
    page.keyboard.press("x")
    page.keyboard.press("Control+2")
    assert page.locator("#progress").text_content() == f"Pair 4; 3 of {report.pairs} judged."
    texts = [page.locator(f"#{name}").text_content() for name in ("input", "first", "second")]
    with page.expect_download() as waiting:
        page.keyboard.press("s")
    waiting.value.save_as(tmp_path / "votes.json")
    saved = json.loads((tmp_path / "votes.json").read_text())
    assert [vote["choice"] for vote in saved["votes"]] == [1, 2, 1]
    assert all(vote["pair"] in known for vote in saved["votes"])
    assert (texts[0], *texts[1:]) in {(pair.input, *pair.texts) for pair in known.values()}
    page.reload()
    assert page.locator("#progress").text_content() == f"Pair 4; 3 of {report.pairs} judged."
    for _ in range(report.pairs - 3):
        page.keyboard.press("1")
    assert "that was the last one" in page.locator("#progress").text_content()
    assert not page.locator("#pair").is_visible()


def shown(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#list .given").all_text_contents()]


def test_pages_fit_a_phone_and_a_desk(any_page: Path, open_page: Any) -> None:
    for width in (320, 390, 1280):
        page = open_page(any_page, width=width)
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # What is wider scrolls inside of its own box, and a phone's reader can reach it.
        wide = page.evaluate(
            "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 &&"
            " !e.closest('.scroll')).map((e) => e.outerHTML.slice(0, 200))"
        )
        assert wide == []


def test_pages_follow_light_and_dark_and_print_on_white(any_page: Path, open_page: Any) -> None:
    def colours(page: Any) -> tuple[str, str]:
        return tuple(page.evaluate("(({color, backgroundColor: b}) => [color, b])(getComputedStyle(document.body))"))

    def brightness(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    ink, ground = colours(open_page(any_page))
    assert brightness(ink) < 60
    assert brightness(ground) > 240
    page = open_page(any_page, dark=True)
    ink, ground = colours(page)
    assert brightness(ink) > 200
    assert brightness(ground) < 40
    page.emulate_media(media="print")
    ink, ground = colours(page)
    assert brightness(ink) < 60
    assert brightness(ground) > 240


def test_pages_print_what_is_folded_away(any_page: Path, open_page: Any, tmp_path: Path) -> None:
    page = open_page(any_page)
    page.emulate_media(media="print")
    hidden = page.evaluate(
        "[...document.querySelectorAll('details > :not(summary)')]"
        ".filter((e) => e.getBoundingClientRect().height === 0)"
        ".map((e) => e.outerHTML.slice(0, 100))"
    )
    assert hidden == []
    assert not page.locator("#filters").is_visible()
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 less its margins
    out = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map((e) => e.outerHTML.slice(0, 200))"
    )
    assert out == []
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_report_hostile_texts_are_text(folder: Path, open_page: Any) -> None:
    page = open_page(folder / "report.html")
    assert page.locator("h1").text_content() == HOSTILE[0]
    assert page.title() == HOSTILE[0]
    page.locator("#search").fill("said back")
    page.locator("#count", has_text="3 of 3 examples").wait_for()
    assert page.locator("#list .given").all_text_contents() == list(HOSTILE)
    answers = page.locator("#list .said").all_text_contents()
    for text in HOSTILE:
        assert f"{text} said back" in answers
    assert page.locator("#systems th", has_text=NAMED).count() == 2
    assert page.evaluate("document.querySelectorAll('main img, main script, main i, main u').length") == 0


def test_report_examples_are_filtered_and_ordered(folder: Path, open_page: Any) -> None:
    page = open_page(folder / "report.html")
    assert page.locator("#count").text_content() == "10 of 36 examples"
    page.locator("#more").click()
    assert len(shown(page)) == 20
    page.locator("#task").select_option(label=TASKS[1])
    assert page.locator("#count").text_content() == "10 of 12 examples"
    assert all(text.startswith(TASKS[1]) for text in shown(page))
    assert set(page.locator("#list .of").all_text_contents()) == {TASKS[1]}

    def values(system: str) -> list[float]:
        rows = page.locator("#list .answer").filter(has=page.locator(f"div:text-is('{system}')"))
        return [float(re.search(r"relevance (\d\.\d+)", text)[1]) for text in rows.all_text_contents()]  # type: ignore[index]

    page.locator("#system").select_option(label="student@open")
    for order, sign in (("best", -1), ("worst", 1)):
        page.locator("#order").select_option(order)
        found = values("student@open")
        assert len(found) == 10
        assert found == sorted(found, key=lambda value: sign * value)
    page.locator("#other").select_option(label="echo")
    page.locator("#order").select_option("different")
    gaps = [abs(a - b) for a, b in zip(values("student@open"), values("echo"), strict=True)]
    assert all(a >= b - 0.011 for a, b in itertools.pairwise(gaps))
    page.locator("#show").select_option("two")
    assert page.locator("#list .answer").count() == 20
    assert set(page.locator("#list .answer > div:first-child").all_text_contents()) == {"student@open", "echo"}


def test_report_examples_find_a_word_and_unfold_a_long_text(folder: Path, open_page: Any) -> None:
    page = open_page(folder / "report.html", width=390)
    page.locator("#search").fill("NEEDLE")
    page.locator("#count", has_text="1 of 1 examples").wait_for()
    long = page.locator("#list .said", has_text="needle needle")
    before = long.bounding_box()["height"]
    page.locator("#list .whole").click()
    assert long.bounding_box()["height"] > 2 * before
    page.locator("#search").fill("nobody wrote this")
    page.locator("#count", has_text="0 of 0 examples").wait_for()
    assert shown(page) == []


def test_report_every_part_is_there(folder: Path, open_page: Any) -> None:
    page = open_page(folder / "report.html")
    for place in ("systems", "parity", "pictures", "commands", "judge", "tasks", "examples", "how"):
        assert page.locator(f"section#{place}").is_visible()
        assert page.locator(f"nav a[href='#{place}']").is_visible()
    assert page.locator("#pictures svg").count() == 3
    assert page.locator("svg[role=img]:not([aria-label])").count() == 0
    assert "dashed line is the same without calibration" in page.locator("#commands").inner_text()
    assert page.locator("#parity details svg").count() >= 3


def test_report_without_javascript_says_so_and_keeps_the_rest(folder: Path, open_page: Any) -> None:
    page = open_page(folder / "report.html", javascript=False)
    assert "need JavaScript" in page.locator("#count").inner_text()
    assert page.locator("#systems table").count() == 2
    assert not page.locator("#filters").is_visible()


def test_compare_shows_what_differs_and_both_completions(compared: Path, open_page: Any) -> None:
    page = open_page(compared)
    verdict = page.locator("#verdict").inner_text()
    assert "student@matched of second <u> is more relevant than that of first" in verdict
    assert page.locator("#list .answer > div:first-child").all_text_contents()[:2] == [
        "student@matched of second <u>",
        "student@matched of first",
    ]
    assert page.locator("#count").text_content() == "10 of 36 examples"
    assert page.locator("#order").input_value() == "different"

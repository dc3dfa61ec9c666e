"""The playground in a real browser: it writes as the API does, and says so where it cannot."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Server, serving
from tiny_answering import tiny_student

from udrl.commands import Command
from udrl.errors import RunError
from udrl.student.student import Generation, Student
from udrl.words import count_words

TASKS = ("<i>beta</i>", "t")
TEXT = "an old lighthouse on a cliff, golden hour"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> 'it''s' \"$(x)\" \u2028 字 العربية"
CHAT = "**/v1/chat/completions"


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student(relevance=True, tasks=TASKS, context=256)


def scored(server: Server) -> Server:
    """Return the server with a relevance that no encoder is needed for: 0.7, whatever is written."""
    for one in server.api.students.values():
        one.rewards = {"relevance": lambda inputs, completions: [0.7] * len(completions)}
    return server


@pytest.fixture(scope="module")
def server(student: Student) -> Iterator[Server]:
    with serving({"<b>tiny": student, "other": student}) as one:
        yield scored(one)


def alone(student: Student, seed: int, task: str = TASKS[0], text: str = TEXT, **targets: float) -> Generation:
    return student.generate([text], [Command(task, targets)], seeds=[seed], warn=False)[0]


def long_seed(student: Student, **targets: float) -> int:
    """Return a seed whose completion goes to the end of what may be written."""
    most = student.sampling.max_tokens
    return next(seed for seed in range(1000) if alone(student, seed, **targets).tokens == most)


def opened(open_page: Any, server: Server, **how: Any) -> Any:
    page = open_page(server.url, **how)
    page.locator("#status", has_text="will stand here").wait_for()
    page.locator("#input").fill(TEXT)
    return page


def write(page: Any) -> None:
    page.locator("#write").click()
    page.locator("#status", has_text="Written in").wait_for()


def row(page: Any, name: str) -> Any:
    return page.locator(".target").filter(has=page.get_by_label(f"{name}, a number"))


def stream(*chunks: dict[str, Any], end: bool = True) -> str:
    parts = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join(parts) + ("data: [DONE]\n\n" if end else "")


def text_chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def test_playground_lists_students_and_tasks_and_marks_what_is_reached(server: Server, open_page: Any) -> None:
    page = opened(open_page, server)
    assert page.locator("#student option").all_text_contents() == ["<b>tiny", "other"]
    assert page.locator("#task option").all_text_contents() == list(TASKS)
    length, relevance = row(page, "length"), row(page, "relevance")
    length.get_by_role("checkbox").uncheck()
    relevance.locator("text=reaches 0.30 to 0.90").wait_for()
    assert length.locator(".note").last.text_content() == "reaches 4 to 30 words"
    length.get_by_label("length, a number").fill("30")
    relevance.locator("text=reaches 0.30 to 0.60 at 30 words").wait_for()
    length.get_by_label("length, a number").fill("4")
    relevance.locator("text=reaches 0.50 to 0.90 at 4 words").wait_for()
    # The mark lies where the slider's thumb stands for the values at its ends.
    mark = "(e) => ['--from', '--to'].map((name) => Number(e.style.getPropertyValue(name)))"
    low, high = relevance.locator(".slide").evaluate(mark)
    least, most = (float(relevance.get_by_role("slider").get_attribute(name)) for name in ("min", "max"))
    assert least + low * (most - least) == pytest.approx(0.5, abs=1e-6)
    assert least + high * (most - least) == pytest.approx(0.9, abs=1e-6)
    relevance.get_by_label("relevance, a number").fill("0.2")
    told = "reaches 0.50 to 0.90 at 4 words: the nearest, 0.50, is asked for"
    assert relevance.locator(".note").last.text_content() == told


def test_playground_writes_what_the_api_writes_by_keyboard_alone(
    server: Server, student: Student, open_page: Any
) -> None:
    page = opened(open_page, server)
    row(page, "relevance").get_by_role("checkbox").uncheck()
    row(page, "length").get_by_label("length, a number").fill("9")
    page.locator("#seed").fill("3")
    page.locator("#input").focus()
    page.keyboard.press("Control+Enter")
    page.locator("#status", has_text="Written in").wait_for()
    expected = alone(student, 3, length=9.0)
    assert page.locator(".card .text").text_content() == expected.completion
    assert page.locator("#status").text_content().endswith(f"; {expected.tokens} tokens.")
    said = page.locator(".measure").all_text_contents()
    words = count_words(expected.completion)
    assert said == ["relevanceany · got 0.70", f"lengthasked 9 · got {words}"]
    assert page.locator(".card").get_by_text("seed 3").is_visible()
    # The slider moves by the keyboard, and by that is commanded.
    slider = row(page, "relevance").get_by_role("slider")
    slider.focus()
    before = float(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == pytest.approx(before + 0.01)
    assert row(page, "relevance").get_by_role("checkbox").is_checked()


def test_playground_shows_a_completion_while_it_is_written(student: Student, open_page: Any) -> None:
    seed = long_seed(student, length=20.0)
    steps = threading.Semaphore(0)
    with serving({"tiny": student}) as one:
        page = opened(open_page, scored(one))
        decoder = one.api.students["tiny"].worker._decoder
        step = decoder.step

        def held() -> Any:
            assert steps.acquire(timeout=120)
            return step()

        decoder.step = held
        row(page, "relevance").get_by_role("checkbox").uncheck()
        row(page, "length").get_by_label("length, a number").fill("20")
        page.locator("#seed").fill(str(seed))
        page.locator("#write").click()
        text = page.locator(".card[aria-busy=true] .text")
        text.wait_for(state="attached")
        for _ in range(8):
            steps.release()
        page.wait_for_function("document.querySelector('.card .text').textContent.length > 0")
        begun = text.text_content()
        assert page.locator("#stop").is_visible()
        for _ in range(200):
            steps.release()
        page.locator("#status", has_text="Written in").wait_for()
        whole = page.locator(".card .text").text_content()
    assert whole == alone(student, seed, length=20.0).completion
    assert whole.startswith(begun)
    assert begun != whole


def test_playground_variants_stand_side_by_side_and_are_the_apis_ladder(
    server: Server, student: Student, open_page: Any
) -> None:
    page = opened(open_page, server)
    row(page, "relevance").get_by_role("checkbox").uncheck()
    page.get_by_label("Three by length, short to long").check()
    assert row(page, "length").get_by_role("slider").is_disabled()
    page.locator("#seed").fill("5")
    write(page)
    assert page.locator(".card h2").all_text_contents() == ["length 4", "length 17", "length 30"]
    texts = page.locator(".card .text").all_text_contents()
    assert texts == [alone(student, 5, length=length).completion for length in (4.0, 17.0, 30.0)]
    boxes = [page.locator(".card").nth(k).bounding_box() for k in range(3)]
    assert len({box["y"] for box in boxes}) == 1
    page.set_viewport_size({"width": 390, "height": 844})
    boxes = [page.locator(".card").nth(k).bounding_box() for k in range(3)]
    assert len({box["x"] for box in boxes}) == 1


def test_playground_says_what_was_clamped(server: Server, open_page: Any) -> None:
    page = opened(open_page, server)
    row(page, "relevance").get_by_role("checkbox").uncheck()
    row(page, "length").get_by_label("length, a number").fill("60")
    page.locator("#score").uncheck()
    write(page)
    assert page.locator(".measure").first.text_content().startswith("lengthasked 60 · nearest 30 · got ")


@pytest.mark.parametrize("key", [None, "secret"])
def test_playground_code_asks_the_same(
    student: Student,
    open_page: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str | None,
) -> None:
    with serving({"tiny": student}, key=key) as one:
        page = open_page(scored(one).url)
        if key:
            page.locator("#key").fill(key)
            page.locator("#key").press("Tab")
        page.locator("#status", has_text="will stand here").wait_for()
        page.locator("#input").fill(HOSTILE)
        page.locator("#task").select_option("t")
        row(page, "relevance").get_by_label("relevance, a number").fill("0.6")
        row(page, "length").get_by_label("length, a number").fill("11")
        write(page)
        shown = page.locator(".card .text").text_content()
        seed = int(page.locator(".card .note", has_text="seed").text_content().removeprefix("seed "))
        assert shown == alone(student, seed, "t", HOSTILE, relevance=0.6, length=11.0).completion

        page.locator("#copy-curl").click()
        curl = page.locator("#code").text_content()
        monkeypatch.setenv("UDRL_API_KEY", key or "")
        said = subprocess.run(
            ["sh", "-c", f"curl() {{ printf '%s\\0' \"$@\"; }}; {curl}"], capture_output=True, check=True
        )
        silent, url, *options = said.stdout.decode().split("\0")[:-1]
        assert silent == "-s"
        *headers, data, body = options
        assert headers == [
            "-H",
            "content-type: application/json",
            *(["-H", f"authorization: Bearer {key}"] if key else []),
        ]
        assert data == "-d"
        sent = dict(header.split(": ") for header in headers[1::2])
        answer = one.client.post(url, content=body.encode(), headers=sent).json()
        assert answer["choices"][0]["message"]["content"] == shown

        page.locator("#copy-python").click()
        capsys.readouterr()
        exec(page.locator("#code").text_content(), {})
        assert capsys.readouterr().out == shown + "\n"
        assert key is None or key not in page.locator("#code").text_content()


def test_playground_texts_stay_texts_and_nothing_comes_from_elsewhere(server: Server, open_page: Any) -> None:
    page = opened(open_page, server)
    page.locator("#input").fill(HOSTILE)
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=stream(text_chunk(HOSTILE))))
    write(page)
    assert page.locator(".card .text").text_content() == HOSTILE
    page.locator("#copy-curl").click()
    assert page.locator("main img, main script, main b:not(.measure b), main i").count() == 0
    policy = dict(part.split(" ", 1) for part in server.client.get("/").headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)


def failing(open_page: Any, server: Server, **how: Any) -> Any:
    return opened(open_page, server, fails=True, **how)


def test_playground_says_that_the_queue_is_full_and_when_to_ask_again(student: Student, open_page: Any) -> None:
    with serving({"tiny": student}, batch_size=1, queue=0) as one:
        page = failing(open_page, scored(one))
        page.get_by_label("Three by length").check()
        page.locator("#write").click()
        page.locator("#problem").wait_for()
        assert "0 completions wait already, of at most 0" in page.locator("#problem").text_content()
        assert page.locator("#again").text_content() == "Try again (in 1 s)"
        page.get_by_label("One completion").check()
        page.locator("#again:not(:disabled)").click()
        page.locator("#status", has_text="Written in").wait_for()
        assert not page.locator("#problem").is_visible()


def test_playground_asks_for_a_key_and_says_that_one_is_wrong(student: Student, open_page: Any) -> None:
    with serving({"tiny": student}, key="secret") as one:
        page = open_page(scored(one).url, fails=True)
        assert page.locator("#status").text_content() == "Enter the API key, then the students are listed."
        page.locator("#key").fill("wrong")
        page.locator("#key").press("Tab")
        page.locator("#problem", has_text="The key is wrong").wait_for()
        page.locator("#key").fill("secret")
        page.locator("#again").click()
        page.locator("#input").fill(TEXT)
        write(page)


def test_playground_says_that_the_server_is_gone_and_comes_back_with_it(student: Student, open_page: Any) -> None:
    with serving({"tiny": student}) as one:
        page = failing(open_page, scored(one))
    page.locator("#write").click()
    page.locator("#problem", has_text="does not answer. Is the server still running").wait_for()
    assert page.locator("#write").is_enabled()
    body = stream(text_chunk("back again"))
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.locator("#again").click()
    page.locator(".card .text", has_text="back again").wait_for()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (stream(text_chunk("half of"), end=False), "The connection broke before the end"),
        (stream(text_chunk("half of"), {"error": {"message": "the engine failed", "code": "x"}}), "The engine failed."),
    ],
)
def test_playground_keeps_what_came_before_a_stream_failed(
    server: Server, open_page: Any, body: str, told: str
) -> None:
    page = failing(open_page, server)
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.locator("#write").click()
    page.locator("#problem", has_text=told).wait_for()
    assert page.locator(".card .text").text_content() == "half of"
    assert page.locator(".card[aria-busy]").count() == 0


def test_playground_stops_when_it_is_told_to(server: Server, open_page: Any) -> None:
    page = failing(open_page, server)
    page.route(CHAT, lambda route: None)
    page.locator("#write").click()
    page.locator("#stop").wait_for()
    page.keyboard.press("Escape")
    page.locator("#status", has_text="Stopped.").wait_for()
    assert page.locator("#write").is_enabled()
    assert not page.locator("#stop").is_visible()


def test_playground_without_an_input_asks_for_one(server: Server, open_page: Any) -> None:
    page = opened(open_page, server)
    page.locator("#input").fill("  ")
    page.locator("#write").click()
    assert page.locator("#status").text_content() == "Write an input first."
    assert page.evaluate("document.activeElement.id") == "input"


LUMINANCE = """
(e) => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const lit = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [.2126, .7152, .0722][k], 0);
  let ground = e;
  while (ground && rgb(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
  const [a, b] = [lit(rgb(getComputedStyle(e).color)), lit(rgb(getComputedStyle(ground).backgroundColor))];
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}
"""


@pytest.mark.parametrize("dark", [False, True])
def test_playground_fits_a_phone_and_a_desk_and_can_be_read(server: Server, open_page: Any, dark: bool) -> None:
    page = opened(open_page, server, dark=dark)
    row(page, "length").get_by_label("length, a number").fill("60")
    page.get_by_label("Three by relevance").check()
    page.locator("#score").uncheck()
    write(page)
    page.locator("#copy-python").click()
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    parts = page.locator("h1, .note, legend, button, .card h2, .card .text, .measure span, #status, #code, label")
    contrasts = parts.evaluate_all(f"(all) => all.filter((e) => e.offsetParent).map({LUMINANCE})")
    assert len(contrasts) > 20
    assert min(contrasts) >= 4.5
    nameless = "(all) => all.filter((e) => !e.labels.length && !e.ariaLabel).map((e) => e.outerHTML)"
    assert page.locator("input:visible, select:visible, textarea:visible").evaluate_all(nameless) == []


def test_playground_loads_no_reward_where_nothing_is_measured(student: Student, open_page: Any) -> None:
    with serving({"tiny": tiny_student()}) as one:
        page = opened(open_page, one)
        assert not page.locator("#score").is_checked()
        write(page)
        assert one.api.students["tiny"].rewards is None


def test_playground_keeps_a_text_that_cannot_be_measured_and_measures_no_more(student: Student, open_page: Any) -> None:
    def broken(inputs: Any, completions: Any) -> Any:
        raise RunError("its weights are missing")

    with serving({"tiny": student}) as one:
        one.api.students["tiny"].rewards = {"relevance": broken}
        page = opened(open_page, one)
        page.locator("#write").click()
        page.locator("#problem", has_text="its weights are missing. Measuring is switched off now.").wait_for()
        assert page.locator(".card").count() == 1
        assert not page.locator("#score").is_checked()
        page.locator("#again").click()
        page.locator("#status", has_text="Written in").wait_for()

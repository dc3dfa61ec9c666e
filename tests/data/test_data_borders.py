"""Where a text may be parted."""

from __future__ import annotations

import pytest

from udrl.data.borders import borders, head
from udrl.words import count_words


def parted(text: str) -> str:
    """Return ``text`` with ``||`` behind its sentences and ``|`` behind its clauses."""
    for border in reversed(borders(text)):
        text = f"{text[: border.end]}{'||' if border.sentence else '|'}{text[border.end :]}"
    return text


@pytest.mark.parametrize(
    "marked",
    [
        "A fox sleeps in the snow.|| Its breath steams.|| Dawn comes",
        "Dr. Smith, of St. Paul's, waits.|| He sits 3.5 m away|, e.g. near the door.",
        "He says “Stop! Now.” and leaves.|| She (who saw it. all of it) stays.",
        'The sign reads "Go. Now." in red.|| It hums.',
        "Really? yes and no.",
        "一只红狐狸在雪地里睡觉|，天色渐亮。||镜头拉近|，雪花飘落。",
        "एक लोमड़ी सो रही है।|| बर्फ गिरती है।",
        "# Role\nYou are a guide.||\n\nTasks:\n- walk slowly||\n- talk softly",
        "1. Open the door.|| 2. Close it again.",
        '{"prompt": "A fox sleeps. It snows."}',
    ],
)
def test_borders_lie_behind_whole_sentences(marked: str) -> None:
    assert parted(marked.replace("|", "")) == marked


@pytest.mark.parametrize(
    "marked",
    [
        "red fox in fresh snow|, soft glow|, film grain",
        "A candle flame shrinks|, clings to the wick and goes out|, thread of smoke rising|, frame held close.",
        "Hands press the track|; the view rises to her eyes.",
        "Turn the violin to ice|: milky cores|, drops at the lower bout.",
        "Gravity stops for a moment| — hair lifts.",
        # between adjectives
        "a pale, green-gold wine in a glass",
        "The sink has smooth, polished edges.",
        "a very tall, glowing tower",
        # in lists
        "Explain rank, daylight and boredom in plain terms|, and name the vet.",
        "a bag of red, green, and blue balloons",
        "The cabin is filled with retro dashboards, switches, and intertwined wires|, lit from below.",
        # behind openings that need what follows
        "In the distance, a ship turns|, sails full.",
        "When the door opens, the camera pans.",
        "Walking through the forest, a fox looks up.",
        "Suddenly, the horse halts.",
        # insertions, quotations, what a colon announces
        "The fox — a small one — runs.",
        "The sign above reads, 'Stop'.",
        "A box that holds things such as: a knife.",
        "tuning a piano yourself yes or no",
    ],
)
def test_borders_behind_clauses_leave_no_half_of_one(marked: str) -> None:
    assert parted(marked.replace("|", "")) == marked


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        ("Sun rises late, mist lifting. Birds wake!", ["Sun rises late.", "Sun rises late, mist lifting."]),
        ("red fox in snow, soft light", ["red fox in snow"]),
        ("狐狸在睡觉，天亮了。", ["狐狸在睡觉。"]),
        ("Does the fox sleep, or not?", ["Does the fox sleep?"]),
        ("The fox sleeps deep; does it dream?", ["The fox sleeps deep."]),
        ("", []),
        ("— !!", []),
    ],
)
def test_heads_are_closed_as_the_text_is(text: str, heads: list[str]) -> None:
    found = borders(text)
    assert [head(text, border) for border in found] == heads
    assert [border.words for border in found] == [count_words(one) for one in heads]

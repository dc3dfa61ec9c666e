"""Invents writing requests with checkable constraints and writes texts that keep a chosen share of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from udrl.data.constraints import Constraint, Value, constraints_of
from udrl.teacher.backends.builtin.inventor import vocabulary
from udrl.words import count_words, folded_words

MOST = 4
"""Constraints of a request, at most."""

TRIES = 12
"""Drafts of a completion, of which the one whose kept constraints are nearest to what is wanted stays."""

ENDINGS = ("that is all", "and so it goes", "the end", "thank you", "this is enough", "good night", "as we know")
_LISTS = ("objects", "places", "foods", "creatures", "plants", "vehicles")


def invent(task: str, *, seed: int) -> Iterator[str]:
    """Yield requests of one to MOST constraints without end; the same ``seed`` gives the same stream."""
    rng = random.Random(f"invent/{task}/{seed}")
    while True:
        thing = f"{_plain('adjectives', rng)} {rng.choice(vocabulary()[rng.choice(_LISTS)]).lower()}"
        asked = " ".join(one.text for one in _constraints(rng))
        yield f"Write about {'an' if thing[0] in 'aeiou' else 'a'} {thing}. {asked}"


def write(text: str, *, fidelity: float, words: int | None, bounds: tuple[int, int], rng: random.Random) -> str | None:
    """Write a text for the request ``text``; None where it states no constraint.

    fidelity: share in [0, 1] of the constraints that are kept, which ones is drawn. words: length aimed at where the
    constraints leave it open (None: the bounds' lower half). bounds: of the task, in words.
    """
    wanted = constraints_of(text)
    if not wanted:
        return None
    keep = set(rng.sample(range(len(wanted)), round(fidelity * len(wanted))))
    best, least = "", len(wanted) + 1
    for _ in range(TRIES):
        draft = _draft(text, wanted, keep, words, bounds, rng)
        wrong = sum(one.holds(draft) != (index in keep) for index, one in enumerate(wanted))
        if wrong < least:
            best, least = draft, wrong
        if not wrong:
            break
    return best


def _constraints(rng: random.Random) -> list[Constraint]:
    """Draw constraints that can be kept together."""
    kinds = ["contain", "avoid", "words", "lowercase", "no_commas", "end_with", rng.choice(("sentences", "bullets"))]
    constraints = []
    for kind in sorted(rng.sample(kinds, rng.randint(1, MOST)), key=kinds.index):
        if kind == "words":
            low = rng.randint(5, 16)
            which = rng.choice(("at_least", "at_most", "both"))
            if which != "at_most":
                constraints.append(Constraint("at_least", low))
            if which != "at_least":
                constraints.append(Constraint("at_most", low + rng.randint(11, 16)))
        elif kind in ("contain", "avoid"):
            constraints.append(Constraint(kind, _plain("materials" if kind == "contain" else "colours", rng)))
        elif kind == "end_with":
            constraints.append(Constraint(kind, rng.choice(ENDINGS)))
        elif kind in ("sentences", "bullets"):
            constraints.append(Constraint(kind, rng.randint(2, 3)))
        else:
            constraints.append(Constraint(kind))
    return constraints


def _plain(name: str, rng: random.Random) -> str:
    """Draw a single word of the vocabulary's list ``name``, lower-cased."""
    return rng.choice([word for word in vocabulary()[name] if word.isalpha()]).lower()


def _draft(
    text: str,
    wanted: Sequence[Constraint],
    keep: set[int],
    words: int | None,
    bounds: tuple[int, int],
    rng: random.Random,
) -> str:
    """Write one text; whether each constraint then holds is for the caller to check."""
    kept = {one.kind: one.value for index, one in enumerate(wanted) if index in keep}
    broken = {one.kind: one.value for index, one in enumerate(wanted) if index not in keep}
    aim = _aim(kept, broken, words or (3 * bounds[0] + bounds[1]) // 4, rng)
    closing = str(kept.get("end_with", ""))
    named = [str(word) for word in (kept.get("contain"), broken.get("avoid")) if word]
    room = max(3, aim - count_words(closing) - len(named))
    listed = "bullets" in kept or ("bullets" in broken and rng.random() < 0.5)
    parts = kept.get("sentences") or kept.get("bullets") or max(1, round(room / 6))
    missed = broken.get("sentences") or broken.get("bullets")
    assert isinstance(parts, int)
    if isinstance(missed, int) and parts == missed:
        parts += rng.choice((-1, 1)) if parts > 1 else 1
    lines = [_sentence(_about(text), room // parts + (line < room % parts), rng) for line in range(parts)]
    for word in named:
        lines[rng.randrange(parts)] += f" {word}"
    if "no_commas" in broken:
        lines[0] = ", ".join(lines[0].rsplit(" ", 1))
    if closing:
        lines[-1] += f" {closing}"
    if "lowercase" not in kept:
        lines = [line[:1].upper() + line[1:] for line in lines]
    return "\n".join(f"* {line}" for line in lines) if listed else ". ".join(lines) + "."


def _aim(kept: Mapping[str, Value], broken: Mapping[str, Value], words: int, rng: random.Random) -> int:
    """Return the length to write, in words, given the bounds that are to hold and those that are not."""
    low, high = kept.get("at_least"), kept.get("at_most")
    if isinstance(low, int):
        words = max(words, low)
    if isinstance(high, int):
        words = min(words, high)
    below, above = broken.get("at_least"), broken.get("at_most")
    if isinstance(below, int) and (not isinstance(above, int) or rng.random() < 0.5):
        words = max(2, below - rng.randint(1, 4))
    elif isinstance(above, int):
        words = above + rng.randint(1, 6)
    return words


def _about(text: str) -> str:
    """Return what the request asks to write about, in a few words."""
    head = text.split(".", 1)[0]
    heading = folded_words(head)
    tail = heading[heading.index("about") + 1 :] if "about" in heading[:-1] else heading
    return " ".join(word for word in tail if word not in ("a", "an", "the"))[:60] or "it"


def _sentence(about: str, size: int, rng: random.Random) -> str:
    """Return a sentence of ``size`` words (at least 3) on ``about``, lower-cased and without punctuation."""
    openers = [f"the {about} is", f"this {about} looks", f"people call the {about}", f"any {about} can be"]
    fitting = [opener for opener in openers if count_words(opener) < size] or ["it is", "it looks"]
    sentence = f"{rng.choice(fitting)} {_plain('adjectives', rng)}"
    while (left := size - count_words(sentence)) > 0:
        more = [f"and {_plain('adjectives', rng)}", f"like {_plain('qualities', rng)}", f"near {_plain('plants', rng)}"]
        sentence += f" {rng.choice(more if left > 1 else ['now', 'today', 'here', 'again'])}"
    return sentence

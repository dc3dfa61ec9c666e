"""Invents inputs without a model: seed sentences whose phrases are replaced by new ones from a wide vocabulary.

A student that copies what it has never seen needs training inputs it could not have memorised, so about a third of
the new phrases hold made-up words and names.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping, Sequence

from udrl.data.tasks import Task
from udrl.resources import folder
from udrl.teacher.backends.builtin.phrases import DETERMINERS, content_phrases, template_of

REPLACED = (0.35, 0.95)
"""Bounds of the probability that a phrase of a seed is replaced, drawn for each text: some stay close to people's
wording, some hold nothing of it."""

_ONSETS = (
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k kr l m n p pl pr qu r s sc sh sk sl sm sn sp st str t th tr v w y z"
).split()
_VOWELS = "a e i o u a e i o u ai au ea ee ia ie io oa oo ou y".split()
_CODAS = [
    "",
    "",
    "",
    *"b ck d ff g k l ll lm m n nd ng nk nt p r rd rk rm rn rt s sh sk ss st t th x z".split(),
]


@functools.cache
def vocabulary() -> Mapping[str, tuple[str, ...]]:
    """Return the word lists of ``data/words.yaml`` by their names."""
    import yaml

    lists = yaml.safe_load((folder("data") / "words.yaml").read_text(encoding="utf-8"))
    return {name: tuple(map(str, values)) for name, values in lists.items() if isinstance(values, list)}


def invent(task: Task, *, seeds: Sequence[str], seed: int) -> Iterator[str]:
    """Yield invented inputs for ``task`` without end; the same ``seed`` gives the same stream.

    seeds: the sentences whose wording is reused; raises ValueError where there are none.
    """
    if not seeds:
        raise ValueError(f"task '{task.name}' has no seed inputs to start from")
    templates = [template_of(text) for text in seeds]
    borrowed = [phrase for text in seeds for phrase in content_phrases(text)]
    known = set(seeds)
    rng = random.Random(f"invent/{task.name}/{seed}")
    while True:
        pieces, slots = rng.choice(templates)
        pieces = list(pieces)
        replaced = rng.uniform(*REPLACED)
        for slot in slots:
            if rng.random() < replaced:
                pieces[slot] = _new_phrase(pieces[slot], borrowed, rng)
        if rng.random() < 0.3:
            pieces.append(rng.choice(_tails(rng)))
        text = _detokenise(pieces)
        if text not in known:
            yield text


def made_up_word(rng: random.Random) -> str:
    """Return a pronounceable word of one to four syllables that hardly any text holds."""
    count = rng.choice((1, 2, 2, 2, 3, 3, 4))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count))


def _new_phrase(old: str, borrowed: Sequence[str], rng: random.Random) -> str:
    article = old.split(" ", 1)[0] if old.split(" ", 1)[0].casefold() in DETERMINERS else ""
    words = vocabulary()
    noun = rng.choice(words[rng.choice(_NOUN_LISTS)])
    draw = rng.random()
    if draw < 0.25:
        body = f"{rng.choice(words['adjectives'])} {noun}"
    elif draw < 0.38:
        body = noun
    elif draw < 0.50:
        return rng.choice(borrowed)
    elif draw < 0.60:
        body = f"{noun} {rng.choice(words[rng.choice(_NOUN_LISTS)])}"
    elif draw < 0.68:
        body = f"{noun} {rng.choice(words['actions_intransitive'])}"
    elif draw < 0.76:
        return f"{_name(rng)} {_name(rng)}" if rng.random() < 0.5 else _name(rng)
    elif draw < 0.88:
        body = f"{made_up_word(rng)} {noun}" if rng.random() < 0.5 else f"{noun} {made_up_word(rng)}"
    elif draw < 0.95:
        body = f"{made_up_word(rng)} {made_up_word(rng)}"
    else:
        body = f"{rng.choice(words['adjectives'])} {made_up_word(rng)}"
    if article in ("a", "an"):
        article = "an" if body[:1] in "aeiou" else "a"
    return f"{article} {body}" if article else body


_NOUN_LISTS = (
    "people creatures foods plants objects objects vehicles places places materials topics topics events "
    "products qualities"
).split()


def _name(rng: random.Random) -> str:
    words = vocabulary()
    draw = rng.random()
    if draw < 0.35:
        return rng.choice(words["names"])
    if draw < 0.55:
        return rng.choice(words["cities"])
    if draw < 0.75:
        return "".join(rng.choice(words["syllables"]) for _ in range(rng.choice((2, 2, 3)))).capitalize()
    return made_up_word(rng).capitalize()


def _tails(rng: random.Random) -> tuple[str, ...]:
    words = vocabulary()
    return (
        rng.choice(words["times"]),
        f"in {rng.choice(words['cities'])}",
        f"with {rng.choice(words['colours'])} {made_up_word(rng)}",
        f"for {_name(rng)}",
    )


def _detokenise(pieces: Sequence[str]) -> str:
    text = ""
    for piece in pieces:
        glue = "" if not text or piece in ".,;:!?)%" or text[-1] in '("' else " "
        text += glue + piece
    return text

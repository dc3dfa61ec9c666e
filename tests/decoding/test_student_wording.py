"""Required and banned words.

They are tested against spellers: made-up students that badly want to write one text, in long tokens or byte by
byte. What they are kept from, every student is kept from.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.decoding.engine import Array
from udrl.decoding.sampling import Sampling, choose
from udrl.decoding.wording import Vocabulary, Wording, Writer, contains
from udrl.errors import UsageError
from udrl.tokenizer import decode, encode, train_tokenizer

GREEDY = Sampling(temperature=0)
TEXTS = ["art of the party", "an artist paints art in art", "a party of parties", "the art party"] * 20


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    tokenizer = train_tokenizer(TEXTS, 290)
    made = Vocabulary(tokenizer, len(tokenizer))
    assert b" art" in made.pieces
    return made


def spelled(vocabulary: Vocabulary, target: str, wording: Wording, *, long: bool = True, limit: int = 60) -> str:
    """Return what comes out where a student wants to write ``target`` and then to end."""
    wanted = f" {target}".encode()
    noise = np.random.default_rng(5).random(len(vocabulary.pieces), dtype=np.float32)

    def wish(text: bytes) -> Array:
        logits = noise.copy()
        rest = wanted.removeprefix(text) if wanted.startswith(text) else b""
        for id_, piece in enumerate(vocabulary.pieces):
            if piece and rest.startswith(piece):
                logits[id_] = 20 + (len(piece) if long else -len(piece))
        if not rest:
            logits[vocabulary.tokenizer.eos_token_id] = 20
        return logits

    def look_ahead(ids: list[int]) -> Array:
        return wish(writer.text + b"".join(vocabulary.pieces[id_] for id_ in ids))

    def draw(logits: Array, attempt: int) -> int:
        return choose(logits, GREEDY, 0)

    writer = Writer(wording, vocabulary, limit)
    while len(writer.ids) < limit:
        token = writer.next(wish(writer.text), draw, look_ahead)
        if token is None or token == vocabulary.tokenizer.eos_token_id:
            break
    assert b"".join(vocabulary.pieces[id_] for id_ in writer.ids) == writer.text
    return decode(vocabulary.tokenizer, writer.ids)


both_ways = pytest.mark.parametrize("long", [True, False], ids=["long tokens", "bytes"])


@both_ways
@pytest.mark.parametrize(
    ("target", "ban"),
    [
        ("the art of war", "art"),
        ("the ART of war", "art"),
        ("Art", " aRT "),
        ("art-deco and art's sake", "art"),
        ("the (art)", "art"),
        ("_art_", "art"),
        ("ein Füchschen, die FÜCHSE", "füchse"),
        ("die Straße", "STRASSE"),
        ("un cafe\u0301 noir", "café"),
        ("ｆｕｌｌ width", "full"),
        ("a golden  hour", "golden hour"),
        ("they don’t", "don't"),
        ("in C++ code", "c++"),
        ("कला है", "कला"),
    ],
)
def test_banned_words_do_not_come_in_any_casing_or_tokenisation(
    vocabulary: Vocabulary, target: str, ban: str, long: bool
) -> None:
    assert contains(target, ban)
    assert spelled(vocabulary, target, Wording(), long=long) == target
    assert not contains(spelled(vocabulary, target, Wording(ban=(ban,)), long=long), ban)


@both_ways
@pytest.mark.parametrize(
    ("target", "bans"),
    [
        ("the party of an artist", ("art", "a", "part")),
        ("parties start apart", ("art", "parti")),
        ("the arts", ("art",)),
        ("Füchse", ("fuchs", "füchs")),
        ("कलाकार", ("कल",)),
        ("nothing of the kind", ("art", "golden hour")),
    ],
)
def test_bans_touch_no_other_word(vocabulary: Vocabulary, target: str, bans: tuple[str, ...], long: bool) -> None:
    assert spelled(vocabulary, target, Wording(ban=bans), long=long) == target


def test_a_banned_word_leaves_no_half_of_it(vocabulary: Vocabulary) -> None:
    assert spelled(vocabulary, "the art", Wording(ban=("art",)), long=False).split()[1:2] not in (["a"], ["ar"])


def test_a_completion_that_is_cut_ends_with_no_banned_word(vocabulary: Vocabulary) -> None:
    for limit in range(1, 12):
        for long in (True, False):
            text = spelled(vocabulary, "the artist", Wording(ban=("art", "artis")), long=long, limit=limit)
            assert not contains(text, "art")
            assert not contains(text, "artis")


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["art", "party", "a", "the", "artist", "ü", "é", "猫", "don't"]), min_size=1, max_size=3),
    st.integers(0, 2**32),
    st.integers(1, 40),
)
def test_bans_hold_against_any_logits(vocabulary: Vocabulary, bans: list[str], seed: int, limit: int) -> None:
    generator = np.random.default_rng(seed)
    favourites = sorted({id_ for word in [*bans, "x"] for id_ in encode(vocabulary.tokenizer, [word, f"{word}s"])[0]})

    def noise(_: object = None) -> Array:
        logits = generator.standard_normal(len(vocabulary.pieces), dtype=np.float32)
        logits[favourites] += 6
        return logits

    def draw(logits: Array, attempt: int) -> int:
        return choose(logits, Sampling(temperature=1, top_p=1), generator.random())

    writer = Writer(Wording(ban=tuple(bans)), vocabulary, limit)
    while len(writer.ids) < limit and writer.next(noise(), draw, noise) not in (
        None,
        vocabulary.tokenizer.eos_token_id,
    ):
        pass
    text = decode(vocabulary.tokenizer, writer.ids)
    assert not [ban for ban in bans if contains(text, ban)]


@both_ways
def test_a_limit_in_words_ends_with_no_banned_word(vocabulary: Vocabulary, long: bool) -> None:
    for most in range(1, 4):  # vowel signs are no letters to the regular expression that counts words
        text = spelled(vocabulary, "है कलाकार है", Wording(ban=("कला", "कल"), max_words=most), long=long)
        assert not contains(text, "कला")
        assert not contains(text, "कल")


@both_ways
def test_required_words_come_before_the_end(vocabulary: Vocabulary, long: bool) -> None:
    wording = Wording(require=("Moon", "the party"), ban=("art",))
    text = spelled(vocabulary, "an artist paints", wording, long=long)
    assert text.startswith("an artist paints, ")
    assert wording.unmet(text) == ()
    assert "Moon" in text
    assert spelled(vocabulary, "at the party the moon", wording, long=long) == "at the party the moon"


def test_required_words_come_where_they_are_likely(vocabulary: Vocabulary) -> None:
    first, *rest = vocabulary.ids("party")
    assert not rest

    def wish(text: bytes) -> Array:
        logits = np.full(len(vocabulary.pieces), -20.0, dtype=np.float32)
        logits[vocabulary.ids("the")[0]] = 3.0
        logits[first] = 0.0 if text.count(b" the") == 2 else -20.0  # 5 % behind the second "the"
        return logits

    writer = Writer(Wording(require=("party",)), vocabulary, 8)
    while len(writer.ids) < 8:
        writer.next(wish(writer.text), lambda logits, _: int(logits.argmax()), lambda ids: wish(b""))
    assert writer.text.startswith(b" the the party the")


@pytest.mark.parametrize("limit", range(1, 14))
def test_required_words_that_find_no_room_are_named(vocabulary: Vocabulary, limit: int) -> None:
    wording = Wording(require=("moonlight",))
    needed = len(vocabulary.ids("moonlight"))
    text = spelled(vocabulary, "the party of the party of the party of the party", wording, limit=limit)
    assert wording.unmet(text) == (() if limit >= needed else ("moonlight",))


def test_required_words_stay_whole(vocabulary: Vocabulary) -> None:
    """Behind a required word no letter follows, however much the student wants one."""
    ids = vocabulary.ids("party")

    def wish(text: bytes) -> Array:
        logits = np.zeros(len(vocabulary.pieces), dtype=np.float32)
        logits[vocabulary.tokenizer.eos_token_id] = 9.0 if text.endswith((b" of", b"s")) else 0.0
        logits[vocabulary.pieces.index(b"s")] = 8.0 if text.endswith(b"party") else -9.0
        logits[vocabulary.pieces.index(b" of")] = 7.0
        return logits

    writer = Writer(Wording(require=("party",)), vocabulary, 20)
    for _ in range(len(ids) + 4):
        writer.next(wish(writer.text), lambda logits, _: int(logits.argmax()), lambda ids: wish(b""))
    assert writer.text.startswith((b" of, party of", b" of party of"))


@both_ways
@pytest.mark.parametrize("most", [1, 3, 5])
def test_max_words_ends_before_the_next_word(vocabulary: Vocabulary, long: bool, most: int) -> None:
    text = spelled(vocabulary, "the art, of an art-party; of it all", Wording(max_words=most), long=long)
    assert text.rstrip() == ["the", "the art, of", "the art, of an art-party;"][[1, 3, 5].index(most)]
    text = spelled(vocabulary, "the art of an art-party", Wording(("moon",), max_words=most), long=long)
    assert text.split()[-1] == "moon"
    assert len(text.split()) <= most


@pytest.mark.parametrize(
    ("require", "ban", "most", "message"),
    [
        (("fine Art",), ("art",), None, "'fine Art' is required and 'art' is banned"),
        (("art",), ("ART",), None, "'art' is required and 'ART' is banned"),
        (("",), (), None, "'' has no letter or digit"),
        ((), ("!",), None, "'!' has no letter or digit"),
        (("a b c",), (), 2, "at most 2 words leave no room"),
        ((), (), 0, "at most 0 words leave no room"),
    ],
)
def test_wording_refuses_contradictions(
    require: tuple[str, ...], ban: tuple[str, ...], most: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Wording(require, ban, most)
    assert Wording(("party",), ("art",), 3)  # no contradiction
    assert not Wording()

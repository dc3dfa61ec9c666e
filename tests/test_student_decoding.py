"""Decoding: what the defaults write, guidance, required and banned words, streaming.

The wording is tested against spellers: made-up students that badly want to write one text, in long tokens or byte by
byte. What they are kept from, every student is kept from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from udrl.commands import Attribute, Command, CommandSpace
from udrl.errors import UsageError
from udrl.student import load
from udrl.student.answers import answer, distance
from udrl.student.decoding import Sampling, choose, decode_batch
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.initialise import scratch_gpt2
from udrl.student.model import StudentModel
from udrl.student.streaming import settled
from udrl.student.student import Student
from udrl.student.tokenizer import decode, encode, train_tokenizer
from udrl.student.wording import Vocabulary, Wording, Writer, contains

pytestmark = pytest.mark.filterwarnings("default:target .* is beyond what")  # the small student reaches nothing yet

BASE = 120
GREEDY = Sampling(temperature=0)
SHARP = Sampling(temperature=0.7, top_p=0.9, no_repeat=3)
LIMITS = (16, 9, 16)


@pytest.fixture(scope="module")
def model() -> StudentModel:
    """A small GPT-2 whose weights are noise, so that it writes all sorts of ids."""
    values = {"t": {"relevance": [k / 600 for k in range(600)], "length": [3 + k % 37 for k in range(600)]}}
    space = CommandSpace.fit(BASE, (Attribute("relevance", 0, 1), Attribute("length", 1, 1000, "words")), values)
    gpt2 = scratch_gpt2(vocab_size=BASE, layers=3, width=48, heads=3, context=96, eos=0, seed=1, copying=False)
    made = StudentModel(gpt2, space).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        made.rows.weight.add_(torch.randn(made.rows.weight.shape, generator=torch.Generator().manual_seed(0)))
        for parameter in gpt2.transformer.h.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
    return made


def prompts(model: StudentModel, *, commanded: bool = True) -> list[list[int]]:
    made = []
    for size, relevance, length in ((5, 0.0, 9.0), (12, 4.5, None), (1, 9.0, 2.0)):
        positions = {"relevance": relevance, "length": length} if commanded else {}
        made.append(model.space.prompt([7 * k % 119 + 1 for k in range(size)], model.space.render("t", positions)))
    return made


def written(model: StudentModel, sampling: Sampling, **options: Any) -> list[tuple[list[int], bool]]:
    out = decode_batch(
        TorchEngine(model),
        prompts(model),
        [11, 12, 13],
        sampling=sampling,
        limits=LIMITS,
        end=0,
        **options,
    )
    return [(one.ids, one.stopped) for one in out]


# -- defaults ----------------------------------------------------------------------------------------------------------


def test_decoding_by_default_writes_what_it_wrote_before_guidance_and_wording(model: StudentModel) -> None:
    assert written(model, GREEDY) == [
        ([2, 2, 73, 41, 2, 2, 2, 76, 81, 2, 76, 67, 48, 2, 76, 67], False),
        ([81, 19, 69, 69, 48, 48, 76, 48, 76], False),
        ([73, 76, 59, 76, 73, 31, 48, 71, 2, 2, 2, 48, 81, 2, 41, 41], False),
    ]
    drawn = [([37, 19, 39, 73, 56], True), ([59, 75, 41, 79, 34, 85, 115, 87, 20], False), ([], True)]
    assert written(model, SHARP) == drawn
    assert written(model, Sampling()) == drawn


def test_decoding_reports_every_id_as_it_is_drawn(model: StudentModel) -> None:
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    out = written(model, SHARP, on_token=lambda row, token: seen[row].append(token))
    assert [seen[row] for row in range(3)] == [ids for ids, _ in out]


@pytest.mark.parametrize(
    "values", [{"guidance": -1}, {"guidance": float("nan")}, {"no_repeat": -1}, {"temperature": -1}]
)
def test_sampling_refuses_what_makes_no_sense(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="sampling needs"):
        replace(Sampling(), **values)  # type: ignore[arg-type]


# -- guidance ----------------------------------------------------------------------------------------------------------


def by_the_formula(model: StudentModel, weight: float) -> list[list[int]]:
    """Greedy ids under guidance with a whole forward a step: no cache, no batch, no session."""
    out = []
    pairs = zip(prompts(model), prompts(model, commanded=False), LIMITS, strict=True)
    for commanded, unasked, limit in pairs:
        ids: list[int] = []
        while len(ids) < limit:
            both = [
                model.model(inputs_embeds=model.embed(torch.tensor([[*prompt, *ids]]))).logits[0, -1, :BASE]
                for prompt in (commanded, unasked)
            ]
            token = int((both[1] + weight * (both[0] - both[1])).argmax())
            if token == 0:
                break
            ids.append(token)
        out.append(ids)
    return out


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("packed", [True, False], ids=["own forward", "any architecture"])
def test_guidance_is_its_formula(model: StudentModel, weight: float, packed: bool) -> None:
    model.packed = packed
    try:
        guided = written(model, replace(GREEDY, guidance=weight), unasked=prompts(model, commanded=False))
    finally:
        model.packed = True
    assert [ids for ids, _ in guided] == by_the_formula(model, weight)
    assert [ids for ids, _ in guided] != [ids for ids, _ in written(model, GREEDY)]


def test_guidance_leaves_the_task_and_opens_the_rest(small_student: Student) -> None:
    control = small_student.space.render("text-to-image", {"relevance": 3.0, "length": 4.0})
    assert small_student._unasked([5, 6, *control], control) == [5, 6, *small_student.space.render("text-to-image", {})]


# -- wording -----------------------------------------------------------------------------------------------------------

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
    noise = torch.rand(len(vocabulary.pieces), generator=torch.Generator().manual_seed(5))

    def wish(text: bytes) -> Tensor:
        logits = noise.clone()
        rest = wanted.removeprefix(text) if wanted.startswith(text) else b""
        for id_, piece in enumerate(vocabulary.pieces):
            if piece and rest.startswith(piece):
                logits[id_] = 20 + (len(piece) if long else -len(piece))
        if not rest:
            logits[vocabulary.end] = 20
        return logits

    def look_ahead(ids: list[int]) -> Tensor:
        return wish(writer.text + b"".join(vocabulary.pieces[id_] for id_ in ids))

    def draw(logits: Tensor, attempt: int) -> int:
        return int(choose(logits[None], GREEDY, None))

    writer = Writer(wording, vocabulary, limit)
    while len(writer.ids) < limit:
        token = writer.next(wish(writer.text), draw, look_ahead)
        if token is None or token == vocabulary.end:
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
    generator = torch.Generator().manual_seed(seed)
    favourites = sorted({id_ for word in [*bans, "x"] for id_ in encode(vocabulary.tokenizer, [word, f"{word}s"])[0]})

    def noise(_: object = None) -> Tensor:
        logits = torch.randn(len(vocabulary.pieces), generator=generator)
        logits[favourites] += 6
        return logits

    def draw(logits: Tensor, attempt: int) -> int:
        return int(choose(logits[None], Sampling(temperature=1, top_p=1), torch.rand(1, generator=generator)))

    writer = Writer(Wording(ban=tuple(bans)), vocabulary, limit)
    while len(writer.ids) < limit and writer.next(noise(), draw, noise) not in (None, vocabulary.end):
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

    def wish(text: bytes) -> Tensor:
        logits = torch.full((len(vocabulary.pieces),), -20.0)
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

    def wish(text: bytes) -> Tensor:
        logits = torch.zeros(len(vocabulary.pieces))
        logits[vocabulary.end] = 9.0 if text.endswith((b" of", b"s")) else 0.0
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


# -- a student ---------------------------------------------------------------------------------------------------------

INPUTS = ["a red fox in the snow", "zwei Füchse — 猫", "the old harbour"]
COMMANDS = [Command("text-to-image", {"length": 12.0}), Command("search-query"), Command("text-to-image")]


@pytest.fixture(scope="module")
def small_student(small_run: Path) -> Student:
    return load(small_run, device="cpu", precision="fp32")


@pytest.fixture
def generate(small_student: Student) -> Callable[..., list[str]]:
    def call(sampling: Sampling | None = None, wording: Wording | None = None, **options: Any) -> list[str]:
        made = small_student.generate(INPUTS, COMMANDS, seeds=7, sampling=sampling, wording=wording, **options)
        return [one.completion for one in made]

    return call


def test_vocabulary_knows_the_bytes_of_every_id(small_student: Student) -> None:
    pieces = small_student._vocabulary.pieces
    text = "Füchse art — naïve 猫 <|endoftext|> x\n\t\u00a0 🦊"
    ids = encode(small_student.tokenizer, [text])[0]
    assert b"".join(pieces[id_] for id_ in ids).decode() == " " + text


def test_wording_that_nothing_offends_changes_nothing(generate: Callable[..., list[str]]) -> None:
    plain = generate()
    assert generate(wording=Wording(ban=("xylophone",), max_words=10_000)) == plain
    warm = Sampling(temperature=1.0, top_p=1.0)
    assert generate(warm, Wording(ban=("xylophone",))) == generate(warm)


def test_wording_holds_for_a_student_with_and_without_guidance(generate: Callable[..., list[str]]) -> None:
    for guidance in (1.0, 2.0):
        sampling = Sampling(temperature=0.7, max_tokens=40, guidance=guidance)
        plain = generate(sampling)
        often = sorted({word for text in plain for word in text.split() if word.isalpha()})[:3]
        assert often
        held = generate(sampling, Wording(require=("lighthouse",), ban=tuple(often)))
        for text in held:
            assert contains(text, "lighthouse")
            assert not [word for word in often if contains(text, word)]
        again = generate(sampling, Wording(require=("lighthouse",), ban=tuple(often)), batch_size=1)
        assert again == held


def test_generation_names_what_is_unmet(small_student: Student) -> None:
    wording = Wording(require=("lighthouse keeper",))
    short = replace(small_student.sampling, max_tokens=2)
    (one,) = small_student.generate(["a red fox"], COMMANDS[:1], sampling=short, wording=wording)
    assert one.unmet == ("lighthouse keeper",)
    (one,) = small_student.generate(["a red fox"], COMMANDS[:1], wording=wording)
    assert one.unmet == ()


def test_stream_yields_the_completion_in_whole_words(small_student: Student) -> None:
    sampling = replace(small_student.sampling, max_tokens=32)
    for text, command in zip(INPUTS, COMMANDS, strict=True):
        for wording in (None, Wording(require=("lighthouse",), ban=("the",))):
            (expected,) = small_student.generate([text], [command], seeds=[3], sampling=sampling, wording=wording)
            stream = small_student.stream(text, command, seed=3, sampling=sampling, wording=wording)
            parts = [next(stream)]
            assert not torch.is_inference_mode_enabled()
            parts += list(stream)
            assert "".join(parts) == expected.completion
            assert all(parts)
            if len(expected.completion.split()) > 3:
                assert len(parts) > 3


@given(st.text(alphabet=st.characters(exclude_characters="\ufffd", exclude_categories=("Cs",))), st.integers(0, 400))
def test_what_is_settled_never_changes(text: str, cut: int) -> None:
    sofar = text.encode()[:cut].decode(errors="replace")
    sure = settled(sofar)
    assert text.startswith(sure)
    assert "\ufffd" not in sure


def test_settled_holds_back_the_word_under_way() -> None:
    assert settled("a red fo") == "a red "
    assert settled("a red fox,") == "a red fox,"
    assert settled("don't mid-cent") == "don't "
    assert settled("猫" * 40) == "猫" * 40
    assert settled("a caf\ufffd") == "a "


def test_distance_is_in_shares_of_what_the_student_reaches() -> None:
    command = Command("t", {"relevance": 0.5, "length": 20.0, "mine": 1.0})
    spans = {"relevance": (0.2, 0.7), "length": (5.0, 45.0), "mine": (0.0, 1.0)}
    assert distance(command, {"relevance": 0.6, "length": 10.0}, spans) == pytest.approx(0.1 / 0.5 + 10 / 40)
    assert distance(Command("t"), {"relevance": 0.6}, {}) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "start at 1, got 0, 1 and 1"),
        ({"best_of": 0}, "start at 1"),
        ({"closest_of": -1}, "start at 1"),
        ({"best_of": 2, "closest_of": 2}, "take one"),
        ({"best_of": 2}, "picks by relevance"),
        ({"closest_of": 2, "command": Command("search-query")}, "needs a command that can be measured"),
        ({"command": Command("poem")}, "unknown task 'poem'"),
        ({"command": Command("search-query", {"joy": 1.0})}, "unknown attribute 'joy'"),
    ],
)
def test_answer_refuses_what_makes_no_sense(small_student: Student, options: dict[str, Any], message: str) -> None:
    command = options.pop("command", COMMANDS[0])
    with pytest.raises(UsageError, match=message):
        next(answer(small_student, ["a red fox"], command, **options))

"""Requests that join others under way: each gets what it gets alone, whenever it comes and whoever else writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import ROWS, byte_level, new_model

from udrl.architecture.any import AnyCausalModel
from udrl.architecture.gpt2 import Gpt2
from udrl.commands import Attribute, CommandSpace
from udrl.decoding.engine import Engine, Session
from udrl.decoding.governor import Clauses, Governor
from udrl.decoding.loop import Decoder
from udrl.decoding.requests import Decoded, Request
from udrl.decoding.sampling import Sampling
from udrl.decoding.wording import Vocabulary, Wording, Writer
from udrl.export.onnx import write_graph
from udrl.student.engines.exports import Export
from udrl.student.engines.onnx import OnnxEngine
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.tokenizer import text_only

CONTEXT = 128
ENDS = (0, *range(100, ROWS, 9))
SAMPLINGS = (
    Sampling(0.0),
    Sampling(0.0, guidance=2.0),
    Sampling(0.8, top_p=0.9, no_repeat=2),
    Sampling(1.3, top_k=7, guidance=0.5),
    Sampling(1.0, min_p=0.05, no_repeat=3),
)
WORDINGS = (None, None, Wording(ban=("fox", "red")), Wording(require=("tall ship",)), Wording(max_words=4))
ENGINES = ("gpt2", "llama", "starcoder2", "bloom", "opt", "onnx")
"""Families in torch: by caches of their own, by transformers' of a window or of all places, with positions told or
counted by the mask; and ONNX Runtime, whose rows are padded at their end."""


def student(family: str) -> StudentModel:
    values = {"t": {"length": [3 + k % 37 for k in range(600)]}}
    space = CommandSpace.fit(ROWS, (Attribute("length", 1, 1000, "words"),), values)
    window = {"sliding_window": 12} if family == "any mistral" else {}
    made = StudentModel(new_model(family.removeprefix("any "), **window), space)
    if window:
        made.architecture = AnyCausalModel()
    with torch.no_grad():
        made.rows.weight.add_(torch.randn(made.rows.weight.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    return made.eval()


@pytest.fixture(scope="module")
def engine_of() -> Iterator[Callable[[str], Engine]]:
    with TemporaryDirectory() as folder:

        @cache
        def build(name: str) -> Engine:
            made = student("gpt2" if name == "onnx" else name)
            if name != "onnx":
                return TorchEngine(made)
            write_graph(made, Path(folder), quantised=False)
            facts = {"parameters": 0, "context": CONTEXT, "layers": 2, "heads": 4, "width": 32, "precision": "fp32"}
            return OnnxEngine(Export("onnx-fp32", Path(folder), facts), made.space)

        yield build


@cache
def vocabulary() -> Vocabulary:
    return Vocabulary(text_only(byte_level()), ROWS, ENDS)


@cache
def clauses() -> Clauses:
    return Clauses(text_only(byte_level()), ROWS, ENDS)


def requests(engine: Engine, count: int = 18) -> list[Request]:
    """Return requests of all sorts; some write to the end of the context."""
    rng, space = np.random.default_rng(5), engine.space
    opened, made = space.render("t", {}), []
    for k in range(count):
        ids = rng.integers(10, ROWS, 105 if k % 7 == 3 else rng.integers(1, 30)).tolist()
        prompt = space.prompt(ids, space.render("t", {"length": float(rng.uniform(0, 9))}))
        limit = CONTEXT - len(prompt) if k % 7 == 3 else int(rng.integers(1, 24))
        wording = WORDINGS[k // 2 % len(WORDINGS)]
        writer = None if wording is None else Writer(wording, vocabulary(), limit)
        # the ends of every third are ids that are never written
        ends = (ROWS,) if k % 3 == 0 and writer is None else ENDS
        unasked = space.prompt(ids, opened)
        governor = Governor(5, clauses()) if k % 6 == 4 else None
        made.append(
            Request(prompt, 100 + k, SAMPLINGS[k % len(SAMPLINGS)], limit, ends, unasked, writer, governor=governor)
        )
    return made


def written(engine: Engine, arrivals: Sequence[Sequence[int]], most: int | None = None) -> dict[int, Decoded]:
    """Return what every request gets, by its number; arrivals: which requests come before each step."""
    asked, decoder = requests(engine), Decoder(engine, most)
    numbers: dict[int, int] = {}
    found: dict[int, Decoded] = {}
    tokens: dict[int, list[int]] = {}
    coming = list(arrivals)
    while coming or decoder:
        for number in coming.pop(0) if coming else ():
            numbers[decoder.add(asked[number])] = number
        for step in decoder.step() if decoder else ():
            assert decoder.batch is None or most is None or len(decoder.batch.rows) <= most
            if step.token is not None:
                tokens.setdefault(step.handle, []).append(step.token)
            if step.decoded is not None:
                assert numbers[step.handle] not in found
                found[numbers[step.handle]] = step.decoded
                assert step.decoded.ids == tokens.get(step.handle, [])
    return found


@cache
def alone(engine: Engine) -> dict[int, Decoded]:
    found = {}
    for number in range(len(requests(engine))):
        found |= written(engine, [[number]])
    return found


def at_random(seed: int, count: int) -> list[list[int]]:
    """Return arrivals of all requests in any order, with crowds and pauses."""
    rng = np.random.default_rng(seed)
    order, arrivals = rng.permutation(count).tolist(), []
    while order:
        size = int(rng.choice([0, 0, 0, 1, 1, 2, 5]))
        arrivals.append(order[:size])
        del order[:size]
    return arrivals


@pytest.mark.parametrize("name", ENGINES)
def test_joining_gives_each_what_it_gets_alone_in_whatever_order_they_come(
    name: str, engine_of: Callable[[str], Engine]
) -> None:
    engine = engine_of(name)
    expected = alone(engine)
    assert len({tuple(one.ids) for one in expected.values()}) >= 12
    assert {one.stopped for one in expected.values()} == {True, False}
    assert max(len(requests(engine)[k].prompt) + len(one.ids) for k, one in expected.items()) == CONTEXT
    for seed in range(2):
        assert written(engine, at_random(seed, len(expected))) == expected


def held(session: Any) -> tuple[int, int]:
    """Return of how many rows and places a session holds keys and values; room for what comes is not counted."""
    stored = getattr(session, "cache", None)
    if isinstance(stored, np.ndarray):
        return stored.shape[2], stored.shape[4] - 64
    if hasattr(stored, "content"):
        return stored.content.shape[2], stored.content.shape[4] - 32
    [(rows, places)] = {(layer.keys.shape[0], layer.keys.shape[2]) for layer in stored.past.layers}
    return rows, places


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "onnx"])
def test_joining_rows_take_the_places_of_the_longest_and_give_them_back(
    name: str, engine_of: Callable[[str], Engine]
) -> None:
    engine = engine_of(name)

    def begun(*sizes: int) -> Session:
        return engine.start([list(range(10, 10 + size)) for size in sizes])[0]

    session = begun(5, 9)
    assert held(session) == (2, 9)
    session.join(begun(70))
    assert held(session) == (3, 70)
    session.join(begun(3))
    assert held(session) == (4, 70)
    session.keep(np.array([3, 0, 1]))
    assert held(session) == (3, 9)
    logits = session.step(np.array([20, 21, 22]))
    for size, token, row in zip((3, 5, 9), (20, 21, 22), logits, strict=True):
        expected = engine.start([[*range(10, 10 + size), token]])[1][0]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_joining_waits_where_an_engine_cannot_take_rows_in(
    engine_of: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of("onnx")
    expected = alone(engine)
    kind = type(engine.start([[10]])[0])
    monkeypatch.setattr(kind, "joins", False)
    monkeypatch.delattr(kind, "join")
    assert written(engine, at_random(0, len(expected))) == expected


@pytest.mark.parametrize("most", [1, 3, 8])
def test_joining_leaves_others_waiting_where_there_is_room_for_so_many(
    most: int, engine_of: Callable[[str], Engine]
) -> None:
    engine = engine_of("onnx")
    assert written(engine, [range(18)], most) == alone(engine)
    assert written(engine, at_random(3, 18), most) == alone(engine)


def test_joining_rows_that_are_dropped_are_heard_of_no_more(engine_of: Callable[[str], Engine]) -> None:
    engine = engine_of("onnx")
    asked, decoder = requests(engine), Decoder(engine, 6)
    for request in asked[:9]:
        decoder.add(request)
    started = {step.handle for step in decoder.step()}
    assert started == set(range(6))
    for handle in (0, 3, 7):  # two that write, one that waits
        decoder.drop(handle)
    ended = {}
    while decoder:
        for step in decoder.step():
            assert step.handle not in (0, 3, 7)
            if step.decoded is not None:
                ended[step.handle] = step.decoded
    assert ended == {handle: alone(engine)[handle] for handle in (1, 2, 4, 5, 6, 8) if handle in ended}
    assert {4, 6, 8} <= ended.keys()
    handle = decoder.add(asked[3])
    decoder.step()
    decoder.drop(handle)
    assert not decoder


def test_joining_reads_with_the_weights_that_are_at_hand(
    engine_of: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, real, made = engine_of("gpt2"), Gpt2.caches, []
    assert isinstance(shared, TorchEngine)
    engine = TorchEngine(shared.model, shared.dtype)

    def counted(self: Gpt2, *given: Any, **options: Any) -> Any:
        made.append(self)
        return real(self, *given, **options)

    monkeypatch.setattr(Gpt2, "caches", counted)
    assert written(engine, [[3], [0], [], [1]]).keys() == {0, 1, 3}
    assert len(made) == 1

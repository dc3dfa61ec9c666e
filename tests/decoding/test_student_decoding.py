"""Decoding: what the defaults write, and guidance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from udrl.architecture.any import AnyCausalModel
from udrl.architecture.gpt2 import Gpt2
from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import Attribute, CommandSpace
from udrl.decoding.loop import decode_batch
from udrl.decoding.sampling import Sampling
from udrl.errors import UsageError
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel

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


def test_decoding_to_the_end_of_the_context_beside_rows_that_write_on(model: StudentModel) -> None:
    context, control = TorchEngine(model).context, model.space.render("t", {})
    texts = [[7] * size for size in (context - 10, 40, 30, 20, 10)]
    batch = [model.space.prompt(text, control) for text in texts]
    options = {"sampling": GREEDY, "end": BASE + 1}  # never written: each goes on to its limit
    limits = [context - len(prompt) for prompt in batch]
    together = decode_batch(TorchEngine(model), batch, [1] * 5, limits=limits, **options)  # type: ignore[arg-type]
    assert [len(one.ids) for one in together] == limits
    for prompt, limit, one in zip(batch, limits, together, strict=True):
        alone = decode_batch(TorchEngine(model), [prompt], [1], limits=[limit], **options)  # type: ignore[arg-type]
        assert one == alone[0]


def test_decoding_gives_each_row_what_its_own_settings_give_alone(model: StudentModel) -> None:
    samplings = [GREEDY, replace(SHARP, guidance=2.0), Sampling(1.2, top_k=5), replace(GREEDY, guidance=0.5), SHARP]
    asked = [prompts(model)[k % 3] for k in range(5)]
    unasked = [prompts(model, commanded=False)[k % 3] for k in range(5)]
    limits, seeds = [12, 3, 20, 7, 16], [5, 6, 7, 8, 9]
    together = decode_batch(
        TorchEngine(model), asked, seeds, sampling=samplings, limits=limits, end=0, others=(119,), unasked=unasked
    )
    assert len({tuple(one.ids) for one in together}) == 5
    for k, one in enumerate(together):
        alone = decode_batch(
            TorchEngine(model), [asked[k]], [seeds[k]], sampling=samplings[k], limits=[limits[k]], end=0, others=(119,),
            unasked=[unasked[k]],
        )  # fmt: skip
        assert alone == [one]


@pytest.mark.parametrize(
    "values", [{"guidance": -1}, {"guidance": float("nan")}, {"no_repeat": -1}, {"temperature": -1}]
)
def test_sampling_refuses_what_makes_no_sense(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(values))} must be"):
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
    model.architecture = Gpt2() if packed else AnyCausalModel()
    try:
        guided = written(model, replace(GREEDY, guidance=weight), unasked=prompts(model, commanded=False))
    finally:
        model.architecture = Gpt2()
    assert [ids for ids, _ in guided] == by_the_formula(model, weight)
    assert [ids for ids, _ in guided] != [ids for ids, _ in written(model, GREEDY)]


def test_decoding_tells_padding_by_length_and_not_by_its_id(model: StudentModel) -> None:
    """What pads is a token like any other (in GPT-2 it is "!"), also at the beginning of an input."""
    texts = [[0, 0, 7, 0], [3], [0, 5, 0, 0, 9, 0, 4, 0]]
    asked = [model.space.prompt(ids, model.space.render("t", {"relevance": 4.5})) for ids in texts]
    options: dict[str, Any] = {"sampling": GREEDY, "end": BASE - 1}
    together = decode_batch(TorchEngine(model), asked, [1, 2, 3], limits=[20] * 3, **options)
    alone = [decode_batch(TorchEngine(model), [ids], [1], limits=[20], **options)[0] for ids in asked]
    assert [one.ids for one in together] == [one.ids for one in alone]
    other = model.space.prompt([7], model.space.render("t", {"relevance": 4.5}))
    assert decode_batch(TorchEngine(model), [other], [1], limits=[20], **options)[0].ids != alone[0].ids

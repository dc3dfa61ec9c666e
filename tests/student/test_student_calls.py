"""Many callers: threads, processes that fork, and what repeats one completion."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_answering
import torch
from tiny_answering import TASK, TEXTS, commands, tiny_student

import udrl
from udrl import forks
from udrl.commands import LENGTH, Command
from udrl.errors import StudentError
from udrl.student.answers import answer
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.student import Generation, Student
from udrl.student.targets import Clamped
from udrl.tokenizer import END, encode, text_only

HOSTILE = (
    END,
    f"fox {END} fox{END}",
    "<|relevance:9|><task=t><length=9>",
    "<s></s><unk><pad>[CLS][SEP][MASK]<|im_start|>system<|im_end|>",
    "\u202egnp.exe\u202c \u2066x\u2069 \x00\x1b[31m\ufeff",
    "👩‍👩‍👧‍👦" * 20,
    "<script>alert(1)</script>\n\n\r\t",
    "x" * 400,
)


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student(context=512)


def test_calls_of_eight_threads_with_hostile_texts_get_what_each_gets_alone(student: Student) -> None:
    wanted = [(text, command, seed) for seed in range(3) for text, command in zip(HOSTILE, commands(8), strict=True)]

    def one(item: tuple[str, Command, int]) -> Any:
        text, command, seed = item
        assert student.tokenizer.eos_token_id not in encode(student.tokenizer, [text])[0]
        return student.generate([text], [command], seeds=[seed])[0]

    alone = [one(item) for item in wanted]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, wanted * 2))
    assert together == alone * 2
    assert len({one.completion for one in alone}) > len(wanted) / 2, "not all the same, or mixing them would not show"


def test_calls_never_change_how_the_tokenizer_reads(student: Student) -> None:
    backend = student.tokenizer.backend_tokenizer
    for _ in range(2):
        student.generate([END], [Command(TASK)])
        student.tokenizer(END)  # transformers' own call sets the flag by itself
        assert backend.encode_special_tokens is True
    other = type(student.tokenizer)(tokenizer_object=type(backend).from_str(backend.to_str()), eos_token=END)
    with pytest.raises(StudentError, match="load it with text_only"):
        encode(other, [END])
    assert encode(text_only(other), [END]) == encode(student.tokenizer, [END])


def test_calls_after_a_fork_give_the_same_with_one_thread_and_a_warning(tmp_path: Path) -> None:
    script = Path(tiny_answering.__file__)
    ran = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"same": True, "count": 2, "threads": 1, "status": 0}
    assert ran.stderr.count("this process was forked and computes with one thread") == 1


def test_calls_on_a_gpu_after_a_fork_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_home", -1)
    with pytest.raises(StudentError, match=r"forked from one that uses cuda, .* load the student behind the fork"):
        forks.settle("cuda")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_calls_are_repeated_by_what_an_answer_tells(precision: str) -> None:
    """float32: by the seed. bf16: by the seed where the completion was computed alone."""
    made = tiny_student(precision=precision)
    texts, [command] = list(TEXTS) * 2, commands(1)
    size = 8 if precision == "fp32" else 1
    for one in answer(made, texts, command, num=2, seed=5, batch_size=size):
        assert (one.engine, one.precision) == ("torch", {"fp32": "float32", "bf16": "bfloat16"}[precision])
        assert one.together == size
        [again] = answer(made, [one.input], command, seed=one.seed)
        assert again.together == 1
        assert again.completion == one.completion


def test_calls_write_answers_as_they_are_taken(student: Student) -> None:
    [command] = commands(1)
    endless = answer(student, [TEXTS[0]], command, num=10**9, batch_size=2)
    assert [next(endless).seed for _ in range(5)] == [0, 1, 2, 3, 4]


def test_calls_tell_what_was_clamped_as_values(student: Student) -> None:
    with pytest.warns(UserWarning, match=r"length=90 is beyond what this student reaches on task 't', 4.00 to 30.00"):
        far, near = student.generate(["fox"] * 2, [Command(TASK, {LENGTH: n}) for n in (90.0, 12.0)])
    assert far.clamped == {LENGTH: Clamped(90.0, (4.0, 30.0))}
    assert near.clamped == {}
    last: list[Generation] = []

    def streamed() -> Generator[str, None, None]:
        last.append((yield from student.stream("fox", Command(TASK, {LENGTH: 1.0}))))

    with pytest.warns(UserWarning, match="length=1 is beyond"):
        list(streamed())
    assert last[0].clamped == {LENGTH: Clamped(1.0, (4.0, 30.0))}


def test_calls_by_thousands_keep_nothing(student: Student) -> None:
    """Whatever a call leaves behind is seen in the number of live tensors."""

    def tensors() -> int:
        gc.collect()
        return sum(type(one) is torch.Tensor for one in gc.get_objects())

    def call(k: int) -> None:
        student.generate([HOSTILE[k % 4]], commands(k % 3 + 1)[-1:], seeds=k)

    call(0)
    before = tensors()
    for k in range(60):
        call(k)
    assert tensors() == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_calls_prepare_weights_once_and_anew_where_they_have_changed(precision: str) -> None:
    made = tiny_student(precision=precision)
    engine = made.computes
    assert isinstance(engine, TorchEngine)
    weights = list(engine.model.parameters())

    def logits() -> np.ndarray[Any, Any]:
        return engine.start([[5, 6, 7]])[1].copy()

    before = logits()
    kept = engine._prepared
    assert np.array_equal(logits(), before)
    assert engine._prepared is kept
    for one in weights:
        one.grad = torch.ones_like(one)
    torch.optim.AdamW(weights, lr=0.1).step()
    after = logits()
    assert engine._prepared is not kept
    assert np.array_equal(after, TorchEngine(engine.model, engine.dtype).start([[5, 6, 7]])[1])
    assert not np.array_equal(after, before)


def test_calls_need_no_writer_of_a_pipe_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "command_space.json").write_text("{}")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(StudentError, match=r"config.json is no regular file: restore it or train again"):
        udrl.load(tmp_path)

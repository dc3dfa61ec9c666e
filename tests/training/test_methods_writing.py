"""What a student writes while TRL trains it: as it answers, in the middle of a training."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tiny_checkpoints import byte_level
from tiny_students import new_student

from udrl.student.network import StudentModel
from udrl.tokenizer import text_only
from udrl.training.methods.hosting import hosted
from udrl.training.methods.writing import Author, Prompt


@pytest.fixture
def student() -> StudentModel:
    made = new_student()
    made.model.config.eos_token_id = [0]
    with torch.no_grad():
        made.rows.weight.add_(torch.randn(made.rows.weight.shape, generator=torch.Generator().manual_seed(0)))
    return made


def author(student: StudentModel) -> Author:
    return Author(student, text_only(byte_level()), max_tokens=12, dtype=torch.float32)


def prompts(student: StudentModel) -> list[Prompt]:
    return [Prompt("t", str(k), [*range(5, 6 + k), *student.space.render("t", {})]) for k in range(3)]


def test_author_writes_in_the_middle_of_a_training_what_the_student_answers(student: StudentModel) -> None:
    asked = prompts(student)
    before = author(student.eval()).write(asked, [1, 2, 3], 0.9)
    ids = torch.tensor([asked[2].ids])
    read = student.embed(ids)
    student.train()
    with hosted(student) as model:
        assert author(student).write(asked, [1, 2, 3], 0.9) == before
        assert author(student).write(asked[1:2], [2], 0.9) == before[1:2]
        assert model.training
        assert torch.equal(student.embed(ids), read), "validation reads the control rows, too"
        assert torch.equal(model.get_input_embeddings()(ids), read)


def test_author_ends_at_every_end_of_the_student(student: StudentModel) -> None:
    asked = prompts(student)[:1]
    [whole] = author(student).write(asked, [7], 1.5)
    place = next(k for k in range(2, len(whole.ids)) if whole.ids[k] not in whole.ids[:k])
    student.model.config.eos_token_id = [0, whole.ids[place]]
    with hosted(student) as model:
        [cut] = author(student).write(asked, [7], 1.5)
        assert model.generation_config.eos_token_id == student.ends
    assert (cut.ids, cut.end) == (whole.ids[:place], whole.ids[place])


def test_author_draws_from_all_tokens(student: StudentModel) -> None:
    written = author(student).write(prompts(student)[:1] * 60, list(range(60)), 50.0)
    assert len({one for row in written for one in row.ids}) == student.space.base - 1  # all but the end
    assert any(a.ids != b.ids for a, b in pairwise(written))

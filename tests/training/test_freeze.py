"""Freezing: the lowest blocks and the embeddings stay, cost no backward pass, and the rows of commands learn."""

from __future__ import annotations

import pytest
import torch
from tiny_families import new_student, sequences
from tiny_students import examples, options

from udrl.architecture.packing import pack
from udrl.errors import UsageError
from udrl.student.network import StudentModel
from udrl.training.freeze import freeze
from udrl.training.loop import run_loop
from udrl.training.options import TrainOptions, make_optimizer
from udrl.training.recipe import recipe_of

FAMILIES = ("gpt2", "llama", "llama tied", "qwen3", "opt", "gpt-j")


def lowest(student: StudentModel) -> str:
    return next(name for name, module in student.named_modules() if module is student.blocks[0]) + "."


@pytest.mark.parametrize("family", FAMILIES)
def test_freeze_keeps_the_lowest_blocks_and_the_embeddings(family: str) -> None:
    student = new_student(family)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    freeze(student, 1)
    stored: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.numel()) or t, lambda t: t)
    batch = pack(*sequences())
    with hooks:
        losses = student.losses(batch)
    with_frozen = sum(stored)
    stored.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.numel()) or t, lambda t: t):
        torch.testing.assert_close(losses, new_student(family).losses(batch), atol=0, rtol=0)
    assert with_frozen < 0.75 * sum(stored)  # of two blocks and the head

    run_loop(student, examples(20), options(steps=3, learning_rate=0.01), dtype=torch.float32)
    after, table = student.state_dict(), student.model.get_input_embeddings().weight
    kept = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert {name for name in after if name.startswith(lowest(student))} <= kept
    assert {name for name, p in student.named_parameters() if p is table} <= kept
    assert "rows.weight" not in kept
    upper = lowest(student).replace(".0.", ".1.")
    assert all(name not in kept for name in after if name.startswith(upper) and "bias" not in name)
    counted = sum(p.numel() for group in make_optimizer(student, options()).param_groups for p in group["params"])
    assert counted < 0.6 * sum(p.numel() for p in student.parameters())


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_freeze_gives_what_learns_the_gradient_that_it_had(family: str) -> None:
    """Above the frozen block nothing changes; a command row gets the gradient where it leaves that block."""
    whole, some = new_student(family), new_student(family)
    freeze(some, 1)
    batch = pack(*sequences())
    for student in (whole, some):
        student.losses(batch).sum().backward()  # type: ignore[no-untyped-call]
    upper, expected = lowest(some).replace(".0.", ".1."), dict(whole.named_parameters())
    for name, parameter in some.named_parameters():
        if name.startswith(upper):
            torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-6, rtol=1e-4)
    mine, full = some.rows.weight.grad, whole.rows.weight.grad
    assert mine is not None
    assert full is not None
    assert float(torch.nn.functional.cosine_similarity(mine.flatten(), full.flatten(), dim=0)) > 0.2


def test_freeze_needs_trained_weights() -> None:
    with pytest.raises(
        UsageError, match="--freeze keeps trained weights, and gpt2-mini would start without: name --from"
    ):
        recipe_of(TrainOptions(student="gpt2-mini", freeze=1))
    with pytest.raises(UsageError, match="freeze"):
        TrainOptions(freeze=-1)


def test_freeze_leaves_a_block_to_learn() -> None:
    with pytest.raises(UsageError, match="--freeze 2 leaves nothing to learn, the student has 2 blocks: at most 1"):
        freeze(new_student("llama"), 2)

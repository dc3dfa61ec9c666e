"""LoRA: what is trained, what stays, what is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tiny_students import examples, fit, new_student, options

from udrl.errors import UsageError
from udrl.training.checkpoint import STATE
from udrl.training.examples import batch_of
from udrl.training.loop import run_loop
from udrl.training.lora import add_lora, merge_lora
from udrl.training.train import train

RANK = 2


def test_lora_begins_as_the_student_and_trains_a_small_share() -> None:
    student = new_student()
    batch = batch_of(examples(9), range(9), student.space)
    before, count = student.losses(batch), student.parameter_count
    add_lora(student, RANK)
    assert torch.equal(student.losses(batch), before)
    trained = {n: p.numel() for n, p in student.named_parameters() if p.requires_grad}
    assert "rows.weight" in trained
    assert all(n == "rows.weight" or n.endswith((".first", ".second")) for n in trained)
    assert len(trained) == 1 + 2 * 2 * 4  # two blocks, four matrices each
    shapes = ((24, 72), (24, 24), (24, 96), (96, 24))
    assert sum(trained.values()) - trained["rows.weight"] == 2 * RANK * sum(map(sum, shapes))
    assert sum(trained.values()) < 0.3 * count  # of a very small student


def test_lora_merged_changes_the_matrices_by_its_rank_and_nothing_else() -> None:
    before = {n: t.clone() for n, t in new_student().state_dict().items()}
    student = new_student()
    add_lora(student, RANK)
    losses: list[float] = []

    def log(step: int, figures: Mapping[str, float]) -> None:
        losses.append(figures["loss"])

    run_loop(student, examples(8), options(steps=40, learning_rate=0.02), dtype=torch.float32, log=log)
    assert sum(losses[-5:]) < 0.985 * sum(losses[:5])  # frozen, the random head leaves little to learn
    batch = batch_of(examples(9, seed=2), range(9), student.space)
    trained = student.losses(batch)
    merge_lora(student)
    torch.testing.assert_close(student.losses(batch), trained)
    after = student.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        change = tensor - before[name]
        if ".h." in name and tensor.ndim == 2 and name.endswith("weight"):
            singular = torch.linalg.svdvals(change)
            assert singular[RANK - 1] > 1e-4 > 10 * singular[RANK:].max()
        else:
            assert name == "rows.weight" or not change.any()
    assert (after["rows.weight"] != before["rows.weight"]).any()
    assert all(p.requires_grad for p in student.parameters())


@pytest.mark.parametrize("stop", [0, 3])
def test_lora_resumed_is_bit_identical(stop: int, tmp_path: Path) -> None:
    def interrupt(step: int, figures: Mapping[str, float]) -> None:
        if step == stop:
            raise KeyboardInterrupt

    made = options(save_every=1)
    whole, _ = fit(made, lora=RANK, state_file=tmp_path / "a" / STATE)
    with pytest.raises(KeyboardInterrupt):
        fit(made, lora=RANK, state_file=tmp_path / "b" / STATE, log=interrupt)
    resumed, _ = fit(made, lora=RANK, state_file=tmp_path / "b" / STATE)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_lora_train_saves_an_ordinary_checkpoint(small_run: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    train(run, start_from=small_run, lora=RANK, steps=2, batch_size=4, calibration_inputs=0, signs_inputs=0)
    before = load_file(small_run / "student" / "model.safetensors")
    after = load_file(run / "student" / "model.safetensors")
    assert after.keys() == before.keys()
    name = "transformer.h.0.attn.c_attn.weight"
    assert not torch.equal(after[name], before[name])
    assert torch.equal(after["transformer.ln_f.weight"], before["transformer.ln_f.weight"])
    with pytest.raises(UsageError, match="--lora changes trained weights"):
        train(run, student="gpt2-mini", lora=RANK, steps=1)

"""Families of networks: told apart by a registry, and everything that differs between them stands behind it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import FAMILIES, ROWS, new_model, put
from tiny_students import examples, options
from torch import nn

import udrl
from udrl import architecture
from udrl.architecture import architecture_of, kind_of
from udrl.architecture.any import AnyCausalModel
from udrl.architecture.gpt2 import Gpt2
from udrl.architecture.llama import Llama
from udrl.commands import Attribute, CommandSpace
from udrl.errors import StudentError
from udrl.export.parts import exporter_of
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.network import StudentModel
from udrl.training.admission import admit
from udrl.training.loop import run_loop
from udrl.training.lora import add_lora
from udrl.training.options import make_optimizer

SAID = re.compile(
    r"\b(model_type|lm_head|wte|wpe|max_position_embeddings|n_(embd|head|layer|positions|inner)|GPT2\w*)\b|transformer\.h\b"
)
"""What only one family calls so, or what tells families apart."""
OWN = {Path("encoder/bert.py")}
"""The encoder's network, which is no student's."""


class Added:
    """A family that is added by one line of the registry; it computes as any model, and remembers what is asked."""

    name = "Added"

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def admits(self, config: Any) -> bool:
        return bool(config.model_type == "llama")

    def context(self, config: Any) -> int:
        return int(config.max_position_embeddings) // 2

    def blocks(self, model: Any) -> nn.ModuleList:
        found: nn.ModuleList = model.model.layers
        return found

    def decays(self, name: str) -> bool:
        return name.endswith("down_proj.weight")

    def __getattr__(self, name: str) -> Any:
        self.asked.add(name)
        return getattr(AnyCausalModel(), name)


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> Added:
    added = Added()
    monkeypatch.setattr(architecture, "FAMILIES", (added, *architecture.FAMILIES))
    return added


def new_student(family: str = "llama") -> StudentModel:
    values = {"t": {"relevance": [k / 600 for k in range(600)], "length": [3 + k % 37 for k in range(600)]}}
    attributes = (Attribute("relevance", 0, 1), Attribute("length", 1, 1000, "words"))
    return StudentModel(new_model(family), CommandSpace.fit(ROWS, attributes, values))


def losses(student: StudentModel) -> list[float]:
    found = []
    run_loop(
        student,
        examples(20),
        options(steps=2, weight_decay=0.0),
        dtype=torch.float32,
        log=lambda _, figures: found.append(figures["loss"]),
    )
    return found


@torch.no_grad()
def written(student: StudentModel) -> list[list[int]]:
    prompts = [student.space.prompt([5, 6, 7], student.space.render("t", {"length": level})) for level in (0.0, 8.5)]
    session, logits = TorchEngine(student).start(prompts)
    ids = []
    for _ in range(5):
        ids.append(logits.argmax(-1))
        logits = session.step(ids[-1])
    return np.array(ids).T.tolist()  # type: ignore[no-any-return]


def test_protocol_only_architectures_name_parts_of_networks() -> None:
    root = Path(udrl.__file__).parent
    found = [
        f"{file.relative_to(root)}:{number}: {line.strip()}"
        for file in sorted(root.rglob("*.py"))
        if file.relative_to(root).parts[0] != "architecture" and file.relative_to(root) not in OWN
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if SAID.search(line)
    ]
    assert not found, "ask the student's architecture instead:\n" + "\n".join(found)


def test_protocol_tells_families_apart() -> None:
    kinds = {family: type(architecture_of(new_model(family).config)) for family in FAMILIES}
    relatives = {family for family in FAMILIES if family.split()[0] in ("llama", "mistral", "qwen2", "qwen3")}
    assert {family for family, kind in kinds.items() if kind is Gpt2} == {"gpt2"}
    assert {family for family, kind in kinds.items() if kind is Llama} == relatives
    assert {kinds[family] for family in FAMILIES.keys() - relatives - {"gpt2"}} == {AnyCausalModel}
    for variant in ({"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}):
        assert type(architecture_of(new_model("gpt2", **variant).config)) is AnyCausalModel
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
                "factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    for other in ({"hidden_act": "gelu"}, {"rope_parameters": longrope}):
        assert type(architecture_of(new_model("llama", **other).config)) is AnyCausalModel
    assert kind_of(new_model("mixtral").config) == kind_of({"model_type": "mixtral"}) == "mixtral"
    assert kind_of({}) == "no model_type in its config.json"


def test_protocol_family_added_by_one_line_trains_and_answers(llama: Added, monkeypatch: pytest.MonkeyPatch) -> None:
    student, plain = new_student(), new_student()
    plain.architecture = AnyCausalModel()
    assert student.architecture is llama
    assert (student.context, plain.context) == (64, 128)
    assert [type(new_student(other).architecture) for other in ("gpt2", "opt")] == [Gpt2, AnyCausalModel]
    assert written(student) == written(plain)
    assert losses(student) == losses(plain)
    assert llama.asked == {"caches", "losses"}


def test_protocol_family_says_what_decays_what_lora_changes_and_what_is_prepared(llama: Added, tmp_path: Path) -> None:
    student = new_student()
    decayed, others, rows = make_optimizer(student, options()).param_groups
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == [f"model.model.layers.{k}.mlp.down_proj.weight" for k in (0, 1)]
    assert "model.lm_head.weight" in {names[id(p)] for p in others["params"]}
    assert [names[id(p)] for p in rows["params"]] == ["rows.weight"]
    add_lora(student, 2)
    changed = {name for name, parameter in student.named_parameters() if parameter.requires_grad} - {"rows.weight"}
    assert changed
    assert all(name.startswith("model.model.layers.") for name in changed)
    assert not llama.asked
    admit(str(put(tmp_path)))
    assert llama.asked == {"prepare"}


def test_protocol_families_are_exported_where_they_say_how(llama: Added) -> None:
    assert exporter_of(new_student("gpt2")) is Gpt2.exporter
    with pytest.raises(
        StudentError, match=r"this one is a llama: only GPT-2, .* and Qwen3 can be exported, torch answers"
    ):
        exporter_of(new_student(), "this one")
    llama.exporter = Gpt2.exporter
    assert exporter_of(new_student()) is Gpt2.exporter
    with pytest.raises(StudentError, match=r"the student is a opt: only Added, GPT-2, .* and Qwen3 can be exported"):
        exporter_of(new_student("opt"))

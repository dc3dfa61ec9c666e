"""The vllm and ray backends where vLLM is not installed, and reading --engine-arg. The engine itself: tests/vllm."""

from __future__ import annotations

from pathlib import Path

import pytest

from udrl.errors import MissingDependency, UsageError
from udrl.teacher.backends import ray as ray_backend
from udrl.teacher.backends import vllm as vllm_backend
from udrl.teacher.backends.ray import RayTeacher
from udrl.teacher.backends.vllm import VllmTeacher
from udrl.teacher.backends.vllm.arguments import read_arguments
from udrl.teacher.cards import load_card
from udrl.teacher.protocol import Request

CARD = """
schema: 1
name: local
title: Local
description: A card of the tests.
backend: vllm
model: nobody/nothing
licence: {name: none, outputs: no limits}
sampling: [{name: plain, temperature: 1.0}]
"""
REQUEST = Request("k", "t", "i", "sea", ({"role": "user", "content": "sea"},), {"max_tokens": 4}, 1, 0)


def test_backends_name_the_install_command_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "local.yaml"
    path.write_text(CARD)
    card = load_card(path)
    for module, kind, extra in ((vllm_backend, VllmTeacher, "vllm"), (ray_backend, RayTeacher, "ray")):
        monkeypatch.setattr(module, "is_installed", lambda name: False)
        with pytest.raises(MissingDependency) as caught:
            list(kind(card).generate([REQUEST]))
        assert f'pip install "udrl[{extra}]"' in str(caught.value)
        assert "\n" not in str(caught.value)


def test_engine_arguments_are_read_as_yaml_and_refused_by_name() -> None:
    found = read_arguments(["max-model-len=4096", "--enforce_eager=true", "quantization=fp8"])
    assert found == {"max_model_len": 4096, "enforce_eager": True, "quantization": "fp8"}
    with pytest.raises(UsageError, match="write it as NAME=VALUE"):
        read_arguments(["fp8"])
    with pytest.raises(UsageError, match="given twice"):
        read_arguments(["dtype=float16", "dtype=float32"])

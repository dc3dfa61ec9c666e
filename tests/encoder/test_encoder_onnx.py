"""The encoder in ONNX Runtime: torch's vectors, independent of the batch, chosen and recorded by its own name."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from udrl.encoder import MINILM, SentenceEncoder, load_encoder
from udrl.encoder.loading import ONNX, choose_arithmetic, find
from udrl.errors import MissingDependency, UsageError
from udrl.hardware import onnx_is_worthwhile

TEXTS = [
    "A red fox crosses a snowy field at dawn.",
    "dog",
    "",
    "Ein alter Leuchtturm über dem Meer, 日本語の文章も, наконец 🦊!",
    "a harbour with seven small boats, soft light, visible brush strokes " * 2,
    "word " * 400,
]


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_encoder(precision=ONNX, device="cpu")


def test_onnx_encoder_equals_torch(encoder: SentenceEncoder) -> None:
    exact = load_encoder(precision="fp32", device="cpu")
    assert (encoder.precision, exact.precision) == (ONNX, "fp32")
    np.testing.assert_allclose(encoder.encode(TEXTS), exact.encode(TEXTS), atol=5e-6)
    assert encoder.truncated == exact.truncated == 1


def test_onnx_encoder_vector_depends_on_its_text_alone(encoder: SentenceEncoder) -> None:
    words = TEXTS[4].split()
    texts = [" ".join(words[: n % 9 + 1]) + f" {n}" for n in range(24)]
    together = encoder.encode(texts)
    order = random.Random(0).sample(range(len(texts)), len(texts))
    fresh = load_encoder(precision=ONNX, device="cpu")
    assert np.array_equal(fresh.encode([texts[i] for i in order[:9]]), together[order[:9]])
    for i in order[9:12]:
        assert np.array_equal(fresh.encode([texts[i]])[0], together[i])


def test_onnx_vectors_have_a_cache_of_their_own(encoder: SentenceEncoder, tmp_path: Path) -> None:
    for precision in (ONNX, "fp32"):
        load_encoder(precision=precision, device="cpu", cache=tmp_path).encode(["dog"])
    names = {f"{MINILM}-{encoder.revision}-{precision}.vectors" for precision in (ONNX, "fp32")}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_auto_is_onnx_only_without_bf16_units_and_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find(MINILM)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for bf16, expected in ((True, "bf16"), (False, ONNX)):
        monkeypatch.setattr("udrl.hardware._multiplies_bf16", lambda found=bf16: found)
        assert choose_arithmetic("auto", "cpu", folder) == expected
        assert choose_arithmetic("light", "cpu", folder) == ONNX
        assert choose_arithmetic("fp32", "cpu", folder) == "fp32", "what is asked for is what comes"
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert choose_arithmetic("auto", "cpu", folder) == "fp32"
    assert not onnx_is_worthwhile()


def test_onnx_is_not_for_gpus_and_not_for_every_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not for device 'cuda'"):
        choose_arithmetic(ONNX, "cuda", find(MINILM))
    with pytest.raises(UsageError, match=r"needs a BERT with mean pooling.*: use fp32"):
        choose_arithmetic(ONNX, "cpu", tmp_path)


def test_onnx_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"pip install 'udrl\[onnx\]'"):
        load_encoder(precision=ONNX, device="cpu")


def test_onnx_runtime_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    code = "from udrl.hardware import onnx_runtime; onnx_runtime()"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=environment)
    assert list(tmp_path.iterdir()) == []

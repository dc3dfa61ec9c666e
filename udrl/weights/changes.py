"""A student as changes of the weights that it began with: a folder of a few megabytes instead of hundreds.

It holds the student's folder without its weights and without what the base has as well, and

    changes.safetensors   NAME.first and NAME.second, in float16: a matrix whose product of low rank is added to the
                          base's; NAME.rows: rows that the base lacks, such as those of commands
    changes.json          which base: its name, the package that carries it, the SHA-256 of its weights

It is put on top of the base's weights where they are found, once, as an ordinary checkpoint in the user's cache.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from udrl.errors import WeightsError, damaged
from udrl.files import alone, atomic_write, replacing_folder, user_cache
from udrl.progress import say
from udrl.weights.sources import Weights, find_exactly, hash_of

if TYPE_CHECKING:
    from torch import Tensor

FACTORS, FACTS, WHOLE = "changes.safetensors", "changes.json", "model.safetensors"
SCHEMA = 1
OF_BASE = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")
"""Files of a student that are the base's own, and large."""
NOT_KEPT = ("*.safetensors", "*.pt", "training*", "tensorboard", "onnx*", "gguf*", "ctranslate2*", *OF_BASE)
"""What the folder of the changes does not take over."""
LOST = 0.02
"""Largest share of a matrix's change, by norm, that a lower rank and float16 may leave out."""


@dataclass(frozen=True)
class Base:
    """The weights that changes belong to. name, package: as `find_weights` takes them; student: the preset of both;
    source: where they were; sha256: of their files."""

    name: str
    package: str | None
    student: str
    source: str
    sha256: str


def is_changes(folder: Path) -> bool:
    """Say whether ``folder`` holds a student as changes of a base's weights, which are not on top of them yet."""
    return (folder / FACTORS).is_file()


def is_put_together(folder: Path) -> bool:
    """Say whether ``folder`` is the checkpoint that `whole` made of changes."""
    return (folder / FACTS).is_file() and not is_changes(folder)


def base_of(folder: Path) -> Base:
    """Return what the changes in ``folder`` belong to; raises WeightsError for a file that is damaged or newer."""
    file = folder / FACTS
    with damaged(WeightsError, file, "restore it", errors=(OSError, ValueError, KeyError, TypeError)):
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise WeightsError(
                f"{file} has schema {data['schema']}, this version reads {SCHEMA}: use the version of udrl that wrote "
                "it"
            )
        return Base(**data["base"])


def write_changes(student: Path, base: Base, weights: Weights, folder: Path, *, rank: int) -> dict[str, float]:
    """Put the student in the folder ``student`` into ``folder`` as changes of ``weights``, of at most ``rank``.

    Returns what of each change is lost, as a share of its norm. Raises WeightsError where that is more than `LOST`, or
    where something else than a matrix changed: train with --lora then.
    """
    from safetensors.torch import load_file, save_file

    before, after = (load_file(checkpoint / WHOLE) for checkpoint in (weights.folder(), student))
    kept: dict[str, Tensor] = {}
    lost: dict[str, float] = {}
    for name, tensor in after.items():
        old = before.get(name)
        if old is None or old.shape[1:] != tensor.shape[1:] or len(tensor) < len(old):
            raise WeightsError(f"{student} has other weights than {weights.name} ({name}): it did not begin with those")
        if len(tensor) > len(old):
            kept[f"{name}.rows"] = tensor[len(old) :].half().contiguous()
        change = tensor[: len(old)].float() - old.float()
        if bool(change.any()):
            first, second = _factors(change, rank, f"{name} of {student}")
            lost[name] = float((first.float() @ second.float() - change).norm() / change.norm())
            kept |= {f"{name}.first": first, f"{name}.second": second}
    if lost and max(lost.values()) > LOST:
        name = max(lost, key=lost.__getitem__)
        raise WeightsError(
            f"the change of {name} in {student} is not of rank {rank} ({lost[name]:.0%} of it would be lost): "
            "train with --lora of that rank, or keep a higher one"
        )
    with replacing_folder(folder) as partial:
        shutil.copytree(student, partial, ignore=shutil.ignore_patterns(*NOT_KEPT), dirs_exist_ok=True)
        save_file(kept, partial / FACTORS, metadata={"format": "pt"})
        atomic_write(partial / FACTS, json.dumps({"schema": SCHEMA, "base": asdict(base)}, indent=1) + "\n")
    return lost


def _factors(change: Tensor, rank: int, what: str) -> tuple[Tensor, Tensor]:
    """Return the two matrices, in float16, whose product is the ``change`` as far as the ``rank`` allows."""
    import torch

    if change.ndim != 2:
        raise WeightsError(f"{what} changed, which is no matrix: train with --lora, which changes matrices alone")
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).half().contiguous(), (root[:, None] * right[:rank]).half().contiguous()


def whole(folder: Path) -> Path:
    """Return the ordinary checkpoint that the changes in ``folder`` make of their base; it is made once, and kept.

    It lies in the user's cache, by the hashes of changes and base, under the name of ``folder``. Raises WeightsError
    where the base is not found, has other weights than the changes were made of, or does not fit them.
    """
    base = base_of(folder)
    weights = find_exactly(base.name, base.sha256, package=base.package, wanted_by=f"the student '{folder.name}'")
    digest = hash_of([file for file in sorted(folder.iterdir()) if file.is_file()])
    made = user_cache() / "students" / f"{digest[:24]}-{base.sha256[:8]}" / folder.name
    made.parent.mkdir(parents=True, exist_ok=True)
    with alone(made.with_name(f".{made.name}.lock")):
        if not made.is_dir():
            say(f"putting the student '{folder.name}' on top of {weights.source}, once: it is kept in {made}")
            with replacing_folder(made) as partial:
                _put_together(folder, weights, partial)
    return made


def _put_together(folder: Path, weights: Weights, to: Path) -> None:
    """Fill ``to`` with the checkpoint that the changes in ``folder`` make of ``weights``."""
    import torch
    from safetensors.torch import load_file, save_file

    source = weights.folder()
    state = load_file(source / WHOLE)
    with damaged(WeightsError, folder / FACTORS, "restore it", errors=(Exception,)):
        changes = load_file(folder / FACTORS)
        for key, first in changes.items():
            name, _, part = key.rpartition(".")
            if part == "first":
                state[name] = state[name].float() + first.float() @ changes[f"{name}.second"].float()
            elif part == "rows":
                state[name] = torch.cat([state[name].float(), first.float()])
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(FACTORS), dirs_exist_ok=True)
    for name in OF_BASE:
        if (source / name).is_file():
            shutil.copyfile(source / name, to / name)
    save_file(state, to / WHOLE, metadata={"format": "pt"})

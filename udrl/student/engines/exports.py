"""Exports in a student's folder: ``engines/NAME/`` with the files of one engine and ``manifest.json``.

The manifest says which files the export was made from, by their hash, so that it is never taken for an export of
other weights, and what was measured when it was verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from udrl import __version__
from udrl.decoding.sampling import Sampling
from udrl.errors import StudentError
from udrl.files import replacing_folder

SCHEMA = 1
FOLDER = "engines"
MANIFEST = "manifest.json"
SOURCES = ("*.safetensors", "config.json", "command_space.json", "tokenizer.json")
"""Files of the student that decide what an engine computes."""


@dataclass(frozen=True)
class Export:
    """One export. name: of the engine, such as onnx-int8; folder: where its files are; manifest: see `publishing`."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def verified(self) -> bool:
        """Whether it wrote what torch writes, within the tolerance of its precision."""
        return bool(self.manifest["verification"]["passed"])

    def was_verified_as(self, sampling: Mapping[str, Any]) -> bool:
        """Say whether what was verified holds under this sampling: of float32 always, of int8 where it was used."""
        verified = self.manifest["verification"].get("sampling")
        defaults = asdict(Sampling())  # what an older version did not know
        is_same = verified is not None and {**defaults, **verified} == {**defaults, **sampling}
        return bool(self.manifest["precision"] == "fp32" or is_same)

    def is_current(self, student: Path) -> bool:
        """Say whether ``student`` still holds the files that this was exported from.

        Size and time of change settle it where they are as they were; else the contents do.
        """
        sources: Mapping[str, Mapping[str, Any]] = self.manifest["sources"]
        files = {path.name: path for path in _sources(student)}
        return files.keys() == sources.keys() and all(
            (files[name].stat().st_size, files[name].stat().st_mtime_ns) == (known["bytes"], known["changed_ns"])
            or _hash(files[name]) == known["sha256"]
            for name, known in sources.items()
        )


def find_export(student: Path, name: str) -> Export | None:
    """Return the export ``name`` of the student's folder or None; raises StudentError where it is damaged."""
    folder = student / FOLDER / name
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise StudentError(f"{path} is damaged ({error}): export again with udrl export") from None
    if schema != SCHEMA:
        raise StudentError(f"{path} has schema {schema}, this version reads {SCHEMA}: export again with udrl export")
    return Export(name, folder, manifest)


@contextmanager
def publishing(student: Path, name: str) -> Iterator[Path]:
    """Give a folder to write the export ``name`` into; it takes the place of an earlier one when all went well."""
    folder = student / FOLDER / name
    with replacing_folder(folder) as partial:
        yield partial


def describe_sources(student: Path) -> dict[str, dict[str, Any]]:
    """Return what is remembered of the files that an export is made from."""
    return {
        path.name: {
            "sha256": _hash(path),
            "bytes": path.stat().st_size,
            "changed_ns": path.stat().st_mtime_ns,
        }
        for path in _sources(student)
    }


def write_manifest(folder: Path, **facts: Any) -> None:
    """Write ``manifest.json`` into an export's folder. Keys: format, precision, context, parameters, layers, heads,
    width, sources (`describe_sources`), verification (`udrl.export.verification.Verification`), versions.
    """
    data = {"schema": SCHEMA, "udrl": __version__, **facts}
    (folder / MANIFEST).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _sources(student: Path) -> list[Path]:
    return sorted(path for pattern in SOURCES for path in student.glob(pattern))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""``udrl export``: a student in the format of a faster engine, verified before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from udrl.arguments import checked
from udrl.commands import LENGTH
from udrl.data.episodes import read_episodes
from udrl.data.facts import ExportedFacts, ExportFacts
from udrl.data.run import Run
from udrl.errors import MissingDependency, is_installed, unknown
from udrl.export.verification import Answerer, EngineAnswerer, Verification, verify_obedience, verify_tokens
from udrl.files import remove_folder
from udrl.rewards import scored_rewards
from udrl.student.engines.exports import (
    FOLDER,
    Export,
    describe_sources,
    find_export,
    publishing,
    write_manifest,
)
from udrl.student.engines.onnx import OnnxEngine
from udrl.student.student import Student, load_student

if TYPE_CHECKING:
    from udrl.student.answers import Score
    from udrl.student.network import StudentModel

Format = Literal["onnx", "gguf", "ctranslate2"]
Precision = Literal["int8", "fp32"]

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "gguf": ("gguf", "xllamacpp"),
    "ctranslate2": ("ctranslate2",),
}
"""What each format is written and verified with: the extra of its name."""


@dataclass(frozen=True)
class Exported:
    """One export. name: of the engine; bytes: of its files; verification: what was found, see `Verification`."""

    name: str
    folder: Path
    bytes: int
    verification: Verification


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and the engine that answers on CPUs from now on unless another is asked for."""

    exports: tuple[Exported, ...]
    default: str

    @property
    def passed(self) -> bool:
        """Whether one of them passed its verification."""
        return any(one.verification.passed for one in self.exports)


@checked
def export(
    run: Path | str = "runs/default", *, format: Format = "onnx", precision: Precision | None = None, seed: int = 0
) -> ExportReport:
    """Export the run's student into its folder, and verify it on the run's validation inputs.

    format: "onnx" for ONNX Runtime, one of our engines; "gguf" for llama.cpp and what is built on it; "ctranslate2" for
    CTranslate2. precision: "int8", "fp32", or None: int8, and fp32 as well where int8 does not pass. An int8 export
    that does not pass stays for whoever names it, is never chosen by itself, and its manifest says why; a float32 one
    that writes other tokens, near ties aside, is wrong and is taken away. Raises StudentError where there is no
    student, no validation input, or a student that the format cannot hold, before anything is written;
    MissingDependency without the format's packages; UsageError for an unknown format.
    """
    if format not in PACKAGES:
        raise unknown("format", format, tuple(PACKAGES))
    missing = " and ".join(name for name in PACKAGES[format] if not is_installed(name))
    if missing:
        raise MissingDependency(f"the export needs {missing}: pip install 'udrl[{format}]'")

    run_folder = Run(run)
    run_folder.check()
    with run_folder.writing():
        student = load_student(run_folder.path, device="cpu", precision="fp32", engine="torch")
        inputs = _validation_inputs(run_folder, student.tasks)
        made = [_export(run_folder, student, inputs, format, precision or "int8", seed)]
        if precision is None and not made[0].verification.passed:
            made.append(_export(run_folder, student, inputs, format, "fp32", seed))
        report = ExportReport(tuple(made), _default(run_folder.student, asdict(student.sampling)))
        kept = [ExportedFacts(one.name, str(one.folder), one.bytes, asdict(one.verification)) for one in made]
        run_folder.record(ExportFacts(tuple(kept), seed))
        return report


def _export(
    run: Run, student: Student, inputs: Mapping[str, Sequence[str]], format: Format, precision: Precision, seed: int
) -> Exported:
    from udrl.export.gguf import check_gguf
    from udrl.export.parts import exporter_of
    from udrl.student.engines.pytorch import TorchEngine

    assert isinstance(student.computes, TorchEngine)
    model = student.computes.model
    shape = exporter_of(model, f"the student in {run.student}").cache_shape(model.model.config)
    if format == "gguf":
        check_gguf(model, student.tokenizer, quantised=precision == "int8")
    facts: dict[str, Any] = {
        "format": format,
        "precision": precision,
        "context": student.computes.context,
        "parameters": student.parameters,
        "layers": shape.layers,
        "heads": shape.heads,
        "width": shape.heads * shape.size,
        "sources": describe_sources(run.student),
        "versions": {name: version(name) for name in (*PACKAGES[format], "torch")},
    }
    name = f"{format}-{precision}"
    write = {"onnx": _write_onnx, "gguf": _write_gguf, "ctranslate2": _write_ctranslate2}[format]
    with publishing(run.student, name) as folder:
        sides = write(student, model, folder, facts, seed)
        if precision == "int8":
            verification = verify_obedience(student, sides, inputs, _rewards(run, student), seed=seed)
        else:
            verification = verify_tokens(student, sides, inputs, seed=seed)
        write_manifest(
            folder, **facts, verification={**asdict(verification), "seed": seed, "sampling": asdict(student.sampling)}
        )
    final = run.student / FOLDER / name
    size = sum(file.stat().st_size for file in final.iterdir())
    if precision == "fp32" and not verification.passed:
        remove_folder(final)
    return Exported(name, final, size, verification)


def _write_onnx(
    student: Student, model: StudentModel, folder: Path, facts: Mapping[str, Any], seed: int
) -> tuple[EngineAnswerer, Answerer]:
    """Write the export; return the student as it is and as it was exported, both to be asked."""
    from udrl.export.onnx import write_graph

    write_graph(model, folder, quantised=facts["precision"] == "int8")
    other = Student(
        OnnxEngine(Export(folder.name, folder, facts), student.space),
        student.tokenizer,
        name=student.name,
        calibration=student.calibration,
        sampling=student.sampling,
        ends=student.ends,
    )
    return EngineAnswerer(student, seed), EngineAnswerer(other, seed)


def _write_gguf(
    student: Student, model: StudentModel, folder: Path, facts: Mapping[str, Any], seed: int
) -> tuple[EngineAnswerer, Answerer]:
    from udrl.export.gguf import FILE, write_gguf
    from udrl.export.llamacpp import LlamaCppAnswerer

    write_gguf(model, student.tokenizer, folder, name=student.name, quantised=facts["precision"] == "int8")
    plain = _plain(student)
    return EngineAnswerer(plain, seed), LlamaCppAnswerer(plain, folder / FILE)


def _write_ctranslate2(
    student: Student, model: StudentModel, folder: Path, facts: Mapping[str, Any], seed: int
) -> tuple[EngineAnswerer, Answerer]:
    from udrl.export.ctranslate2 import CTranslate2Answerer, write_ctranslate2

    write_ctranslate2(model, student.tokenizer, folder, quantised=facts["precision"] == "int8")
    plain = _plain(student)
    return EngineAnswerer(plain, seed), CTranslate2Answerer(plain, folder)


def _plain(student: Student) -> Student:
    """Return the student as it writes greedily and without rules that other programs lack: they draw otherwise."""

    sampling = replace(student.sampling, temperature=0.0, no_repeat=0, guidance=1.0)
    return Student(student.computes, student.tokenizer, name=student.name, sampling=sampling, ends=student.ends)


def _default(student: Path, sampling: Mapping[str, Any]) -> str:
    """Return which engine answers on CPUs: what `udrl.student.engines.choice` takes."""
    for name in ("onnx-int8", "onnx-fp32"):
        made = find_export(student, name)
        if made and made.verified and made.is_current(student) and made.was_verified_as(sampling):
            return name
    return "torch"


def _validation_inputs(run: Run, tasks: Sequence[str]) -> dict[str, list[str]]:
    inputs: dict[str, dict[str, None]] = {task: {} for task in tasks}
    for episode in read_episodes(run.episodes, splits=("validation",)):
        if episode.task in inputs:
            inputs[episode.task][episode.input] = None
    return {task: list(texts) for task, texts in inputs.items()}


def _rewards(run: Run, student: Student) -> Mapping[str, Score]:
    """Return relevance and those of the student's other rewards that can be computed, as the run was scored."""
    names = dict.fromkeys(("relevance", *(name for name in student.attributes if name != LENGTH)))
    return dict(scored_rewards(run, names))

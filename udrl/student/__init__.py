"""The student: a small causal language model that writes what a command asks for.

tokenizer, packing, gpt2, model   the network and what it reads
examples, loop, training          how it learns
decoding, guidance, wording       how it writes: the loop, commands taken further, required and banned words
student, streaming, calibration   what it writes, whole or as it comes, and what its commands achieve
engines, export, verification     what computes: torch, or an export that was verified against it
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from udrl.student.student import Student


def load(path: Path | str, *, device: str = "auto", precision: str = "auto", engine: str = "auto") -> Student:
    """Load a student from a run folder or a checkpoint folder; see `udrl.student.student.load_student`."""
    from udrl.student.student import load_student

    return load_student(path, device=device, precision=precision, engine=engine)

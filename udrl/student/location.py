"""Where a student is: in a run, in a folder by itself, or among those that ship with udrl."""

from __future__ import annotations

from pathlib import Path

from udrl.commands import FILE
from udrl.resources import folder
from udrl.weights.changes import is_changes, whole


def shipped_students() -> dict[str, Path]:
    """Return the students that ship, by name: folders of changes of a base's weights."""
    students = folder("data") / "students"
    return {path.name: path for path in sorted(students.iterdir()) if is_changes(path)} if students.is_dir() else {}


def student_folder(path: Path | str) -> Path:
    """Return the folder of the student at ``path``, which need not be there: of a run, a checkpoint, or changes.

    A name alone, where there is no such path, is that of a student that ships. Changes are put on top of their base's
    weights: the folder is that of the checkpoint. Raises WeightsError as `udrl.weights.changes.whole` does.
    """
    path = Path(path)
    if not path.exists():
        path = shipped_students().get(str(path), path)
    student = path if (path / FILE).exists() else path / "student"
    return whole(student) if is_changes(student) else student

"""The probe of ``udrl select``: a small student, and how likely it finds every training episode while it learns them.

It trains in udrl's own loop, commanded by what each episode achieved. At equally distant moments every training episode
gets a value: the probability that the probe gives to a token of its completion (end token included), as the geometric
mean exp(-loss), under its own command.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from udrl.data.episode import Episode
from udrl.data.run import Run
from udrl.errors import StudentError
from udrl.files import atomic_write, remove_folder
from udrl.hardware import torch_device, torch_dtype
from udrl.progress import track
from udrl.training.checkpoint import STATE, fingerprint
from udrl.training.options import LoopOptions
from udrl.training.selection.impact import FOLDER, Floats
from udrl.training.starting_point import Learner, Source, begin_or_resume, preset_of

if TYPE_CHECKING:
    import torch

    from udrl.student.network import StudentModel
    from udrl.training.examples import Examples

PARTIAL = ".probe.partial"
"""Folder in the run of a probe that is not finished."""
SAVE_EVERY = 100
"""Steps between the states that an interrupted probe goes on from."""
VALUES = ".probe.npz"
"""Among the selections: the values of the last probe, so that another share costs nothing."""


def probed(
    run: Run,
    episodes: Sequence[Episode],
    *,
    student: str,
    epochs: float,
    steps: int | None,
    moments: int,
    seed: int,
    device: str,
    precision: str,
    restart: bool,
) -> tuple[Floats, int, float]:
    """Train the probe unless its values are there; return them (episodes, moments), its steps and its seconds."""
    from udrl.training.loop import run_loop

    preset = preset_of(student, "auto")
    where, batch = torch_device(device), preset.batch_size
    dtype = torch_dtype(precision, where)
    total = steps or max(moments, round(epochs * len(episodes) / batch))
    rate = preset.learning_rate
    options = LoopOptions(
        steps=total, batch_size=batch, micro_batch=batch, learning_rate=rate, save_every=SAVE_EVERY, seed=seed
    )
    mark = fingerprint(episodes, "probe", student, options, moments, str(dtype))
    done = run.path / FOLDER / VALUES
    if not restart and (saved := _read(done, mark)) is not None:
        return saved[0], total, saved[1]
    partial, source = run.path / PARTIAL, Source(preset, seed=seed)
    learner = begin_or_resume(source, episodes, run.facts(), partial, mark, restart=restart)
    model = learner.model.to(where)
    examples, read = _fitting(episodes, learner, student=student)
    at = [round(total * (k + 1) / moments) for k in range(moments)]
    bar, began = track(f"probe {student}", total=total, unit="steps"), time.perf_counter()
    spent = _seconds(partial)

    def log(step: int, _: Mapping[str, float]) -> None:
        bar.update()
        if step + 1 in at:
            values = likelihoods(model, examples, dtype=dtype)
            seconds = spent + time.perf_counter() - began
            _write(partial / f"{step + 1}.npz", mark=mark, values=values, seconds=seconds)

    try:
        run_loop(model, examples, options, dtype=dtype, state_file=partial / STATE, fingerprint=mark, log=log)
    finally:
        bar.close()
    values_read, seconds = np.full((len(episodes), moments), np.nan), 0.0
    for k, step in enumerate(at):
        column = _read(partial / f"{step}.npz", mark)
        assert column is not None  # written before the loop went on
        values_read[read, k], seconds = column
    _write(done, mark=mark, values=values_read, seconds=seconds)
    remove_folder(partial)
    return values_read, total, seconds


def _fitting(episodes: Sequence[Episode], learner: Learner, *, student: str) -> tuple[Examples, npt.NDArray[np.int64]]:
    """Return the examples that the student can read, and which of ``episodes`` they are."""
    # weights go with their examples, so that they tell which are left
    made = learner.examples(episodes, weights=[float(i) for i in range(len(episodes))])
    if not len(made):
        raise StudentError(
            f"no training episode fits into the {learner.model.context} tokens that {student} reads: name another probe"
        )
    return replace(made, weights=None), np.array(made.weights, dtype=np.int64)


def likelihoods(student: StudentModel, examples: Examples, *, dtype: torch.dtype) -> Floats:
    """Return exp(-mean loss) of each example's completion under its own command, within (0, 1]."""
    from udrl.training.validation import losses_of

    return np.exp(-losses_of(student, examples, dtype=dtype))


def _write(file: Path, **content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    atomic_write(file, buffer.getvalue())


def _read(file: Path, mark: str) -> tuple[Floats, float] | None:
    """Return values and seconds that were written with this fingerprint, None where there are none."""
    if not file.exists():
        return None
    with np.load(file) as saved:
        return (saved["values"], float(saved["seconds"])) if str(saved["mark"]) == mark else None


def _seconds(partial: Path) -> float:
    """Return the seconds that an interrupted probe has taken, as far as they are known."""
    return max((float(np.load(file)["seconds"]) for file in partial.glob("*.npz")), default=0.0)

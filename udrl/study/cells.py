"""Cells of a study: each one condition, computed in a process of its own, whose result is kept in a file.

    FOLDER/cells/NAME-HASH/settings.json   what is to be computed, and by which function
                           made/           what the function leaves, such as the run that it trains in
                           log.txt         what it printed
                           result.json     what it returned: it is there when the cell is finished

HASH is of function and settings, so that a changed cell is another one and nothing that is finished is lost or mixed
up. A cell that was interrupted is called again with the same work folder and can go on from what it left there.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from udrl.data.hashing import hash_hex
from udrl.errors import MissingDependency, StudentError, UdrlError, UsageError, damaged, expect, is_installed
from udrl.files import atomic_write
from udrl.progress import note, track
from udrl.training.checkpoint import STATE

SETTINGS, RESULT, LOG, MADE = "settings.json", "result.json", "log.txt", "made"
PAUSE = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Cell:
    """One condition. Produced by a study, computed here.

    name: for people, unique within the study; letters, digits, dots, underscores, hyphens. work: ``module:function``,
    which takes (folder, settings) and returns what JSON can hold. settings: what JSON can hold; with ``work`` they
    decide whether a result still counts. places: settings that do not, such as paths: a run may be moved.
    """

    name: str
    work: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name of the cell's folder."""
        return f"{self.name}-{hash_hex(self.work, json.dumps(self.settings, sort_keys=True), size=4)}"


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Return where a cell of the study in ``folder`` stands."""
    return folder.absolute() / "cells" / cell.key


def run_cells(folder: Path, cells: Sequence[Cell], *, jobs: int = 1, ray: bool = False) -> dict[str, dict[str, Any]]:
    """Compute what is missing of ``cells`` and return all results by cell name.

    jobs: how many processes at once, which share this machine's cores (and GPUs, one each in turn). ray: as tasks of
    a Ray cluster instead (``RAY_ADDRESS``, else this machine alone), each on as many CPUs as a job here has; the
    cluster's machines must see ``folder``.

    A cell that fails stops none of the others; in the end StudentError names the failed ones with their logs. Raises
    UsageError for jobs under 1 and two cells of one name, MissingDependency where ray is wanted and not installed.
    """
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, found {jobs}")
    if len({cell.name for cell in cells}) < len(cells):
        raise UsageError("two cells of the study have one name")
    folders = {cell.name: cell_folder(folder, cell) for cell in cells}
    missing = [cell for cell in cells if not (folders[cell.name] / RESULT).is_file()]
    for cell in missing:
        (folders[cell.name] / MADE).mkdir(parents=True, exist_ok=True)
        asked = {"work": cell.work, "settings": {**cell.settings, **cell.places}}
        atomic_write(folders[cell.name] / SETTINGS, json.dumps(asked, indent=1))
    if missing:
        todo = [folders[cell.name] for cell in missing]
        done = _over_ray(todo, jobs) if ray else _processes(todo, jobs)
        begun = len(cells) - len(todo)
        with closing(track(f"study {folder.name}", total=len(cells), unit="cells", initial=begun)) as bar:
            for computed, reason in done:
                bar.update(1)
                if reason:
                    note(f"the cell {computed.name} failed ({reason}); the others go on")
    failed = [folders[cell.name] for cell in cells if not (folders[cell.name] / RESULT).is_file()]
    if failed:
        listed = ", ".join(str(path / LOG) for path in failed[:4])
        raise StudentError(
            f"{len(failed)} of {len(cells)} cells of the study failed, see {listed}: correct what stands there and "
            "start the same command again, finished cells are kept"
        )
    return {name: _result(path) for name, path in folders.items()}


def _result(folder: Path) -> dict[str, Any]:
    with damaged(StudentError, folder / RESULT, "remove it, and start the same command again: the cell goes on"):
        return expect(json.loads((folder / RESULT).read_text(encoding="utf-8")), dict, "all of it")


def compute(folder: Path) -> None:
    """Compute the cell in ``folder`` in this process and write its result."""
    asked = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    module, _, function = asked["work"].partition(":")
    result = getattr(importlib.import_module(module), function)(folder / MADE, asked["settings"])
    atomic_write(folder / RESULT, json.dumps(result, indent=1, allow_nan=False))
    (folder / MADE / STATE).unlink(missing_ok=True)  # only now: without a result the cell goes on from it


def threads(jobs: int) -> int:
    """Return how many cores each of so many jobs has."""
    return max(1, (os.cpu_count() or 1) // jobs)


def _processes(folders: Sequence[Path], jobs: int) -> Iterator[tuple[Path, str | None]]:
    """Compute in processes; yield each cell's folder as it ends, with the reason where it failed."""
    waiting, free, running = list(folders), list(range(jobs)), list[tuple[subprocess.Popen[bytes], Path, int]]()
    try:
        while waiting or running:
            while waiting and free:
                folder, slot = waiting.pop(0), free.pop(0)
                running.append((_start(folder, threads(jobs), slot), folder, slot))
            time.sleep(PAUSE)
            for one in [entry for entry in running if entry[0].poll() is not None]:
                process, folder, slot = one
                running.remove(one)
                free.append(slot)
                process.communicate()  # closes the pipe
                yield folder, _reason(folder, process.returncode)
    finally:
        for process, *_ in running:
            process.terminate()
        for process, *_ in running:
            process.communicate()


def _start(folder: Path, cores: int, slot: int = 0) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "TOKENIZERS_PARALLELISM": "false"}
    devices = _devices()
    if len(devices) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    with (folder / LOG).open("ab") as log:
        # The pipe ends when this process does, however it ends: the cell's process then leaves, too.
        return subprocess.Popen(
            [sys.executable, "-m", "udrl.study.cells", str(folder)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
        )  # fmt: skip


def _devices() -> list[str]:
    """Return the GPUs as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(k) for k in range(torch.cuda.device_count())]


def _reason(folder: Path, code: int) -> str | None:
    if code == 0:
        return None
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"


def _over_ray(folders: Sequence[Path], jobs: int) -> Iterator[tuple[Path, str | None]]:
    with _cluster() as ray:
        largest = max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
        cores, gpus = max(1, min(threads(jobs), int(largest))), min(1, ray.cluster_resources().get("GPU", 0))
        task = ray.remote(_remotely).options(num_cpus=cores, num_gpus=gpus)
        waiting = {task.remote(str(folder), cores): folder for folder in folders}
        while waiting:
            for reference in ray.wait(list(waiting))[0]:
                folder = waiting.pop(reference)
                try:
                    reason = ray.get(reference)
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[-1]
                yield folder, reason


def _remotely(folder: str, cores: int) -> str | None:
    """Compute a cell on a worker of the cluster, in a process of its own; return the reason where it failed."""
    process = _start(Path(folder), cores)
    process.wait()
    process.communicate()  # only now: it closes the pipe whose end the process waits for
    return _reason(Path(folder), process.returncode)


@contextmanager
def _cluster() -> Iterator[Any]:
    if not is_installed("ray"):
        raise MissingDependency("studies over a cluster need ray, which is not here: pip install 'ray>=2.49'")
    import ray

    address = os.environ.get("RAY_ADDRESS")
    ours = not ray.is_initialized()
    if ours:
        ray.init(address=address or "local", log_to_driver=False, logging_level="WARNING")
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _leave_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin: Python may not end while a thread holds its lock
    os._exit(1)


def main(folder: Path) -> int:
    """Compute one cell as a process of its own; what goes wrong is the last line that it prints."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        compute(folder)
    except UdrlError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

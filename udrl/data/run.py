"""A run: one folder with everything from synthesis to report. One writer at a time, any number of readers."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from udrl import __version__
from udrl.errors import RunError

SCHEMA = 1
"""Schema of run.json that this version writes, and the newest that it reads."""

DEFAULT = Path("runs/default")

_PACKAGES = ("torch", "transformers", "sentence-transformers", "datasets", "numpy", "pyarrow", "vllm")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_held: dict[Path, int] = {}  # runs that this process is writing, with the depth of nested ``writing()``


class Run:
    """The run folder at ``path``. Making this object touches nothing; ``writing()`` creates the folder."""

    def __init__(self, path: Path | str = DEFAULT) -> None:
        self.path = Path(path)

    @property
    def ledger(self) -> Path:
        """Folder of the raw teacher responses."""
        return self.path / "ledger"

    @property
    def inputs(self) -> Path:
        """Folder of the inputs that were chosen, one file per task and source."""
        return self.path / "inputs"

    @property
    def episodes(self) -> Path:
        """Folder of the episodes with their returns."""
        return self.path / "episodes"

    @property
    def student(self) -> Path:
        """Folder of the student's checkpoint."""
        return self.path / "student"

    def bench(self, name: str) -> Path:
        """Folder of the benchmark ``name``."""
        return self.path / "bench" / name

    def facts(self) -> dict[str, Any]:
        """Return the contents of run.json; raises RunError as ``check`` does."""
        file = self.path / "run.json"
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"there is no run at {self.path}: make one with 'udrl synth --run {self.path}' or name another"
            ) from None
        except NotADirectoryError:
            raise RunError(f"{self.path} is a file, not a run folder: name another with --run") from None
        except (ValueError, OSError) as error:
            raise RunError(f"{file}: cannot be read ({error}): restore it or start a new run") from error
        if not isinstance(data, dict) or type(data.get("schema")) is not int:
            raise RunError(f"{file}: is not the description of a run: restore it or start a new run")
        if data["schema"] > SCHEMA:
            version = data.get("udrl", "a newer version")
            raise RunError(
                f"{self.path}: written by udrl {version} with schema {data['schema']}, this udrl "
                f"{__version__} reads up to schema {SCHEMA}: install udrl {version}"
            )
        return data

    def check(self) -> None:
        """Raise RunError where there is no run at this path, or one that this version cannot read."""
        self.facts()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run for writing; creates the folder and run.json. May be nested within one process.

        The lock is flock's, so it ends with the process however that ends. Raises RunError where another
        process writes this run, the run cannot be read by this version, or the folder holds something that is
        no run.
        """
        key = self.path.absolute()
        if key in _held:
            _held[key] += 1
            try:
                yield
            finally:
                _held[key] -= 1
            return
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(descriptor)
            self._begin()
            _held[key] = 1
            yield
        finally:
            _held.pop(key, None)
            os.close(descriptor)

    def record(self, stage: str, **facts: Any) -> None:
        """Put ``facts`` about ``stage`` into run.json, atomically, with versions, hardware and the time.

        Values are JSON's; what an earlier call said of the same stage is replaced, other stages stay. Must be
        called inside ``writing()``.
        """
        data = self.facts()
        data["udrl"] = __version__
        data["stages"][stage] = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
            "versions": versions(),
            "hardware": hardware(),
        }
        self._write(data)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise RunError(
                f"{self.path} is being written by process {pid}: wait for it, end it, or name another run with --run"
            ) from None
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be locked ({error.strerror}): put the run on a local disk with --run"
            ) from error
        with disk_errors(self.path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())

    def _begin(self) -> None:
        if (self.path / "run.json").exists():
            self.check()
            return
        # Somebody's folder must not become a run: stages replace folders such as 'episodes' as a whole.
        strangers = [p.name for p in self.path.iterdir() if p.name != ".lock" and not p.name.startswith(".run.json.")]
        if strangers:
            raise RunError(
                f"{self.path} is not empty (it holds '{min(strangers)}') and is no run: name a new folder with --run"
            )
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write({"schema": SCHEMA, "udrl": __version__, "created": created, "stages": {}})

    def _write(self, data: dict[str, Any]) -> None:
        atomic_write(self.path / "run.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of udrl, Python and the installed packages that results depend on."""
    found = {"udrl": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return what this machine is: system, processor, cores, and GPUs where torch is already loaded."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), processor)
    gpus: list[str] = []
    torch = sys.modules.get("torch")  # importing it only for this would cost seconds
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": processor, "cores": os.cpu_count(), "gpus": gpus}


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a file so that readers, and a crash at any moment, see either the old contents or the new ones.

    Raises RunError where the disk is full or may not be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only one and missing permission into one clear RunError about ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(
                f"the disk is full while writing {path}: free some space and start the same command again; "
                "everything finished is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise RunError(f"{path} cannot be written ({error.strerror}): name another folder with --run") from error
        raise

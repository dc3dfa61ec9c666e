"""A run: one folder with everything from synthesis to report. One writer at a time, any number of readers."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from udrl import __version__, hardware
from udrl.data.facts import RunFacts, StageFacts
from udrl.data.facts_json import read_facts, written
from udrl.errors import RunError, UsageError, damaged, expect
from udrl.files import atomic_write, disk_errors, finish_replacing, partial_of, replace_folder

SCHEMA = 1
"""Schema of run.json that this version writes, and the newest that it reads."""

DEFAULT = Path("runs/default")

RECORD = "record.json"
"""In a folder that was published: what run.json says of it, and what the call that made it returns, until that ends."""

_PACKAGES = ("torch", "transformers", "sentence-transformers", "datasets", "numpy", "pyarrow", "vllm")
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
        """Folder of the benchmark ``name``; raises UsageError where that cannot be a name."""
        check_name(name, "benchmark")
        return self.path / "bench" / name

    def facts(self) -> RunFacts:
        """Return what run.json says; raises RunError as ``check`` does."""
        return read_facts(self._read(), self.path / "run.json")

    def _read(self) -> dict[str, Any]:
        """Return the contents of run.json as they are."""
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
        schema = data.get("schema") if isinstance(data, dict) else None
        stages = data.get("stages") if isinstance(data, dict) else None
        newer = type(schema) is int and schema > SCHEMA
        whole = isinstance(stages, dict) and all(isinstance(facts, dict) for facts in stages.values())
        if not isinstance(data, dict) or type(schema) is not int or not (newer or whole):
            raise RunError(f"{file}: is not the description of a run: restore it or start a new run")
        if newer:
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
            self._catch_up()
            _held[key] = 1
            yield
        finally:
            _held.pop(key, None)
            os.close(descriptor)

    def record(self, facts: StageFacts) -> None:
        """Put what a stage says into run.json, atomically, with versions, hardware and the time.

        What an earlier call said of the same stage is replaced, other stages stay. Must be called inside
        ``writing()``.
        """
        self._record(facts.stage, written(facts))

    def _record(self, stage: str, facts: Mapping[str, Any]) -> None:
        data = self._read()
        data["udrl"] = __version__
        data["stages"][stage] = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
            "versions": versions(),
            "hardware": hardware.describe(),
        }
        self._write(data)

    def copy_stages(self, source: Run, stages: Iterable[type[StageFacts]], *, anew: bool = False) -> None:
        """Take over what ``source`` says of those of ``stages`` that it has, as it is.

        Makes run.json where there is none. anew: also those that this run has already.
        """
        theirs = source._read()
        data = self._read() if (self.path / "run.json").exists() else {**theirs, "stages": {}}
        for stage in stages:
            if stage.KEY in theirs["stages"] and (anew or stage.KEY not in data["stages"]):
                data["stages"][stage.KEY] = theirs["stages"][stage.KEY]
        self._write(data)

    def publish(self, folder: Path, facts: StageFacts, *, asked: str, report: Mapping[str, Any]) -> None:
        """Put `partial_of` a folder of the run, which is whole, in its place, and record its stage, as one.

        Where a kill comes in between, the next ``writing()`` records it. asked: what tells this call from others;
        report: what it returns. Both are kept for a call that was killed and is repeated (`finished`), until
        ``done``.
        """
        content = {"stage": facts.stage, "asked": asked, "report": report, "facts": written(facts)}
        atomic_write(partial_of(folder) / RECORD, json.dumps(content))
        replace_folder(folder)
        self.record(facts)

    def finished(self, folder: Path, asked: str) -> dict[str, Any] | None:
        """Return the report of the call that published ``folder`` where it asked for the same and never ended."""
        content = _published(folder / RECORD)
        report: dict[str, Any] | None = content["report"] if content and content["asked"] == asked else None
        return report

    def done(self, folder: Path) -> None:
        """Say that the call that published ``folder`` ends here: the same call is then one that begins anew."""
        (folder / RECORD).unlink(missing_ok=True)

    def _catch_up(self) -> None:
        """Finish what a kill came between: a folder that was being replaced, one that is not recorded yet."""
        for old in self.path.glob(".*.old"):
            finish_replacing(old.with_name(old.name.removeprefix(".").removesuffix(".old")))
        for file in sorted(self.path.glob(f"[!.]*/{RECORD}")):
            content = _published(file)
            if content and not content["facts"].items() <= self._read()["stages"].get(content["stage"], {}).items():
                self._record(content["stage"], content["facts"])

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
        ours = (".lock", partial_of(self.path / "run.json").name)
        strangers = [path.name for path in self.path.iterdir() if path.name not in ours]
        if strangers:
            raise RunError(
                f"{self.path} is not empty (it holds '{min(strangers)}') and is no run: name a new folder with --run"
            )
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write({"schema": SCHEMA, "udrl": __version__, "created": created, "stages": {}})

    def _write(self, data: dict[str, Any]) -> None:
        atomic_write(self.path / "run.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def check_name(name: str, what: str) -> None:
    """Raise UsageError where the name that a user gives to ``what`` would lead out of its folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        raise UsageError(
            f"'{name}' is no name for a {what}: use letters, digits, dots, underscores and hyphens, 200 at most"
        )


def _published(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    with damaged(RunError, file, "remove it, and repeat the command that was interrupted"):
        content = expect(json.loads(file.read_text(encoding="utf-8")), dict, "all of it")
        for name, kind in (("stage", str), ("asked", str), ("report", dict), ("facts", dict)):
            expect(content[name], kind, name)
    return content


def versions() -> dict[str, str]:
    """Return the versions of udrl, Python and the installed packages that results depend on."""
    versions = {"udrl": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions

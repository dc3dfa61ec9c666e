"""Replacing files and folders: the old one or the whole new one, whenever a kill comes; nothing is left lying about."""

from __future__ import annotations

import ast
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

import udrl
from udrl import files
from udrl.errors import RunError
from udrl.files import (
    atomic_write,
    copy_folder,
    finish_replacing,
    partial_of,
    remove_folder,
    replacing_file,
    replacing_folder,
    standing,
)

MOVES = {"rename", "renames", "move", "rmtree", "mkstemp", "mkdtemp", "NamedTemporaryFile"}


def moves(module: Path) -> list[str]:
    """Return what in a module renames, replaces or removes files: ``Path.replace`` has one argument, str's has two."""
    calls = [node for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        of_os = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "os"
        if name in MOVES or (name == "replace" and (of_os or (len(call.args) == 1 and not call.keywords))):
            found.append(f"{module.name}:{call.lineno} {name}")
    return found


def test_files_is_the_only_module_that_replaces_or_removes_anything() -> None:
    package = Path(next(iter(udrl.__path__)))
    found = {path.relative_to(package).as_posix(): moves(path) for path in package.rglob("*.py")}
    assert [call.split()[1] for call in found.pop("files.py")].count("replace") == 1
    assert [call for calls in found.values() for call in calls] == []


def made(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "a").write_text(text)
    (folder / "b").mkdir()
    (folder / "b" / "c").write_text(text)
    return folder


def whole(folder: Path) -> str:
    """Return what both files of ``folder`` say: the same."""
    assert {path.name for path in folder.iterdir()} == {"a", "b"}
    text = (folder / "a").read_text()
    assert (folder / "b" / "c").read_text() == text
    return text


def killed_at(moment: int, work: object, *args: object) -> bool:
    """Do ``work`` in a process that is killed before its system call number ``moment``; say whether it got so far."""

    def body() -> None:
        left = moment

        def count(event: str, _: tuple[object, ...]) -> None:
            nonlocal left
            if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "open", "shutil.rmtree"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work(*args)  # type: ignore[operator]
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_the_old_one_or_the_new_one_wherever_a_kill_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    new, moment, seen = made(tmp_path / "source", "new"), 0, set()
    while True:
        home = tmp_path / str(moment)
        home.mkdir()
        folder = made(home / "folder", "old")
        if not killed_at(moment, copy_folder, new, folder):
            break
        seen.add(whole(standing(folder)))
        finish_replacing(folder)
        seen.add(whole(folder))
        copy_folder(new, folder)
        assert whole(folder) == "new"
        assert [path.name for path in home.iterdir()] == ["folder"], "the next writer cleans up"
        moment += 1
    assert moment >= 5
    assert seen == {"old", "new"}


def test_a_folder_is_removed_whole_or_stays_whole(tmp_path: Path) -> None:
    moment, stayed = 0, 0
    while True:
        home = tmp_path / str(moment)
        home.mkdir()
        folder = made(home / "folder", "old")
        if not killed_at(moment, remove_folder, folder):
            break
        if folder.exists():
            stayed += 1
            assert whole(folder) == "old"
        remove_folder(made(folder, "again") if not folder.exists() else folder)
        assert list(home.iterdir()) == []
        moment += 1
    assert moment > stayed >= 1


def test_a_file_is_the_old_one_or_the_new_one_wherever_a_kill_comes(tmp_path: Path) -> None:
    path, moment, seen = tmp_path / "file", 0, set()
    atomic_write(path, "old")
    while killed_at(moment, atomic_write, path, "new"):
        seen.add(path.read_text())
        moment += 1
    assert seen == {"old"}
    assert path.read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_not_taken_for_what_is_written(tmp_path: Path) -> None:
    partial_of(tmp_path / "file").write_text("a long beginning of something")
    atomic_write(tmp_path / "file", "short")
    assert (tmp_path / "file").read_text() == "short"
    made(partial_of(tmp_path / "folder"), "half")
    with replacing_folder(tmp_path / "folder") as folder:
        (folder / "whole").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["file", "folder", "folder/whole"]


def test_writers_of_one_file_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing_file(path) as file:
        other = threading.Thread(target=atomic_write, args=(path, "of the second"))
        other.start()
        file.write(b"of the ")
        other.join(0.3)
        assert other.is_alive()
        file.write(b"first")
    other.join()
    assert path.read_text() == "of the second"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    atomic_write(tmp_path / "file", "old")
    made(tmp_path / "folder", "old")

    def half_a_file() -> None:
        with replacing_file(tmp_path / "file") as file:
            file.write(b"new" * 99_999)
            raise ZeroDivisionError

    def half_a_folder() -> None:
        with replacing_folder(tmp_path / "folder") as folder:
            (folder / "a").touch()
            raise ZeroDivisionError

    for half in (half_a_file, half_a_folder):
        with pytest.raises(ZeroDivisionError):
            half()
    assert (tmp_path / "file").read_text() == "old"
    assert whole(tmp_path / "folder") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_link_gives_way_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere", "old")
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    copy_folder(made(tmp_path / "source", "new"), tmp_path / "folder")
    assert (whole(tmp_path / "folder"), whole(tmp_path / "elsewhere")) == ("new", "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "folder", "source"]


def test_no_file_takes_the_place_of_a_device_a_pipe_or_a_folder(tmp_path: Path) -> None:
    """Run by root, ``--output /dev/null`` would else leave a file there, which fills with all that is thrown away."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "null", "folder"):
        with pytest.raises(RunError, match=f"{name} is a folder, a pipe or a device, which no file may replace"):
            atomic_write(tmp_path / name, "new")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "null", "pipe"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/below cannot be written \(Not a directory\)"):
        atomic_write(tmp_path / "file" / "below", "new")

"""The folder that a training fills, and how it takes the place of an earlier student once it is whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from udrl.data.episodes import Episode

FINGERPRINT = "fingerprint"


def fingerprint(episodes: Sequence[Episode], *parts: object) -> str:
    """Return a hash of what a training depends on: the episodes with their returns, and ``parts``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for episode in episodes:
        digest.update(f"{episode.episode_id}{sorted(episode.returns.items())}".encode())
    return digest.hexdigest()


def clear_other(partial: Path, mark: str, *, restart: bool) -> None:
    """Empty ``partial`` unless an interrupted training of the fingerprint ``mark`` left it, to be gone on with."""
    file = partial / FINGERPRINT
    if restart or not file.exists() or file.read_text() != mark:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)


def publish(partial: Path, folder: Path) -> None:
    """Put the finished student in place of an earlier one."""
    for name in (FINGERPRINT, "training_state.pt", "best.pt"):
        (partial / name).unlink(missing_ok=True)
    shutil.rmtree(partial / "trl", ignore_errors=True)
    old = folder.with_name(".student.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

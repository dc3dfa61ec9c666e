"""The folder that a training fills, and how it takes the place of an earlier student once it is whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from udrl.data.episodes import Episode
from udrl.data.run import atomic_write
from udrl.errors import StudentError
from udrl.training.cost import SPENT

FINGERPRINT = "fingerprint"
STATE = "training_state.pt"
"""What an interrupted training is gone on with from, once steps have been saved."""
WRITTEN_LAST = ("config.json", "generation_config.json", "model*.safetensors*")
"""What is written once training is over, anew after every interruption."""


def fingerprint(episodes: Sequence[Episode], *parts: object) -> str:
    """Return a hash of what a training depends on: the episodes with their returns, and ``parts``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for episode in episodes:
        digest.update(f"{episode.episode_id}{sorted(episode.returns.items())}".encode())
    return digest.hexdigest()


def take_up(partial: Path, folder: Path, mark: str, *, restart: bool) -> bool:
    """Leave in ``partial`` what an interrupted training of the fingerprint ``mark`` did, or nothing; tell which.

    What it did is gone on with. It may be all there is to do, and in ``folder`` already, where the interruption came
    before it was recorded (`clean`). What is begun here is marked by `begun`, once it can be gone on with.

    Raises StudentError where a training of another fingerprint has saved steps there, unless it is to ``restart``.
    """
    if not restart and not partial.exists() and _is(folder, mark):
        folder.rename(partial)
    goes_on = not restart and _is(partial, mark)
    if not goes_on:
        if not restart and (partial / STATE).exists():
            raise StudentError(
                f"{partial} holds a training that was interrupted, with other options or other episodes: repeat the "
                "command that began it to go on, or forget it with --restart"
            )
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    for pattern in WRITTEN_LAST:  # half a config.json keeps the tokenizer from being loaded
        for file in partial.glob(pattern):
            file.unlink()
    return goes_on


def begun(partial: Path, mark: str) -> None:
    """Mark ``partial`` as a training that can be gone on with: all that it starts from has been written."""
    atomic_write(partial / FINGERPRINT, mark)


def _is(place: Path, mark: str) -> bool:
    file = place / FINGERPRINT
    return file.exists() and file.read_text() == mark


def publish(partial: Path, folder: Path) -> None:
    """Put what is finished, such as a student, in place of an earlier one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def clean(folder: Path) -> None:
    """Remove from a published and recorded student what only an interrupted training needs."""
    for name in (FINGERPRINT, SPENT, STATE, "best.pt"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "trl", ignore_errors=True)

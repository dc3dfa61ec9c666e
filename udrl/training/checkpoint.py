"""The folder that a training fills, and how it takes the place of an earlier student once it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from udrl.data.episode import Episode
from udrl.data.facts import TrainFacts
from udrl.data.run import Run
from udrl.errors import StudentError
from udrl.files import atomic_write, remove_folder, standing
from udrl.training.cost import SPENT
from udrl.training.origin import Origin

FINGERPRINT = "fingerprint"
STATE = "training_state.pt"
"""What an interrupted training is gone on with from, once steps have been saved."""
WRITTEN_LAST = ("config.json", "generation_config.json", "model*.safetensors*")
"""What is written once training is over, anew after every interruption."""


def request_of(run: Run, origin: Origin | None, arguments: Mapping[str, object]) -> str:
    """Return a hash of what a call asked for: its arguments, the run's episodes, and the weights it starts from.

    Not those of the run's own student: the call puts another in its place, and is still the same when it is repeated.
    """
    from_itself = origin is not None and origin.folder.resolve() == run.student.resolve()
    digest = hashlib.blake2b(repr((sorted(arguments.items()), origin and not from_itself and origin.weights)).encode())
    for file in sorted(standing(run.episodes).glob("*.parquet")):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def fingerprint(episodes: Sequence[Episode], *parts: object) -> str:
    """Return a hash of what a training depends on: the episodes with their returns, and ``parts``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for episode in episodes:
        digest.update(f"{episode.episode_id}{sorted(episode.returns.items())}".encode())
    return digest.hexdigest()


def take_up(partial: Path, mark: str, *, restart: bool) -> bool:
    """Leave in ``partial`` what an interrupted training of the fingerprint ``mark`` did, or nothing; tell which.

    What it did is gone on with. What is begun here is marked by `begun`, once it can be gone on with.

    Raises StudentError where a training of another fingerprint has saved steps there, unless it is to ``restart``.
    """
    goes_on = not restart and _is(partial, mark)
    if not goes_on:
        if not restart and (partial / STATE).exists():
            raise StudentError(
                f"{partial} holds a training that was interrupted, with other options or other episodes: repeat the "
                "command that began it to go on, or forget it with --restart"
            )
        remove_folder(partial)
        partial.mkdir(parents=True)
    for pattern in WRITTEN_LAST:  # half a config.json keeps the tokenizer from being loaded
        for file in partial.glob(pattern):
            file.unlink()
    return goes_on


def begun(partial: Path, mark: str) -> None:
    """Mark ``partial`` as a training that can be gone on with: all that it starts from has been written."""
    atomic_write(partial / FINGERPRINT, mark)


def _is(folder: Path, mark: str) -> bool:
    file = folder / FINGERPRINT
    return file.exists() and file.read_text() == mark


def is_trained(run: Run) -> bool:
    """Tell whether the run has a student whose training is recorded, for who trains once and never repeats a call.

    What a kill left of that training between its publication and its end is done away with.
    """
    if not run.student.is_dir():
        return False
    with run.writing():  # records what was published
        trained = TrainFacts.KEY in run.facts().stages
        if trained:
            end(run)
    return trained


def end(run: Run) -> None:
    """End a call that published and recorded the run's student: nothing of it has to be gone on with any more."""
    for name in (FINGERPRINT, SPENT, STATE, "best.pt"):
        (run.student / name).unlink(missing_ok=True)
    remove_folder(run.student / "trl")
    run.done(run.student)

"""The weights that a teacher on this machine loads: found as a student's are, and a part of its answers' keys."""

from __future__ import annotations

from pathlib import Path

from udrl.errors import TeacherError, WeightsError
from udrl.teacher.cards import Card
from udrl.weights.sources import Weights, find_here, find_weights


class OwnWeights:
    """The weights of ``card``. revision: the card's, or of a GGUF file, which has none, its hash."""

    def __init__(self, card: Card) -> None:
        """Look for them on this machine; nothing is loaded or downloaded yet. Raises TeacherError for a wrong path."""
        self._card = card
        self._here = self._found(download=False)
        self.revision = card.revision
        if self.is_gguf and self._here is not None:
            self.revision = f"sha256:{self._here.sha256[:16]}"

    @property
    def is_gguf(self) -> bool:
        """Whether they are a GGUF file here, which no other library is to look for."""
        return self._here is not None and self._here.is_gguf

    def folder(self) -> Path:
        """Return the checkpoint, downloaded where it must be, and tell which it is. Raises TeacherError."""
        weights = self._here or self._found(download=True)
        assert weights is not None  # else it has raised
        weights.tell()
        try:
            return weights.folder()
        except WeightsError as error:
            raise TeacherError(f"teacher '{self._card.name}': {error}") from error

    def _found(self, *, download: bool) -> Weights | None:
        card = self._card
        try:
            return (find_weights if download else find_here)(card.model, package=card.package, revision=card.revision)
        except WeightsError as error:
            raise TeacherError(
                f"teacher '{card.name}': {error}, or give a local folder as 'model' in a copy of the card"
            ) from error

"""Relevance: how near a completion is to its input in meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from udrl.encoder import Encoder, load_encoder
from udrl.errors import RewardError


class Relevance:
    """The cosine of the embeddings of input and completion, clipped to [0, 1].

    A real text reaches about .6-.7 with 90-130 words; the input itself reaches 1, unrelated texts .0-.2.
    Short completions are nearer to their input than long ones, so report it together with length.
    """

    name = "relevance"
    needs = (
        "the encoder does not know its script (more than 30 % of its characters are unknown pieces); name an encoder "
        "that does with --encoder, such as sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    )
    low = 0.0
    high = 1.0
    unit = ""

    def __init__(self, encoder: Encoder | None = None) -> None:
        """Score with ``encoder``; None loads all-MiniLM-L6-v2 as it is found."""
        self.encoder: Encoder = encoder if encoder is not None else load_encoder()

    def knows(self, text: str) -> bool:
        """Say whether the encoder knows the script of the input ``text``."""
        return not self.encoder.is_unknown([text])[0]

    def scorable(self, inputs: Sequence[str], completions: Sequence[str]) -> list[bool]:
        """Say for each pair whether the encoder knows the scripts of both: else their cosine says nothing of them."""
        unknown = self.encoder.is_unknown([*inputs, *completions])
        return [bool(known) for known in ~(unknown[: len(inputs)] | unknown[len(inputs) :])]

    def __call__(self, inputs: Sequence[str], completions: Sequence[str]) -> list[float]:
        """Return the relevance of each completion to its input.

        An empty completion scores 0: the encoder gives even that a direction.
        """
        if len(inputs) != len(completions):
            raise RewardError(f"relevance needs pairs: {len(inputs)} inputs, {len(completions)} completions")
        if not inputs:
            return []
        rows = self.encoder.encode([*inputs, *completions])
        cosines = np.einsum("nd,nd->n", rows[: len(inputs)], rows[len(inputs) :])
        scored = np.array([bool(completion.strip()) for completion in completions])
        return [float(value) for value in np.where(scored, np.clip(cosines, 0.0, 1.0), 0.0)]

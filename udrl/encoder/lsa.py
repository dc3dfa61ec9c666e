"""A second encoder that took no part in training: latent semantic analysis of words and character n-grams."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from udrl.arguments import fitting_seed
from udrl.errors import UdrlError


class LsaEncoder:
    """Encodes texts by TF-IDF of words and of character n-grams, projected on the main axes of a corpus.

    It knows no synonyms, but shares no weights, tokenizer or training data with a neural encoder, so that a
    score gamed in one is not gamed in the other (Deerwester et al. 1990). Build one with ``LsaEncoder.fit``.
    """

    precision = "fp32"
    truncated = 0

    def __init__(self, pipeline: Any, *, name: str, revision: str) -> None:
        self._pipeline = pipeline
        self.name = name
        self.revision = revision

    @classmethod
    def fit(cls, texts: Sequence[str], dims: int = 128, seed: int = 0) -> LsaEncoder:
        """Fit on ``texts``: at least three distinct ones; ``dims`` is lowered to what they allow.

        The revision is a hash of the texts, the dimensions and the seed: equal revisions give equal vectors.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import FeatureUnion, Pipeline

        distinct = sorted(set(texts))
        if len(distinct) < 3:
            raise UdrlError(f"the second encoder needs at least 3 distinct texts, got {len(distinct)}")
        digest = hashlib.blake2b(repr((dims, seed)).encode(), digest_size=8)
        for text in distinct:
            digest.update(text.encode("utf-8", "replace") + b"\0")
        common = {"sublinear_tf": True, "max_features": 30_000, "dtype": np.float32}
        counts = FeatureUnion(
            [
                ("words", TfidfVectorizer(token_pattern=r"(?u)[^\W_]+", ngram_range=(1, 2), **common)),
                ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), **common)),
            ]
        )
        rank = min(dims, len(distinct) - 1)
        pipeline = Pipeline(
            [("counts", counts), ("axes", TruncatedSVD(rank, random_state=fitting_seed(seed, bits=32)))]
        )
        pipeline.fit(distinct)
        return cls(pipeline, name=f"lsa-{rank}", revision=digest.hexdigest())

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return unit rows, float32 (n, dims); a text without any known n-gram gets a row of zeros."""
        if not texts:
            return np.zeros((0, self._pipeline["axes"].n_components), dtype=np.float32)
        rows = np.asarray(self._pipeline.transform(list(texts)), dtype=np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit

    def is_truncated(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Say of each text whether only its start was read: of none."""
        return np.zeros(len(texts), dtype=bool)

    def is_unknown(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Say of each text whether its script is unknown: of none, n-grams are of any script."""
        return np.zeros(len(texts), dtype=bool)

"""Training inputs that a benchmark suite asks as well: found by shared words and by meaning.

An input is contaminated where a suite's input

- is the same words (``equal``: case, punctuation and white space do not count), or
- shares a run of NGRAM words with it (``ngram``), or
- has an embedding of cosine SIMILAR or more (``embedding``; with the encoder of the run's relevance).

docs/data.md says why these bounds, and what they find on real inputs. Episodes of a contaminated input are kept, with
``rejected_by`` = ``contaminated``. Inputs of the test split are left alone: no student trains on them, and suites may
take their inputs from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from udrl import resources
from udrl.data.hashing import hash_int
from udrl.data.inputs import read_inputs, split_of
from udrl.encoder import Encoder
from udrl.errors import TaskError, unknown
from udrl.words import folded_words
from udrl.yamlfile import mapping_at, read_mapping

RULE = "contaminated"
"""What stands in ``rejected_by``."""

NGRAM = 8
"""A shared run of so many words makes two inputs one."""

SIMILAR = 0.9
"""Cosine from which two inputs are one."""

BLOCK = 512
"""Inputs that are encoded at a time."""

_SHOWN = 30

How = Literal["equal", "ngram", "embedding"]


@dataclass(frozen=True)
class Match:
    """A training input and the suite's input that it repeats. similarity: their cosine, where it was computed."""

    input: str
    held_out: str
    how: How
    similarity: float | None = None


@dataclass(frozen=True)
class Contamination:
    """What was found. input_ids: of the contaminated inputs. suites: which were looked at; held_out: their inputs.

    inputs: how many distinct training inputs were compared. counts: contaminated ones by how they were found.
    examples: a few of them. similarity: whether embeddings were compared.
    """

    input_ids: frozenset[str] = frozenset()
    suites: tuple[str, ...] = ()
    held_out: int = 0
    inputs: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[Match, ...] = ()
    similarity: bool = False


def suite_inputs(suites: Sequence[str | Path] | None = None) -> dict[str, list[str]]:
    """Return the inputs of benchmark suites by suite: names of those that ship, files, or None for all that ship.

    Of a suite on the run's own test split nothing is returned: its inputs are not trained on by construction. Nor of
    one on recorded outputs or a dataset of the hub: what training has seen is left out when they are benchmarked.
    Raises UsageError for an unknown name, TaskError and InputError for files that cannot be read.
    """
    shipped = _shipped()
    by_suite: dict[str, list[str]] = {}
    for entry in shipped if suites is None else suites:
        text = str(entry)
        if not (isinstance(entry, Path) or text.endswith((".yaml", ".yml")) or "/" in text or text in shipped):
            raise unknown("suite", text, shipped)
        path = shipped.get(text, Path(entry))
        source = mapping_at(read_mapping(path, kind="suite"), "inputs", where=str(path))
        if not {"folder", "file"} & set(source):
            continue
        location = path.parent / str(source.get("folder", source.get("file", "")))
        files = sorted(location.glob("*.jsonl")) if "folder" in source else [location]
        if not files:
            raise TaskError(f"{path}: there are no inputs in {location}: check the path")
        texts = (text for file in files for text in read_inputs(file, field=source.get("field")))
        by_suite[text] = list(dict.fromkeys(texts))
    return by_suite


def lasting_name(suite: str | Path) -> str:
    """Return the name of a suite that ships, else its file's absolute path: right in whatever folder it is read."""
    return str(suite) if str(suite) in _shipped() else str(Path(suite).absolute())


def find_contaminated(
    inputs: Iterable[tuple[str, str]], suites: Mapping[str, Sequence[str]], *, encoder: Encoder | None = None
) -> Contamination:
    """Return which of ``inputs``, pairs of (input id, text), the inputs of ``suites`` hold as well.

    encoder: compares embeddings too; its cache spares the work to whoever encodes the inputs later. None: words only.
    Each distinct input is looked at once; the test split's are not. Memory: 16 bytes an input beside the suites'.
    """
    held_out = list(dict.fromkeys(text for texts in suites.values() for text in texts))
    if not held_out:
        return Contamination(suites=tuple(suites))
    index = _Index(held_out, encoder)
    ids: set[str] = set()
    counts: Counter[str] = Counter()
    examples: list[Match] = []
    compared = 0
    for block in _blocks(inputs):
        compared += len(block)
        for (identity, _), match in zip(block, index.matches([text for _, text in block]), strict=True):
            if match is not None:
                ids.add(identity)
                counts[match.how] += 1
                examples += [match] if len(examples) < _SHOWN else []
    return Contamination(
        frozenset(ids), tuple(suites), len(held_out), compared, dict(counts), tuple(examples), encoder is not None
    )


def _shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(resources.folder("eval").glob("*.yaml"))}


class _Index:
    """The suites' inputs, ready to be compared with."""

    def __init__(self, held_out: Sequence[str], encoder: Encoder | None) -> None:
        self._texts = held_out
        self._encoder = encoder
        self._vectors = None if encoder is None else encoder.encode(held_out)
        self._equal: dict[int, int] = {}
        self._ngrams: dict[int, int] = {}
        for number, text in enumerate(held_out):
            words = folded_words(text)
            self._equal.setdefault(_words_hash(words), number)
            for gram in _ngrams(words):
                self._ngrams.setdefault(gram, number)

    def matches(self, texts: Sequence[str]) -> Iterator[Match | None]:
        """Yield what each of ``texts`` repeats, or None."""
        best, cosine = None, None
        if self._encoder is not None and self._vectors is not None:
            products = self._encoder.encode(texts) @ self._vectors.T
            best = np.argmax(products, axis=1)
            cosine = products[np.arange(len(texts)), best]
        for row, text in enumerate(texts):
            words = folded_words(text)
            number = self._equal.get(_words_hash(words)) if words else None
            if number is not None:
                yield Match(text, self._texts[number], "equal")
                continue
            number = next((self._ngrams[gram] for gram in _ngrams(words) if gram in self._ngrams), None)
            if number is not None:
                yield Match(text, self._texts[number], "ngram")
            elif best is not None and cosine is not None and cosine[row] >= SIMILAR:
                yield Match(text, self._texts[int(best[row])], "embedding", round(float(cosine[row]), 3))
            else:
                yield None


def _blocks(inputs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    seen: set[int] = set()
    block: list[tuple[str, str]] = []
    for identity, text in inputs:
        number = int(identity, 16)
        if number in seen or split_of(identity) == "test":
            continue
        seen.add(number)
        block.append((identity, text))
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _words_hash(words: Sequence[str]) -> int:
    return hash_int("\0".join(words))


def _ngrams(words: Sequence[str]) -> Iterator[int]:
    for start in range(len(words) - NGRAM + 1):
        yield hash(tuple(words[start : start + NGRAM]))

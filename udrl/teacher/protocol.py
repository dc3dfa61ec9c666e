"""The one protocol between synthesis and whatever writes completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """One completion that is wanted. Produced by synthesis, consumed by a teacher.

    ``messages`` is one conversation turn in chat form; ``sampling`` holds what a teacher's card allows (temperature,
    top_p, max_tokens; for the built-in teacher fidelity and words). ``key`` identifies the request in the ledger.
    """

    key: str
    task: str
    input_id: str
    input: str
    messages: tuple[Mapping[str, str], ...]
    sampling: Mapping[str, Any]
    seed: int
    sample: int


@dataclass(frozen=True)
class Reply:
    """What came back for the request with the same ``key``: a completion, or an ``error``; never neither.

    ``started`` is Unix time; ``seconds`` is the time that this request took, ``attempts`` how often it was tried.
    ``error`` begins with its kind and a colon (``timeout: no answer within 300 s``), so that failures can be counted
    by kind. ``teacher`` says who wrote it where one teacher speaks for several (recorded outputs).
    """

    key: str
    completion: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    started: float
    seconds: float
    attempts: int = 1
    error: str | None = None
    teacher: str | None = None


class Teacher(Protocol):
    """Writes completions. ``generate`` takes requests lazily and yields replies as they finish, in any order.

    Making one is cheap: weights are loaded, and processes begun, at the first request.
    """

    @property
    def name(self) -> str:
        """The name that episodes and tables show."""

    @property
    def model(self) -> str:
        """What writes: a model id, a path, or ``builtin``."""

    @property
    def revision(self) -> str | None:
        """The pinned revision of the model, where there is one."""

    @property
    def engine_arguments(self) -> Mapping[str, Any]:
        """Those engine arguments that change what is written; part of every ledger key."""

    @property
    def gpus(self) -> int:
        """How many GPUs of this machine it holds; 0 before it has loaded anything, and where it writes elsewhere."""

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the settings of sample ``index`` of one input; ``seed`` is that sample's own.

        Several samples of one input get different settings on purpose: returns must vary within an input.
        """

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the settings under which this teacher does its best: the benchmark's teacher row."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer every request once, in any order; failures are replies with ``error``, not exceptions."""

    def close(self) -> None:
        """Release what the teacher holds: processes, connections, memory. May be called twice."""

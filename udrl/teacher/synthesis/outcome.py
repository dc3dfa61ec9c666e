"""What a synthesis did, and the two ways in which it ends without being done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from udrl.errors import RunError, TeacherError
from udrl.teacher.synthesis.budget import Estimate


@dataclass(frozen=True)
class SynthReport:
    """What a synthesis did. Produced by ``synth``, shown by the command line.

    teacher: the names of all teachers. inputs: chosen inputs by task; invented: how many of them are invented. exact,
    near: duplicates dropped while choosing. blank, cut: inputs of the file that were empty, or longer than is read.
    given: inputs in the file; left: of these, by all tasks together, above the number that was asked for. missing:
    inputs that a teacher would have to invent first (dry run; ``requests`` counts their completions).
    requests: completions wanted in all; already: of these, answered before this start, already_failed with a failure.
    estimates: what was left for each teacher when this start began.
    written, failed: what this start added; failures: of these, by kind. inventing: requests for new inputs (written,
    failed). prompt_tokens, completion_tokens, seconds: of this start, inventing included.
    stopped: what ended this start before everything was asked: ``interrupted``, or the option with the limit.
    cost: of all starts together, see ``udrl.teacher.synthesis.account``.
    episodes: all of the run's, counted as ``write_episodes`` does; empty after a dry run and an interruption.
    """

    run: Path
    teacher: str
    inputs: Mapping[str, int] = field(default_factory=dict)
    invented: int = 0
    exact: int = 0
    near: int = 0
    blank: int = 0
    cut: int = 0
    given: int | None = None
    left: int = 0
    missing: int = 0
    requests: int = 0
    already: int = 0
    already_failed: int = 0
    estimates: tuple[Estimate, ...] = ()
    written: int = 0
    failed: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    inventing: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    stopped: str | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    episodes: Mapping[str, int] = field(default_factory=dict)
    dry_run: bool = False

    @property
    def kept(self) -> int:
        """How many of the run's episodes no rule rejected."""
        rejected = sum(count for name, count in self.episodes.items() if name.startswith("rejected:"))
        return self.episodes.get("total", 0) - rejected

    @property
    def failure_rate(self) -> float:
        """The share of the wanted completions with an answer that failed, whichever start they failed in."""
        answered = self.already + self.written + self.failed
        return (self.already_failed + self.failed) / answered if answered else 0.0


class NothingLeft(RunError):
    """Every completion of the run was rejected. Its episodes are built all the same: see ``report``."""

    def __init__(self, message: str, report: SynthReport) -> None:
        super().__init__(message)
        self.report = report


class SynthInterrupted(KeyboardInterrupt):
    """Ctrl-C: what was in flight is in the ledger, unless a second one came. ``report`` says what there is."""

    def __init__(self, report: SynthReport) -> None:
        super().__init__()
        self.report = report


class TooManyFailed(TeacherError):
    """More requests failed than is allowed. What was written is kept, and its episodes are built: see ``report``."""

    def __init__(self, message: str, report: SynthReport) -> None:
        super().__init__(message)
        self.report = report

"""What a finish reason says: whether the writer of a completion came to its end, was cut off, or failed.

Servers spell the same thing in many ways, and new ones come. So the reasons that mean *finished* are a closed list: an
unknown reason never passes for a finished completion. Backends, recorded outputs, inventing, the cleaning rules and
the benchmark all ask ``finish_of``; the ledger keeps the server's own word.
"""

from __future__ import annotations

import re
from typing import Literal

Finish = Literal["finished", "unfinished", "failed"]

FINISHED = frozenset(
    "stop stopped eos eos_token eos_id eot end end_of_text end_of_turn end_turn endoftext end_of_sequence "
    "stop_sequence stop_token stop_word stop_string stop_criteria word complete completed done finish finished success "
    "natural normal matched_stop matched_token matched_str".split()
)
"""Reasons, as ``_plain`` writes them, with which a completion is whole. No reason at all (null, absent, empty) means
the same: servers that state none do so for every completion."""

_FAILED = re.compile(
    "err|fail|filter|safety|unsafe|block|guardrail|moderat|refus|recitation|prohibited|spii|toxic|malformed|tool|"
    "function|abort|cancel|interrupt|insufficient|invalid|denied|unavailable"
)
"""Parts of reasons with which there is no completion: an error, a filter, a call of a tool, an end from outside."""


def finish_of(reason: str | None) -> Finish:
    """Return what ``reason`` says of a completion.

    Case, ``-`` for ``_``, and prefixes (``FinishReason.STOP``, ``FINISH_REASON_STOP``) make no difference. Whatever is
    neither known to mean finished nor a failure is ``unfinished``: ``length``, ``max_tokens``, ``MODEL_LENGTH``.
    """
    plain = _plain(reason or "")
    if not plain or plain in FINISHED:
        return "finished"
    return "failed" if _FAILED.search(plain) else "unfinished"


def _plain(reason: str) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s.-]+", "_", reason.strip()).lower()
    return re.sub(r"^(?:finish|stop)_?reason_+", "", words)

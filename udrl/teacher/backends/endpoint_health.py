"""When an endpoint is given up, and which failures are then nobody's but its own.

A failure in the ledger is not asked for again. Where the server is ill, gone or refuses the key, that would be wrong of
all that it failed meanwhile. So such a failure is held back until an answer shows that the server is well; then the
request is asked once more, and only a second failure of it, with the server well again, is recorded. At the end, where
nothing else is left to ask, a short request of our own shows how the server is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from udrl.errors import TeacherError
from udrl.teacher.protocol import Reply, Request

HOPELESS = 64
"""After this many requests in a row have failed for good, the server is given up; what was not asked stays to do."""

PROBE = "probe"
"""Key of the request that shows how the server is; it stands in no ledger."""

_PROBE_TOKENS = 16
_REFUSING = re.compile(r"http (?:3\d\d|40[12457]|410)")
_ABOUT_THE_REQUEST = ("filtered", "http 413", "http 422")


@dataclass(frozen=True)
class Ended:
    """What a request came to. passing: its failure is one that trying again may help."""

    request: Request
    reply: Reply
    passing: bool = False

    @property
    def kind(self) -> str:
        """The kind of the failure; empty for an answer."""
        return (self.reply.error or "").partition(":")[0]

    @property
    def end(self) -> float:
        """When it ended, in Unix time."""
        return self.reply.started + self.reply.seconds


class EndpointHealth:
    """Watches what requests come to, holds back failures that may be the server's own, and gives the server up where
    asking on makes no sense."""

    def __init__(self, server: str) -> None:
        """server: what messages call it."""
        self._server = server
        self._answered = False
        self._failed = 0
        self._held_back: list[Ended] = []
        self._first: dict[str, Reply] = {}  # failures of requests that are asked once more
        self._again: list[Request] = []
        self._given_up: TeacherError | None = None

    @property
    def is_open(self) -> bool:
        """Something is held back, or to be asked once more."""
        return bool(self._held_back or self._again)

    def passed(self, ended: Ended) -> list[Reply]:
        """Return what can be recorded now that ``ended`` is known."""
        if ended.request.key == PROBE:
            return self._probed(ended)
        if not ended.kind:
            self._answered, self._failed = True, 0
            # Only what was asked after a failure shows that the server is well again: when a key is withdrawn, those
            # who were let in before still get their answers.
            return [*self._is_well(since=ended.reply.started), self._whole(ended)]
        if ended.kind in _ABOUT_THE_REQUEST:  # a server that refuses this one is well
            self._failed = 0
            return [self._whole(ended)]
        self._failed += 1
        if not self._answered and (_REFUSING.match(ended.kind) or ended.kind == "unreachable"):
            self._give_up(ended)
        elif self._failed >= HOPELESS:
            self._given_up = self._given_up or TeacherError(
                f"{self._server} has failed {self._failed} requests in a row (last: {ended.reply.error}): see to the "
                "server and start again; what is finished is kept"
            )
        if ended.kind == "answer" and not ended.passing:  # the model's own doing: it would do so again
            return [self._whole(ended)]
        self._held_back.append(ended)
        return []

    def again(self) -> list[Request]:
        """Return, once each, the requests to be asked once more now that the server is well."""
        again, self._again = self._again, []
        return again

    def probe(self) -> Request:
        """Return a short request, asked as one that failed was; its outcome says whether the server is well."""
        failed = self._held_back[0].request
        sampling: Mapping[str, Any] = {**failed.sampling, "max_tokens": _PROBE_TOKENS}
        messages = ({"role": "user", "content": "Write the word: yes"},)
        return replace(failed, key=PROBE, messages=messages, sampling=sampling, seed=0)

    def check(self) -> None:
        """Raise TeacherError where nothing more is to be expected."""
        if self._given_up is not None:
            raise self._given_up

    def _probed(self, ended: Ended) -> list[Reply]:
        if ended.kind and ended.kind not in _ABOUT_THE_REQUEST and (ended.passing or ended.kind != "answer"):
            self._give_up(ended)
            return []
        self._answered = True
        return self._is_well(since=ended.reply.started)

    def _is_well(self, *, since: float) -> list[Reply]:
        """Let go of what failed before ``since``: to be asked once more, or recorded where it was already."""
        before = [failed for failed in self._held_back if failed.end <= since]
        self._held_back = [failed for failed in self._held_back if failed.end > since]
        recorded = []
        for failed in before:
            the_servers = failed.passing or _REFUSING.match(failed.kind) or failed.kind == "http 429"
            if the_servers and failed.request.key not in self._first:
                self._first[failed.request.key] = failed.reply
                self._again.append(failed.request)
            else:
                recorded.append(self._whole(failed))
        return recorded

    def _whole(self, ended: Ended) -> Reply:
        """Return the reply with what an earlier failure of the request took."""
        reply, first = ended.reply, self._first.pop(ended.request.key, None)
        if first is None:
            return reply
        return replace(
            reply,
            started=first.started,
            seconds=round(first.seconds + reply.seconds, 4),
            attempts=first.attempts + reply.attempts,
            prompt_tokens=plus(first.prompt_tokens, reply.prompt_tokens),
            completion_tokens=plus(first.completion_tokens, reply.completion_tokens),
        )

    def _give_up(self, ended: Ended) -> None:
        if ended.kind == "unreachable":
            what = f"cannot be reached ({ended.reply.error}): start the server or correct the address"
        elif _REFUSING.match(ended.kind) or (ended.kind == "http 403" and not self._answered):
            what = (
                f"refuses ({ended.reply.error}): check the address, the key in the environment and that 'model' in the "
                "teacher's card is what the server calls it"
            )
        else:
            left = len(self._held_back) or 1
            what = (
                f"is not well ({ended.reply.error}), {left:,} requests are left unanswered: see to the server and "
                "start again; what is finished is kept"
            )
        self._given_up = self._given_up or TeacherError(f"{self._server} {what}")


def plus(one: int | None, other: int | None) -> int | None:
    """Return the sum of two counts of which either may not be known."""
    return one if other is None else (one or 0) + other

"""When an endpoint is given up, and which failures are then nobody's but its own.

A failure in the ledger is not asked for again. Where the server is gone or refuses the key, that would be wrong of all
that it failed meanwhile: such failures are held back until an answer shows that the server is well.
"""

from __future__ import annotations

from udrl.errors import TeacherError
from udrl.teacher.protocol import Reply

HOPELESS = 64
"""After this many requests in a row have failed for good, the server is given up; what was not asked stays to do."""

_REFUSING = ("http 401", "http 402", "http 404", "http 405")
_ABOUT_THE_REQUEST = ("filtered", "http 413", "http 422")


class Verdict:
    """Watches replies go by, holds back failures that may be the server's own, and gives the server up where asking on
    makes no sense."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._answered = False
        self._failed = 0
        self._held: list[Reply] = []
        self._given_up: TeacherError | None = None

    def passed(self, reply: Reply) -> list[Reply]:
        """Return what can be recorded now that ``reply`` is here."""
        if reply.error is None:
            self._answered, self._failed = True, 0
            # Only what was asked after a failure shows that the server is well again: when a key is withdrawn, those
            # who were let in before still get their answers.
            before = [held for held in self._held if held.started + held.seconds <= reply.started]
            self._held = [held for held in self._held if held.started + held.seconds > reply.started]
            return [*before, reply]
        kind = _kind(reply)
        if kind in _ABOUT_THE_REQUEST:  # a server that refuses this one is well
            self._failed = 0
            return [reply]
        self._failed += 1
        if not self._answered and (kind in _REFUSING or kind == "unreachable"):
            self._give_up(reply)
        elif self._failed >= HOPELESS:
            self._given_up = self._given_up or TeacherError(
                f"{self._base_url} has failed {self._failed} requests in a row (last: {reply.error}): see to the "
                "server and start again; what is finished is kept"
            )
        if reply.prompt_tokens or reply.completion_tokens:  # paid for: recorded whatever comes
            return [reply]
        self._held.append(reply)
        return []

    def check(self) -> None:
        """Raise TeacherError where nothing more is to be expected."""
        if self._given_up is not None:
            raise self._given_up

    def rest(self) -> list[Reply]:
        """Return what is still held back when all is asked; raises TeacherError where the server is gone or refuses."""
        for reply in self._held:
            kind = _kind(reply)
            # 403 is a key without rights, or a filter: after an answer it is taken for the latter.
            if kind in _REFUSING or kind == "unreachable" or (kind == "http 403" and not self._answered):
                self._give_up(reply)
        self.check()
        return self._held

    def _give_up(self, reply: Reply) -> None:
        self._given_up = self._given_up or TeacherError(
            f"{self._base_url} cannot be reached ({reply.error}): start the server or correct it"
            if _kind(reply) == "unreachable"
            else f"{self._base_url} refuses ({reply.error}): check the address, the key in the environment and that "
            "'model' in the teacher's card is what the server calls it"
        )


def _kind(reply: Reply) -> str:
    return (reply.error or "").partition(":")[0]

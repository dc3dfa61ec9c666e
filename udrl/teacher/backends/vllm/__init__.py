"""vLLM's offline engine as a teacher, in a process of its own.

A process gives all its memory back when it ends, and one that crashes takes nothing with it: what is finished is in the
ledger. It has twice as many requests as it writes at once, so that it never waits for the next one. Chat template,
tokenizing and stopping are its business (``udrl.teacher.backends.vllm.engine``); what comes back are texts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import IO, Any

from udrl.errors import MissingDependency, TeacherError, is_installed, suggestion
from udrl.teacher import mixes
from udrl.teacher.backends.completion import Failure, completion_of
from udrl.teacher.backends.own_weights import OwnWeights
from udrl.teacher.backends.vllm import arguments
from udrl.teacher.cards import Card
from udrl.teacher.protocol import Reply, Request

INSTALL = 'pip install "udrl[vllm]"'

NOT_FOR_ENGINES = ("style", "prime")
"""Settings of a request that name how it was made; the engine is not told."""

_SHOWN_LINES = 3
_GATED = ("GatedRepoError",)
_UNREACHABLE = (
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "ConnectionError",
    "ConnectError",
    "HfHubHTTPError",
    "EntryNotFoundError",
)


class VllmTeacher:
    """The model of ``card`` in vLLM, loaded at the first request and kept until ``close``."""

    def __init__(self, card: Card) -> None:
        """Check the engine arguments; raises UsageError for those that do not exist or are not the card's to say."""
        self.name = card.name
        self.model = card.model
        self._weights = OwnWeights(card) if card.package is not None else None
        self.revision = card.revision if self._weights is None else self._weights.revision
        self._card = card
        self._arguments = dict(card.settings.get("vllm", {}))
        arguments.check(self._arguments, where=f"{card.path}: settings: vllm")
        self.engine_arguments: Mapping[str, Any] = {
            **card.output_arguments,
            **arguments.changing_output(self._arguments),
        }
        self._engine: _Process | None = None

    @property
    def gpus(self) -> int:
        """How many GPUs the engine holds."""
        return 0 if self._engine is None else self._engine.gpus

    @property
    def pid(self) -> int | None:
        """The engine's process, while there is one."""
        return None if self._engine is None else self._engine.pid

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the entries of the card's mix in turn."""
        return mixes.sampling(self._card.mix, index, min_words, max_words)

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the first entry of the card's mix."""
        return mixes.careful(self._card.mix, max_words)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for every request, as they finish.

        A prompt that leaves no room for a token is a reply with an error of the kind ``prompt``, one that vLLM
        refuses one of the kind ``request``. Raises MissingDependency where vLLM is not installed, TeacherError where
        the model cannot be loaded, its chat template does not take the conversation, the engine ends, or a setting is
        not one of an engine's. Closing the iterator with
        requests in flight ends the engine.
        """
        todo = iter(requests)
        first = deque(islice(todo, 1))
        if not first:
            return
        engine = self._load()
        flying = 0
        try:
            while True:
                batch = [*first, *islice(todo, engine.window - flying - len(first))]
                first.clear()
                if batch:
                    engine.send([self._order(request) for request in batch])
                    flying += len(batch)
                if not flying:
                    return
                for answer in engine.receive():
                    flying -= 1
                    yield self._reply(answer)
        finally:
            if flying:
                self.close()

    def close(self) -> None:
        """End the engine's process, which gives its memory back."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _load(self) -> _Process:
        if self._engine is None:
            if not is_installed("vllm"):
                raise MissingDependency(
                    f"teacher '{self.name}': vLLM is not installed: {INSTALL} (Linux with a GPU), or ask a server "
                    "with --base-url http://HOST:8000/v1"
                )
            chat, gguf = self._card.chat, self._weights if self._weights and self._weights.is_gguf else None
            self._engine = _Process(
                self._card,
                {
                    "model": str(gguf.folder()) if gguf else self.model,
                    "revision": None if gguf else self.revision,
                    "arguments": self._arguments,
                    "template_arguments": dict(chat.template_arguments),
                    "stop": list(chat.stop),
                },
            )
        return self._engine

    def _order(self, request: Request) -> dict[str, Any]:
        messages = [dict(message) for message in request.messages]
        return {
            "key": request.key,
            "messages": mixes.merged_system(messages) if self._card.chat.merge_system else messages,
            "sampling": engine_sampling(request.sampling, where=str(self._card.path)),
            "seed": request.seed,
        }

    def _reply(self, answer: Mapping[str, Any]) -> Reply:
        error, reason = answer.get("error"), answer.get("finish_reason")
        if "refused_template" in answer:
            raise TeacherError(f"teacher '{self.name}': {answer['refused_template']}")
        completion = None
        if error is None:
            answered = completion_of(answer["completion"], reason, strip_thinking=self._card.chat.strip_thinking)
            completion, error = (None, str(answered)) if isinstance(answered, Failure) else (answered, None)
        return Reply(
            key=answer["key"],
            completion=completion,
            finish_reason=None if error else reason,
            prompt_tokens=answer["prompt_tokens"],
            completion_tokens=answer.get("completion_tokens"),
            started=answer["started"],
            seconds=answer["seconds"],
            error=error,
        )


def engine_sampling(settings: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return what of a request's settings an engine is told; raises TeacherError for one that no engine knows."""
    known = (*mixes.RANGES, "max_tokens")
    for name in settings:
        if name not in known and name not in NOT_FOR_ENGINES:
            raise TeacherError(
                f"{where}: vLLM has no sampling setting '{name}'{suggestion(name, known)}: known are {', '.join(known)}"
            )
    return {name: settings[name] for name in known if name in settings}


class _Process:
    """The engine's process: lists of requests go in by ``send``, lists of answers come out by ``receive``."""

    def __init__(self, card: Card, order: Mapping[str, Any]) -> None:
        """Start it and wait until it has loaded ``order``; raises TeacherError where that fails."""
        self._card = card
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "udrl.teacher.backends.vllm.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is the parent's to handle: what is in flight is finished
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        try:
            self.send(order)
            first = self.receive()
            if "fatal" in first:
                raise TeacherError(self._not_loaded(first["fatal"]))
        except BaseException:
            self.close()
            raise
        self.gpus: int = first["ready"]["gpus"]
        self.window: int = 2 * first["ready"]["seats"]

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def send(self, value: object) -> None:
        """Hand ``value`` over; raises TeacherError where the process has ended."""
        try:
            self._in.write(json.dumps(value).encode() + b"\n")
            self._in.flush()
        except BrokenPipeError:
            raise TeacherError(self._ended()) from None

    def receive(self) -> Any:
        """Wait for what comes next; raises TeacherError where the process has ended."""
        line = self._out.readline()
        if not line.endswith(b"\n"):
            raise TeacherError(self._ended())
        return json.loads(line)

    def close(self) -> None:
        """End the process and its workers, and wait until they are gone. May be called twice."""
        with suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with suppress(BrokenPipeError):
            self._in.close()
        self._out.close()
        self._log.close()

    def _ended(self) -> str:
        code = self._process.wait()
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return (
            f"teacher '{self._card.name}': vLLM's engine ended {how} (its last words: {self._last_words()}): "
            "what is finished is kept, start again to go on, with less memory where it ran out "
            "(--engine-arg gpu_memory_utilization=0.8, max_model_len=2048)"
        )

    def _last_words(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 20_000))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if "Error" in line] or lines
        return " | ".join(line[:300] for line in telling[-_SHOWN_LINES:]) or "none"

    def _not_loaded(self, cause: Mapping[str, Any]) -> str:
        card, said = self._card, cause["said"]
        names = set(cause["names"])
        start = f"teacher '{card.name}': {card.model} cannot be loaded"
        if names.intersection(_GATED) or "gated repo" in cause["text"]:
            return (
                f"{start}, its weights are gated: accept the licence at https://huggingface.co/{card.model}, set "
                "HF_TOKEN to a token of that account, and start again"
            )
        if names.intersection(_UNREACHABLE) or "huggingface.co" in cause["text"]:
            return (
                f"{start}, its weights are not on this machine and the hub does not give them ({said}): check model "
                "and revision in the card and the network, set HF_TOKEN for a private one, or download the weights "
                "and give their folder as 'model' in a copy of the card (udrl init)"
            )
        if "Engine core initialization failed" in cause["text"]:
            said = self._last_words()
        return f"{start} ({said}): correct 'settings: vllm' in the card or --engine-arg; docs/teachers/vllm.md helps"

"""The process that holds vLLM's engine: requests come in on standard input, replies go out on standard output.

One JSON value a line. In: first what to load, then a list of requests a line. Out: first ``ready`` or ``fatal``, then a
list of replies for every step of the engine that finished any. Whatever else this process prints goes to standard
error. It ends when standard input does, which is also what happens when its parent is killed.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from udrl.teacher.backends.conversation import TemplateError, conversation_ids

CPU_CACHE_BYTES = 1 << 30
"""Memory for the cache of keys and values on a CPU: vLLM's own default takes nearly all there is."""

REFUSALS = ("VLLMClientError", "VLLMValidationError", "VLLMUnprocessableEntityError")
"""What vLLM raises for a request that it does not take, in versions where that is no ValueError."""


def main() -> None:
    """Load the engine and answer until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1 << 20, encoding="utf-8")
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        engine = Engine(inbox.get())
    except Exception as error:
        _send(replies, {"fatal": _cause(error)})
        raise
    gc.collect()
    gc.freeze()  # what loading leaves behind stays; looking through it again and again takes time from writing
    _send(replies, {"ready": engine.described()})
    engine.serve(inbox, replies)


class Engine:
    """vLLM's engine, its tokenizer, and what is in flight."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        """order: model, revision, arguments, template_arguments, stop."""
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform

        arguments: dict[str, Any] = {"enable_prefix_caching": True, "disable_log_stats": True}
        if current_platform.is_cpu():
            # A request's own seed together with chunked prefill ends the engine on a CPU.
            arguments |= {"enable_chunked_prefill": False, "kv_cache_memory_bytes": CPU_CACHE_BYTES}
        arguments |= order["arguments"]
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(model=order["model"], revision=order["revision"], **arguments)
        )
        config = self._engine.vllm_config
        self._room: int = config.model_config.max_model_len
        self._seats: int = config.scheduler_config.max_num_seqs
        parallel = config.parallel_config
        self._gpus: int = 0 if current_platform.is_cpu() else parallel.world_size_across_dp
        self._tokenizer: Any = self._engine.get_tokenizer()
        self._template: Mapping[str, Any] = order["template_arguments"]
        vocabulary = self._tokenizer.get_vocab()
        self._stop_ids = [vocabulary[text] for text in order["stop"] if text in vocabulary]
        self._stop = [text for text in order["stop"] if text not in vocabulary]
        self._flying: dict[str, tuple[str, float, float]] = {}
        self._number = 0

    def described(self) -> dict[str, int]:
        """Return how many requests run at once, and how many GPUs are held."""
        return {"seats": self._seats, "gpus": self._gpus}

    def serve(self, inbox: queue.SimpleQueue[Any], replies: IO[str]) -> None:
        """Answer requests as they come, for ever."""
        while True:
            failed = []
            if not self._flying:
                failed += self._add(inbox.get())
            while not inbox.empty():
                failed += self._add(inbox.get())
            if failed:
                _send(replies, failed)
            if self._flying:
                finished = [self._reply(output) for output in self._engine.step() if output.finished]
                if finished:
                    _send(replies, finished)

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Return a conversation as token ids; see ``conversation_ids``."""
        return conversation_ids(self._tokenizer, messages, self._template)

    def _add(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give requests to the engine; return replies for those that it cannot take."""
        failed = []
        for request in requests:
            reply = self._add_one(request)
            if reply is not None:
                failed.append(reply)
        return failed

    def _add_one(self, request: dict[str, Any]) -> dict[str, Any] | None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        started = time.time()
        refused = {"key": request["key"], "started": started, "seconds": 0.0}
        try:
            ids = self.prompt(request["messages"])
        except TemplateError as error:
            return refused | {"refused_template": str(error)}
        refused["prompt_tokens"] = len(ids)
        if not 0 < len(ids) < self._room:
            return refused | {"error": f"prompt: has {len(ids)} tokens, of {self._room} that the model reads"}
        self._number += 1
        try:
            sampling = SamplingParams(
                **request["sampling"],
                seed=request["seed"],
                stop=self._stop,
                stop_token_ids=self._stop_ids,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            self._engine.add_request(str(self._number), {"prompt_token_ids": ids}, sampling)
        except Exception as error:
            if not (isinstance(error, ValueError) or type(error).__name__ in REFUSALS):
                raise
            return refused | {"error": f"request: vLLM does not take it ({_line(error)})"}
        self._flying[str(self._number)] = (request["key"], started, time.monotonic())
        return None

    def _reply(self, output: Any) -> dict[str, Any]:
        key, started, clock = self._flying.pop(output.request_id)
        written = output.outputs[0]
        return {
            "key": key,
            "completion": written.text,
            "finish_reason": written.finish_reason,
            "prompt_tokens": len(output.prompt_token_ids),
            "completion_tokens": len(written.token_ids),
            "started": started,
            "seconds": round(time.monotonic() - clock, 4),
        }


def _read(inbox: queue.SimpleQueue[Any]) -> None:
    for line in sys.stdin.buffer:
        inbox.put(json.loads(line))
    _end()


def _watch_parent(parent: int) -> None:
    # The pipe alone is not enough: a fork of the parent's may hold its other end open.
    while os.getppid() == parent:
        time.sleep(0.5)
    _end()


def _end() -> None:
    """End this process and vLLM's own workers, which are in its group; nothing here needs an orderly end."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _send(replies: IO[str], value: object) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _cause(error: BaseException) -> dict[str, Any]:
    """Return the names of the error and all that caused it, and what the first of them said."""
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    names = [kind.__name__ for one in chain for kind in type(one).__mro__]
    return {"names": names, "said": _line(error), "text": " ".join(str(one) for one in chain)[:4000]}


if __name__ == "__main__":
    main()

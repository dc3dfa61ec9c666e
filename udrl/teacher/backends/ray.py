"""A teacher over a cluster: Ray Data's vLLM processor. Ray schedules, the ledger's keys decide what is still to do.

Ray runs data sets from end to end, so requests are taken ``chunk`` at a time; each chunk is one run of the processor.
Prompts are made from the card on the cluster's CPUs, as the 'vllm' backend makes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

from udrl.errors import MissingDependency, TeacherError, is_installed
from udrl.teacher import mixes
from udrl.teacher.backends.completion import Failure, completion_of
from udrl.teacher.backends.conversation import MERGE, conversation_ids
from udrl.teacher.backends.vllm import arguments, engine_sampling
from udrl.teacher.cards import Card, backend_settings
from udrl.teacher.protocol import Reply, Request

INSTALL = 'pip install "udrl[ray]"'

SETTINGS: Mapping[str, Any] = {
    "address": None,
    "workers": 1,
    "batch_size": 64,
    "chunk": 50_000,
    "gpus_per_worker": True,
}
"""What a card may set under ``settings: ray``; arguments of the engines stand under ``settings: vllm``.

address: of a running cluster (none: RAY_ADDRESS, else Ray on this machine alone). workers: engines, each with its own
copy of the model. batch_size: requests that Ray hands over at once. chunk: requests taken at a time; what a kill can
lose is the part of it that was not yet given back. gpus_per_worker: whether an engine takes GPUs
(tensor_parallel_size of them); false: CPUs.
"""


NEUTRAL: Mapping[str, float] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""vLLM's own defaults. Rows of a table have the same columns: a setting that only some requests have would be null."""


class RayTeacher:
    """The model of ``card`` on a Ray cluster, begun at the first request."""

    gpus = 0

    def __init__(self, card: Card) -> None:
        """Check the settings; raises TaskError or UsageError for those that do not exist."""
        self.name = card.name
        self.model = card.model
        self.revision = card.revision
        self._card = card
        self._settings = backend_settings(card, "ray", SETTINGS)
        self._arguments = dict(card.settings.get("vllm", {}))
        arguments.check(self._arguments, where=f"{card.path}: settings: vllm")
        self.engine_arguments: Mapping[str, Any] = {
            **card.output_arguments,
            **arguments.changing_output(self._arguments),
        }
        self._begun = False

    def sampling(self, index: int, seed: int, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the entries of the card's mix in turn."""
        return mixes.sampling(self._card.mix, index, min_words, max_words)

    def careful(self, min_words: int, max_words: int) -> Mapping[str, Any]:
        """Return the first entry of the card's mix."""
        return mixes.careful(self._card.mix, max_words)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for every request, as the cluster finishes blocks of them.

        What the engine does not take (a prompt that is too long) is a reply with an error of the kind ``request``.
        Raises MissingDependency where ray or vLLM is not installed, TeacherError where the cluster cannot be reached
        or its engines cannot start.
        """
        todo = iter(requests)
        while chunk := list(islice(todo, int(self._settings["chunk"]))):
            yield from self._run(chunk)

    def close(self) -> None:
        """Leave the cluster; one that was begun here ends."""
        if self._begun:
            import ray

            ray.shutdown()
            self._begun = False

    def _begin(self) -> None:
        for package in ("ray", "vllm"):
            if not is_installed(package):
                raise MissingDependency(f"teacher '{self.name}': {package} is not installed: {INSTALL}")
        import ray

        if self._begun or ray.is_initialized():
            return
        address = self._settings["address"] or os.environ.get("RAY_ADDRESS")
        # Ray only counts CPUs: where engines take all of them, the steps before them wait for ever.
        room = {} if address else {"num_cpus": max(os.cpu_count() or 1, 2 * int(self._settings["workers"]) + 4)}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="WARNING", **room)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise TeacherError(
                f"teacher '{self.name}': no Ray cluster can be reached ({error}): start one with 'ray start --head', "
                "or correct 'address' under settings: ray in the card, or RAY_ADDRESS"
            ) from error
        self._begun = True

    def _processor(self) -> Any:
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        chat, settings = self._card.chat, self._settings
        engine: dict[str, Any] = {"enable_prefix_caching": True, **self._arguments}
        if self.revision is not None:
            engine["revision"] = self.revision
        workers = int(settings["workers"])
        placed: dict[str, Any] = {}
        if not settings["gpus_per_worker"]:
            engine = {"distributed_executor_backend": "mp", "enable_chunked_prefill": False, **engine}
            placed["placement_group_config"] = {"bundles": [{"CPU": 1}]}
        if "log_engine_metrics" in vLLMEngineProcessorConfig.model_fields:
            placed["log_engine_metrics"] = False  # vLLM's metrics for Ray need Ray Serve, which ray[data] is without
        config = vLLMEngineProcessorConfig(
            model_source=self.model,
            engine_kwargs=engine,
            batch_size=int(settings["batch_size"]),
            concurrency=(workers, workers),
            should_continue_on_error=True,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            runtime_env={"env_vars": {name: os.environ[name] for name in _TRAVELLING if name in os.environ}},
            **placed,
        )
        model, revision, tokenizer = self.model, self.revision, self._arguments.get("tokenizer")
        template, stop = dict(chat.template_arguments), list(chat.stop)

        def prepare(row: dict[str, Any]) -> dict[str, Any]:
            import json

            order = json.loads(row["order"])
            ids, stop_ids, stop_texts = prompt(tokenizer or model, revision, order["messages"], template, stop)
            order["sampling"] = {**NEUTRAL, **order["sampling"]}
            order["sampling"] |= {"stop": stop_texts, "stop_token_ids": stop_ids}
            return {"key": row["key"], "prompt": "", "tokenized_prompt": ids, "sampling_params": order["sampling"]}

        return build_processor(config, preprocess=prepare)

    def _run(self, chunk: list[Request]) -> Iterator[Reply]:
        self._begin()
        import ray

        # Ray does not pass on why a completion ended: at its limit of tokens, or by itself.
        limits = {request.key: int(request.sampling["max_tokens"]) for request in chunk}
        rows = [{"key": request.key, "order": self._order(request)} for request in chunk]
        workers, batch = int(self._settings["workers"]), int(self._settings["batch_size"])
        # A block is what one engine gets, and gives back, at once.
        data = ray.data.from_items(rows, override_num_blocks=max(workers, -(-len(rows) // batch)))
        began = time.time()
        try:
            for row in self._processor()(data).iter_rows():
                yield self._reply(row, began, limits[row["key"]])
        except ray.exceptions.RayError as error:
            text = " ".join(str(error).split())
            if MERGE in text:  # raised on the cluster, see TemplateError
                said = text.rpartition("the model's chat template")[2].partition(MERGE)[0]
                raise TeacherError(f"teacher '{self.name}': the model's chat template{said}{MERGE}") from error
            raise TeacherError(
                f"teacher '{self.name}': Ray could not finish ({text[-600:]}): see its dashboard or ray status; what "
                "is finished is kept, start again to go on"
            ) from error

    def _order(self, request: Request) -> str:
        import json

        messages = [dict(message) for message in request.messages]
        sampling = engine_sampling(request.sampling, where=str(self._card.path)) | {"seed": request.seed}
        merged = mixes.merged_system(messages) if self._card.chat.merge_system else messages
        return json.dumps({"messages": merged, "sampling": sampling})

    def _reply(self, row: Mapping[str, Any], began: float, limit: int) -> Reply:
        error = row.get("__inference_error__") or None
        error = f"request: {' '.join(str(error).split())[:300]}" if error else None
        seconds = float(row["time_taken_llm"] or 0) if not error else 0.0
        written = None if error else int(row["num_generated_tokens"])
        reason = None if written is None else "length" if written >= limit else "stop"
        text = None
        if error is None:
            strip = self._card.chat.strip_thinking
            completion = completion_of(str(row["generated_text"]), reason, strip_thinking=strip)
            text, error = (None, str(completion)) if isinstance(completion, Failure) else (completion, None)
        return Reply(
            key=row["key"],
            completion=text,
            finish_reason=None if error else reason,
            prompt_tokens=None if written is None else int(row["num_input_tokens"]),
            completion_tokens=written,
            started=began,
            seconds=round(seconds, 4),
            error=error,
        )


_TRAVELLING = (
    "HF_TOKEN",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "TORCHDYNAMO_DISABLE",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_NO_USAGE_STATS",
)


def prompt(
    model: str, revision: str | None, messages: list[dict[str, str]], template: Mapping[str, Any], stop: list[str]
) -> tuple[list[int], list[int], list[str]]:
    """Return a conversation as token ids, and ``stop`` as token ids and as the texts that are none."""
    tokenizer = _tokenizer(model, revision)
    vocabulary = tokenizer.get_vocab()
    stop_ids = [vocabulary[text] for text in stop if text in vocabulary]
    texts = [text for text in stop if text not in vocabulary]
    return conversation_ids(tokenizer, messages, template), stop_ids, texts


@cache
def _tokenizer(model: str, revision: str | None) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=False)

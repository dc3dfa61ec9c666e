"""A student as a model of lm-evaluation-harness: ``python -m udrl.eval.harness run --model udrl --model_args ...``.

The harness knows texts only, and a student is asked by more than text: the ids of its task and command stand between
input and completion. Here the harness's context is the input, what it scores or lets be written is the completion, and
task and command are said once, in ``--model_args`` (`AskedStudent`). The harness's own ``--model hf`` loads a student,
too, as a plain language model that is never told its task.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from udrl.architecture.packing import pack
from udrl.commands import Command
from udrl.decoding.loop import decode_requests
from udrl.decoding.requests import Request
from udrl.decoding.sampling import Sampling
from udrl.errors import MissingDependency, StudentError, UdrlError, UsageError, is_installed
from udrl.progress import note, track
from udrl.student.engines.pytorch import TorchEngine
from udrl.student.prompts import random_streams
from udrl.student.student import Student, load_student
from udrl.tokenizer import decode, encode

BATCH = 32
UNSAID = "cuda:0"
"""What the harness's command line passes on where no device was named."""


class AskedStudent:
    """What the harness asks of a student, in plain types; `register` gives it the harness's own."""

    def __init__(
        self,
        pretrained: Path | str,
        *,
        task: str | None = None,
        batch_size: int = BATCH,
        device: str = "auto",
        precision: str = "auto",
        **targets: float,
    ) -> None:
        """Load the student of a run or a checkpoint folder.

        task: what every context is the input of (None: the only task that the student knows). targets: what is
        commanded, by attribute; the others are open. Raises UsageError for a task or attribute that it does not know.
        """
        self.student: Student = load_student(pretrained, device=device, precision=precision, engine="torch")
        assert isinstance(self.student.computes, TorchEngine)  # exports give no likelihoods of whole texts
        self.engine = self.student.computes
        if task is None and len(self.student.tasks) != 1:
            raise UsageError(
                f"the student of {pretrained} knows {len(self.student.tasks)} tasks: add task=NAME to --model_args, "
                f"one of {', '.join(self.student.tasks)}"
            )
        self.task = task or self.student.tasks[0]
        command = Command(self.task, {n: float(v) for n, v in targets.items()})
        [(self.control, _)] = self.student.rendered([command])
        self.open = self.student.space.render(self.task, {})
        self.batch_size = batch_size

    @torch.inference_mode()
    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each completion for its context, and whether it is what greedy writes.

        White space around both is left out, and the end is not scored. Probabilities are those over text: control ids
        have none.
        """
        contexts = encode(self.student.tokenizer, [context.strip() for context, _ in pairs])
        completions = encode(self.student.tokenizer, [completion.strip() for _, completion in pairs])
        prompts, _ = self._prompts(contexts, [len(c) for c in completions])
        order = np.argsort([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)], kind="stable").tolist()
        by_index: dict[int, tuple[float, bool]] = {}
        bar = track("likelihoods", total=len(pairs), unit="completions")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = pack([prompts[i] for i in rows], [completions[i] for i in rows])
            batch = batch.to(self.engine.model.rows.weight.device)
            logits = self.engine.model.logits(batch, dtype=self.engine.dtype)
            chosen = logits.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0].double().cpu().numpy()
            sequence, greedy = batch.sequence.cpu().numpy(), (logits.argmax(-1) == batch.labels).cpu().numpy()
            sums, misses = np.bincount(sequence, chosen), np.bincount(sequence, ~greedy)
            by_index |= {i: (float(sums[row]), not misses[row]) for row, i in enumerate(rows)}
            bar.update(len(rows))
        bar.close()
        return [by_index[i] for i in range(len(pairs))]

    def completions(self, contexts: Sequence[str], *, sampling: Sampling, until: Sequence[str] = ()) -> list[str]:
        """Write a completion for each context, ended by the student, at ``max_tokens``, or before one of ``until``."""
        inputs = encode(self.student.tokenizer, [context.strip() for context in contexts])
        half = self.engine.context // 2
        prompts, opened = self._prompts(inputs, [min(sampling.max_tokens or half, half)] * len(inputs))
        limits = [min(sampling.max_tokens or half, self.engine.context - len(p)) for p in prompts]
        streams = random_streams(prompts, 0)
        bar = track("completions", total=len(prompts), unit="completions")
        requests = [
            Request(prompt, stream, sampling, limit, self.student.ends, unasked)
            for prompt, stream, limit, unasked in zip(prompts, streams, limits, opened, strict=True)
        ]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        by_index: dict[int, str] = {}
        for step in decode_requests(self.engine, [requests[i] for i in order], most=self.batch_size):
            if (one := step.decoded) is not None:
                text = decode(self.student.tokenizer, one.ids)
                text = text if one.stopped else text.rstrip("\ufffd")  # a character cut in the middle
                ends = [text.index(stop) for stop in until if stop and stop in text]
                by_index[order[step.handle]] = text[: min(ends, default=None)]
                bar.update(1)
        bar.close()
        return [by_index[i] for i in range(len(prompts))]

    def _prompts(
        self, inputs: Sequence[Sequence[int]], written: Sequence[int]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Return a prompt for each input that leaves room for so many ids, and the same with nothing commanded.

        Where the context is short, the input's beginning is left out, with a warning: the question stands at the end.
        """
        rooms = [self.engine.context - len(self.control) - count for count in written]
        if min(rooms, default=0) < 0:
            raise StudentError(
                f"a completion of {max(written)} tokens does not fit into the student's context of "
                f"{self.engine.context}: leave this task out, or train a student with a longer context"
            )
        cut = sum(len(ids) > room for ids, room in zip(inputs, rooms, strict=True))
        if cut:
            warnings.warn(
                f"{cut} of {len(inputs)} contexts are longer than the student's context of {self.engine.context} "
                "tokens allows: their beginnings are not read (fewer --num_fewshot examples make them shorter)",
                stacklevel=3,
            )
        fitted = [ids[max(0, len(ids) - room) :] for ids, room in zip(inputs, rooms, strict=True)]
        space = self.student.space
        return [space.prompt(i, self.control) for i in fitted], [space.prompt(i, self.open) for i in fitted]


def sampling_of(student: Student, asked: Mapping[str, Any]) -> Sampling:
    """Return how to write what the harness ``asked`` for in its normalised terms.

    Temperature, nucleus and length are the task's; guidance and what is not to be repeated are the student's own.
    """
    return replace(
        student.sampling,
        temperature=float(asked.get("temperature") or 0.0),
        top_p=float(asked.get("top_p", 1.0)),
        max_tokens=int(asked["max_gen_toks"]),
    )


def register() -> None:
    """Make ``udrl`` a model of the installed harness; MissingDependency where there is none."""
    if not is_installed("lm_eval"):
        raise MissingDependency("lm-evaluation-harness is not installed: pip install 'udrl[lm-eval]'")
    from lm_eval.api.model import LM
    from lm_eval.api.registry import model_registry, register_model
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    if "udrl" in model_registry:
        return

    @register_model("udrl")
    class HarnessStudent(LM):  # type: ignore[misc]
        """A student; ``--model_args`` are the arguments of `AskedStudent`."""

        def __init__(self, batch_size: int | str = BATCH, max_batch_size: object = None, **arguments: Any) -> None:
            super().__init__()
            size = int(batch_size) if str(batch_size).isdigit() else BATCH  # "auto" is for those who must search
            if arguments.get("device") == UNSAID and not torch.cuda.is_available():
                note(f"there is no {UNSAID}, the harness's own choice where --device is left out: the CPU computes")
                arguments["device"] = "cpu"
            self.asked = AskedStudent(**{**arguments, "batch_size": size})

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return self.asked.likelihoods([request.args for request in requests])

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            raise StudentError(
                "a student writes completions for inputs and gives no likelihood of a text that stands alone: leave "
                "perplexity tasks out, or use --model hf"
            )

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            alike: dict[str, list[int]] = defaultdict(list)
            for index, request in enumerate(requests):
                alike[json.dumps(request.args[1], sort_keys=True)].append(index)
            by_index: dict[int, str] = {}
            for indices in alike.values():
                asked = normalize_gen_kwargs(requests[indices[0]].args[1])
                texts = self.asked.completions(
                    [requests[index].args[0] for index in indices],
                    sampling=sampling_of(self.asked.student, asked),
                    until=handle_stop_sequences(asked.get("until"), eos=None),
                )
                by_index |= dict(zip(indices, texts, strict=True))
            return [by_index[index] for index in range(len(requests))]


def main() -> None:
    """Run the harness's own command line, with ``--model udrl`` known to it."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except UdrlError as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()

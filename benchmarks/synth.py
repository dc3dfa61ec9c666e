"""The vllm backend beside one call of vLLM's own ``LLM.generate``: same model, same engine arguments, same requests.

    make bench-vllm        or        .venv-vllm/bin/python benchmarks/synth.py [--requests 600] [--seats 64] [--pairs 9]

The model is the tiny Llama of the tests on a CPU, so what is measured is what the backend adds to a step of the engine
(chat template, JSON, a pipe, feeding): with a real model a step takes longer and the difference is less. LLM.generate
gets all prompts at once as ready-made texts, the backend gets messages and an iterator. The two take turns, the other
engine idle; printed is the ratio of their written tokens per second, the median over the pairs with a bootstrap 95 %
interval, the same ratio by processor time (engine and all; what other work on the machine hardly moves), and the share
of texts that are the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "vllm"))

# Set before vLLM is imported; the backend's engine takes them over.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}

from udrl.errors import is_installed  # noqa: E402 - after the environment
from udrl.teacher.backends.vllm import VllmTeacher  # noqa: E402
from udrl.teacher.cards import load_card  # noqa: E402
from udrl.teacher.protocol import Request  # noqa: E402

MAX_TOKENS = 96


def make_requests(count: int) -> list[Request]:
    """Return requests that share the beginning of their prompts, as those of a task do."""
    said = "Write a short and vivid text about the sea, the sky, a town, and what people do there. " * 4
    return [
        Request(
            key=f"{number:032x}",
            task="search-query",
            input_id="0" * 16,
            input=f"subject {number}",
            messages=({"role": "user", "content": f"{said}\n\nIdea: subject {number}"},),
            sampling={"temperature": 1.0, "top_p": 0.95, "max_tokens": MAX_TOKENS},
            seed=number,
            sample=0,
        )
        for number in range(count)
    ]


def ours(teacher: VllmTeacher, requests: Sequence[Request]) -> tuple[int, dict[str, str]]:
    """Return how many tokens udrl's backend writes, and its texts by key."""
    replies = list(teacher.generate(requests))
    failed = [reply.error for reply in replies if reply.error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed, the first: {failed[0]}")
    return sum(reply.completion_tokens or 0 for reply in replies), {
        reply.key: reply.completion or "" for reply in replies
    }


def bare(model: Any, requests: Sequence[Request], prompts: Sequence[str]) -> tuple[int, dict[str, str]]:
    """Return the same of one call of ``LLM.generate``."""
    from vllm import SamplingParams

    settings = [SamplingParams(**request.sampling, seed=request.seed) for request in requests]
    written = [one.outputs[0] for one in model.generate(list(prompts), settings, use_tqdm=False)]
    texts = {request.key: output.text for request, output in zip(requests, written, strict=True)}
    return sum(len(output.token_ids) for output in written), texts


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of the median of ``values``."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[49], medians[1949]


def spent(teacher: VllmTeacher) -> float:
    """Return the seconds of processor time of this process and the backend's engine; one of the engines is idle."""
    import psutil

    engine = psutil.Process(teacher.pid).cpu_times() if teacher.pid is not None else None
    return time.process_time() + (engine.user + engine.system if engine is not None else 0.0)


def processor() -> str:
    """Return the name of this machine's processor, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure and print two lines: where, and what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=600, help="a turn")
    parser.add_argument("--seats", type=int, default=64, help="completions written at once (max_num_seqs)")
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    if not is_installed("vllm"):
        raise SystemExit("vLLM is not installed here: make bench-vllm runs this in the environment of make test-vllm")
    import vllm
    from tiny import ENGINE, build_model, card_file

    engine = ENGINE | {"max_num_seqs": options.seats, "enable_chunked_prefill": False, "enable_prefix_caching": True}
    requests = make_requests(options.requests)
    speeds: dict[str, list[float]] = {"ours": [], "bare": []}
    thrift: dict[str, list[float]] = {"ours": [], "bare": []}
    same = []
    with TemporaryDirectory() as folder:
        path = build_model(Path(folder) / "model")
        teacher = VllmTeacher(load_card(card_file(Path(folder), path, settings={"vllm": engine})))
        model = vllm.LLM(model=str(path), disable_log_stats=True, **engine)
        tokenizer = model.get_tokenizer()
        prompts = [
            tokenizer.apply_chat_template(list(request.messages), tokenize=False, add_generation_prompt=True)
            for request in requests
        ]
        try:
            for turn in range(options.pairs + 1):  # the first turn loads and warms up
                texts = {}
                for name in ("ours", "bare") if turn % 2 else ("bare", "ours"):
                    started, used = time.perf_counter(), spent(teacher)
                    tokens, texts[name] = ours(teacher, requests) if name == "ours" else bare(model, requests, prompts)
                    if turn:
                        speeds[name].append(tokens / (time.perf_counter() - started))
                        thrift[name].append(tokens / (spent(teacher) - used))
                same.append(statistics.mean(texts["ours"][key] == text for key, text in texts["bare"].items()))
        finally:
            teacher.close()
    ratios, frugal = (
        [one / two for one, two in zip(kind["ours"], kind["bare"], strict=True)] for kind in (speeds, thrift)
    )
    (low, high), (least, most) = interval(ratios), interval(frugal)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}; vLLM {vllm.__version__}, float32")
    mine, other = (statistics.median(speeds[name]) for name in ("ours", "bare"))
    print(
        f"{options.requests} requests, {options.seats} at once: udrl {mine:,.0f} tokens/s, "
        f"LLM.generate {other:,.0f}, ratio {statistics.median(ratios):.3f} "
        f"[{low:.3f}, {high:.3f}] over {options.pairs} pairs (lowest {min(ratios):.3f}, highest {max(ratios):.3f}); by "
        f"processor time {statistics.median(frugal):.3f} [{least:.3f}, {most:.3f}]; "
        f"{statistics.mean(same):.1%} of the texts are the same"
    )


if __name__ == "__main__":
    main()

"""How much `udrl serve` answers, and how fast, beside the Python call.

    python benchmarks/serve.py --run runs/demo [--clients 1 8 32] [--requests 20] [--engine auto] [--length 30]

Starts the server on the run's student in a process of its own. One request after the other is asked of it and of the
loaded student in this process, by turns: p50 and p95 of both. Then as many clients as are told ask at once, each one
request after the other, with different inputs and seeds; throughput counts completion tokens. A burst before each
measurement is not counted. The first line names the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

import udrl
from udrl.commands import Command
from udrl.data.episodes import read_episodes
from udrl.hardware import describe_in_line
from udrl.student.student import Student

PATH = "/v1/completions"


@contextmanager
def serving(options: argparse.Namespace) -> Iterator[str]:
    """Run the server; give its address."""
    command = [sys.executable, "-m", "udrl", "serve", "--student", f"student={options.run}", "--port", "0", "--json"]
    started = time.monotonic()
    with subprocess.Popen(
        [*command, "--engine", options.engine], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        print(f"ready after {time.monotonic() - started:.2f} s")
        yield url
        process.terminate()


def p(times: Sequence[float], percent: int) -> str:
    """Return a percentile of seconds, in milliseconds."""
    return f"{1000 * statistics.quantiles(times, n=100, method='inclusive')[percent - 1]:.1f} ms"


def alone(url: str, student: Student, bodies: Sequence[dict[str, Any]]) -> None:
    """Print how long one request takes, and one call."""
    by_server, by_call = [], []
    with httpx2.Client(base_url=url, timeout=120) as client:
        for turn, body in enumerate(bodies):
            begun = time.perf_counter()
            answer = client.post(PATH, json=body)
            asked = time.perf_counter()
            targets = {"length": float(body["length"])}
            [one] = student.generate(
                [body["prompt"]], [Command(body["task"], targets)], seeds=[body["seed"]], warn=False
            )
            if turn >= len(bodies) // 5:
                by_server.append(asked - begun)
                by_call.append(time.perf_counter() - asked)
            assert answer.status_code == 200, answer.text
            if student.precision == "fp32":
                assert answer.json()["choices"][0]["text"] == one.completion
    print(
        f"alone: server p50 {p(by_server, 50)}, p95 {p(by_server, 95)}; call p50 {p(by_call, 50)}, p95 {p(by_call, 95)}"
    )


async def together(url: str, clients: int, bodies: Sequence[dict[str, Any]]) -> None:
    """Print what ``clients`` at once get."""
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

        async def ask(own: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
            made = []
            for body in own:
                begun = time.perf_counter()
                answer = await client.post(PATH, json=body)
                assert answer.status_code == 200, answer.text
                made.append((time.perf_counter() - begun, answer.json()["usage"]["completion_tokens"]))
            return made

        await asyncio.gather(*(ask([bodies[k % len(bodies)]]) for k in range(clients)))
        begun = time.perf_counter()
        done = await asyncio.gather(*(ask(bodies[k::clients]) for k in range(clients)))
        seconds = time.perf_counter() - begun
    times = [one for own in done for one, _ in own]
    tokens = sum(count for own in done for _, count in own)
    print(
        f"{clients:3} clients: {tokens / seconds:7.0f} tokens/s, {len(times) / seconds:6.1f} requests/s, "
        f"p50 {p(times, 50)}, p95 {p(times, 95)}"
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=20, help="of each client")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--length", type=int, default=30)
    options = parser.parse_args()
    print(describe_in_line())
    student = udrl.load(options.run, engine=options.engine)
    task = student.tasks[0]
    texts = [one.input for one in read_episodes(options.run / "episodes", splits=("test",)) if one.task == task]
    most = max(options.clients) * options.requests
    bodies = [{"prompt": texts[k % len(texts)], "task": task, "length": options.length, "seed": k} for k in range(most)]
    print(f"{student.engine} {student.precision}, {student.parameters:,} parameters, {options.length} words commanded")
    with serving(options) as url:
        alone(url, student, bodies[: 5 * options.requests])
        for clients in options.clients:
            asyncio.run(together(url, clients, bodies[: clients * options.requests]))


if __name__ == "__main__":
    main()

"""The openai backend beside a bare asynchronous client: same library, same requests, as many at once.

    python benchmarks/endpoint.py [--requests 800] [--concurrency 32] [--latency 0.4] [--pairs 9]

A deterministic server in a process of its own answers each request after --latency seconds, give or take half of it.
The bare client posts ready-made bodies and reads the text of each answer, nothing else: no retries, no checks, no
congestion control; the backend begins each turn with 8 at once, as always. The two take turns; printed is the ratio of
their requests per second, the median over the pairs with a bootstrap 95 % interval, and the processor time of both.
Where --latency is too short for the processor to keep --concurrency requests in flight, the ratio is that of these.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from udrl.teacher.backends.openai import OpenAITeacher
from udrl.teacher.cards import load_card
from udrl.teacher.protocol import Request

CARD = """
schema: 1
name: local
title: Local
description: A server that waits and then writes a text that depends on the request alone.
backend: openai
base_url: {url}
model: local
licence: {{name: none, outputs: no limits}}
sampling: [{{name: plain, temperature: 1.0}}]
settings: {{openai: {{max_concurrency: {concurrency}}}}}
"""


async def serve(pipe: Connection, latency: float) -> None:
    """Answer chat completions until the process is ended; send the port through ``pipe``."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                digest = hashlib.blake2b(await reader.readexactly(length)).digest()
                await asyncio.sleep(latency * (0.5 + digest[0] / 255))
                text = " ".join(f"word{byte}" for byte in digest)
                message = {"role": "assistant", "content": text}
                usage = {"prompt_tokens": 80, "completion_tokens": 90, "total_tokens": 170}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                data = json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()
                start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                writer.write(start + str(len(data)).encode() + b"\r\n\r\n" + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=1024)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def server(pipe: Connection, latency: float) -> None:
    """The server's process."""
    asyncio.run(serve(pipe, latency))


def make_requests(count: int) -> list[Request]:
    """Requests of about the size that the tasks which ship have."""
    said = "Write a prompt for an image generator. Keep every person, animal, object, place and colour. " * 5
    return [
        Request(
            key=f"{number:032x}",
            task="text-to-image",
            input_id="0" * 16,
            input=f"subject {number}",
            messages=({"role": "user", "content": f"{said}\n\nIdea: subject {number}"},),
            sampling={"temperature": 1.0, "top_p": 0.95, "max_tokens": 200},
            seed=number,
            sample=0,
        )
        for number in range(count)
    ]


def ours(teacher: OpenAITeacher, requests: Sequence[Request]) -> set[str]:
    """Return the texts that udrl's backend gets."""
    return {reply.completion or "" for reply in teacher.generate(requests)}


def bare(url: str, bodies: Sequence[bytes], concurrency: int) -> set[str]:
    """Return the texts that a client without any of the backend's care gets."""

    async def ask() -> set[str]:
        texts: set[str] = set()
        todo = iter(bodies)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency)
        headers = {"Content-Type": "application/json"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=60) as client:

            async def work() -> None:
                for body in todo:
                    response = await client.post("chat/completions", content=body)
                    texts.add(response.json()["choices"][0]["message"]["content"])

            await asyncio.gather(*(work() for _ in range(concurrency)))
        return texts

    return asyncio.run(ask())


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the bootstrap 95 % interval of the median of ``values``."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return medians[49], medians[1949]


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=800, help="a turn of one client")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.4, help="seconds an answer takes")
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=server, args=(there, options.latency), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    with TemporaryDirectory() as folder:
        card = Path(folder) / "local.yaml"
        card.write_text(CARD.format(url=url, concurrency=options.concurrency))
        teacher = OpenAITeacher(load_card(card))
    requests = make_requests(options.requests)
    bodies = [json.dumps(teacher.body(request)).encode() for request in requests]
    speeds: dict[str, list[float]] = {"ours": [], "bare": []}
    costs: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(options.pairs + 1):  # the first turn warms up
        texts = {}
        for name in ("ours", "bare") if turn % 2 else ("bare", "ours"):
            started, used = time.perf_counter(), time.process_time()
            texts[name] = ours(teacher, requests) if name == "ours" else bare(f"{url}/", bodies, options.concurrency)
            if turn:
                speeds[name].append(options.requests / (time.perf_counter() - started))
                costs[name].append(1000 * (time.process_time() - used) / options.requests)
        if texts["ours"] != texts["bare"] or len(texts["ours"]) != options.requests:
            raise SystemExit("the two clients were told different things")
    process.terminate()
    ratios = [mine / other for mine, other in zip(speeds["ours"], speeds["bare"], strict=True)]
    low, high = interval(ratios)
    print(
        f"{options.concurrency} at once, {options.latency:g} s each, {options.requests} requests: udrl "
        f"{statistics.median(speeds['ours']):,.0f} requests/s, bare {statistics.median(speeds['bare']):,.0f}, ratio "
        f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}] over {options.pairs} pairs "
        f"(lowest {min(ratios):.3f}, highest {max(ratios):.3f}); processor time a request "
        f"{statistics.median(costs['ours']):.1f} and {statistics.median(costs['bare']):.1f} ms"
    )


if __name__ == "__main__":
    main()

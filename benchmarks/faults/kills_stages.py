"""The stages that `kills` kills, each as small as it can be, what each begins with, and what its end says."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from safetensors import safe_open

TASK = "search-query"
WORDS = "amber bright calm deep early far glass harbour ivory jade keen light moss narrow open pale quiet river".split()
MEASURED = {
    "seconds", "latency_ms", "tokens_per_second", "finished", "created", "started", "machine_hours", "gpu_hours",
    "usd", "hardware", "versions", "latency", "completions", "cost", "responses", "tokens",
}  # fmt: skip
"""Keys of JSON files that say when, where, how fast or in how many starts something was done: those may differ."""


@dataclass(frozen=True)
class Stage:
    """One stage. after: the stage whose end it begins with; kills: its share of 100; do: what is called on a run."""

    name: str
    after: str | None
    kills: int
    do: Callable[[Path, Path], object]


def prose(text: str) -> str:
    """A few words about ``text``, a function of it alone."""
    rng = random.Random(text)
    return " ".join([*text.split()[:3], *(rng.choice(WORDS) for _ in range(rng.randint(2, 6)))])


def write_materials(folder: Path, port: int) -> None:
    """Write what the stages read: inputs, recorded completions, the card of the endpoint, a suite, a tiny model."""
    from udrl.architecture.gpt2.scratch import scratch_gpt2
    from udrl.tokenizer import train_tokenizer

    rng = random.Random(0)
    texts = [f"a {' and a '.join(rng.sample(WORDS, 3))} number {k}" for k in range(44)]
    (folder / "inputs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = [
        {"task": TASK, "input": text, "completion": prose(f"{text} {k}"), "model": "m"} for text in texts for k in "ab"
    ]
    (folder / "outputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = {
        "schema": 1, "name": "tiny", "title": "Tiny", "description": "A server of the benchmark.", "backend": "openai",
        "model": "tiny-model", "licence": {"name": "apache-2.0", "outputs": "no limits"},
        "sampling": [{"name": "careful", "temperature": 0.5}, {"name": "far", "temperature": 1.1}],
        "settings": {"openai": {"max_concurrency": 8}},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(card))
    (folder / "address").write_text(f"http://127.0.0.1:{port}/v1")
    suite = {
        "schema": 1, "name": "tiny", "title": "Tiny", "description": "A suite of the benchmark.",
        "inputs": {"split": "test"}, "samples": 1,
        "systems": ["student@top", "student@open", "teacher", "echo", "shuffled"],
        "encoder": "all-MiniLM-L6-v2", "second_encoder": "lsa", "latency_requests": 1,
        "following": {"inputs": 1, "seeds": 1, "leakage_inputs": 1},
    }  # fmt: skip
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    if not (folder / "tiny" / "tokenizer.json").exists():
        tokenizer = train_tokenizer([prose(text) for text in texts], 400)
        model = scratch_gpt2(
            vocab_size=len(tokenizer), layers=1, width=32, heads=2, context=128, eos=tokenizer.eos_token_id, seed=0
        )
        model.save_pretrained(folder / "tiny")
        tokenizer.save_pretrained(folder / "tiny")


SMALL: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def _synth(run: Path, home: Path, *, screened: bool = False, **more: Any) -> None:
    from udrl.data.hygiene import Hygiene
    from udrl.teacher.synthesis.synth import synth

    synth(run, seed=1, hygiene=None if screened else Hygiene(suites=()), **more)


def _recorded(run: Path, home: Path) -> None:
    _synth(run, home, teacher=f"recorded:{home / 'outputs.jsonl'}", tasks=(TASK,), screened=True)


def _endpoint(run: Path, home: Path) -> None:
    inputs = {"inputs": home / "inputs.jsonl", "num_inputs": 40, "samples": 2, "tasks": (TASK,)}
    _synth(run, home, teacher=home / "tiny.yaml", base_url=(home / "address").read_text(), **inputs)


def _builtin(run: Path, home: Path) -> None:
    _synth(run, home, tasks=(TASK,), num_inputs=40, samples=2)


def _score(run: Path, home: Path) -> None:
    from udrl.rewards.scoring import score

    score(run, truncated=0.5)


def _train(run: Path, home: Path, **more: Any) -> None:
    from udrl.training.train import train

    options: dict[str, Any] = {
        "steps": 40,
        "batch_size": 8,
        "learning_rate": 0.01,
        "calibration_inputs": 2,
        "signs_inputs": 1,
    }
    train(run, save_every=5, validate_every=10, **options, **SMALL, **more)


def _first(run: Path, home: Path) -> None:
    _train(run, home, student=str(home / "tiny"))


def _on(run: Path, home: Path) -> None:
    _train(run, home, start_from=run, seed=5)


def _calibrate(run: Path, home: Path) -> None:
    from udrl.training.calibrate import recalibrate

    recalibrate(run, inputs=3, temperature=0.7, seed=3, **SMALL)


def _bench(run: Path, home: Path) -> None:
    from udrl.eval.bench import bench

    bench(run, suite=home / "suite.yaml", **SMALL)


def _improve(run: Path, home: Path) -> None:
    from udrl.rounds.improve import improve
    from udrl.rounds.options import RoundOptions

    few = {"validation_inputs": 2, "sweep_inputs": 1, "calibration_inputs": 1, "num_inputs": 6, "samples": 2}
    options = RoundOptions(steps=6, batch_size=8, diversity_floor=0.0, patience=9, **few)  # type: ignore[arg-type]
    improve(run, rounds=2, options=options, **SMALL)


def _study(run: Path, home: Path) -> None:
    from udrl.study.lr_batch.study import LrBatchOptions, study_lr_batch

    grid: dict[str, Any] = {"learning_rates": (1e-3, 3e-3), "batch_sizes": (4, 8), "seeds": 1, "steps": 4, "limit": 2}
    study_lr_batch(run, LrBatchOptions(student=str(home / "tiny"), micro_batch=8, **grid))


STAGES = (
    Stage("recorded", None, 12, _recorded),
    Stage("endpoint", None, 14, _endpoint),
    Stage("builtin", None, 10, _builtin),
    Stage("score", "builtin", 12, _score),
    Stage("train", "builtin", 18, _first),
    Stage("train-on", "train", 8, _on),
    Stage("calibrate", "train", 8, _calibrate),
    Stage("bench", "train", 10, _bench),
    Stage("improve", "train", 6, _improve),
    Stage("study", "builtin", 2, _study),
)


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _scrubbed(one) for key, one in value.items() if key not in MEASURED}
    return [_scrubbed(one) for one in value] if isinstance(value, list) else value


def end_of(run: Path) -> dict[str, str]:
    """Return a hash of what each file of a run says, but for when and how fast; by its path in the run.

    Raises an error for a file that is torn: JSON, Parquet and safetensors files are read whole.
    """
    said: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        parts = path.relative_to(run).parts
        if path.is_dir() or parts[0] == "cache" or any(part.startswith(".") for part in parts):
            continue
        name = "/".join(parts)
        if path.suffix == ".json":
            said[name] = _scrubbed(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            said[name] = [] if path.name == "training.jsonl" else sorted(json.dumps(_scrubbed(row)) for row in rows)
            if path.parent.name == "ledger":
                said[name] = sorted(f"{row['key']} {row['status']} {row['completion']}" for row in rows)
        elif path.suffix == ".parquet":
            said[name] = sorted(json.dumps(row, default=str) for row in pq.read_table(path).to_pylist())
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                names = sorted(file.keys())
                said[name] = [(key, hashlib.sha256(file.get_tensor(key).tobytes()).hexdigest()) for key in names]
    return {name: hashlib.sha256(json.dumps(one).encode()).hexdigest()[:16] for name, one in said.items()}


def ledger_of(run: Path) -> tuple[int, int]:
    """Return how many responses the ledgers of a run hold, and how many of them stand there twice."""
    keys = [
        json.loads(line)["key"]
        for path in sorted(run.rglob("ledger/*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return len(keys), len(keys) - len(set(keys))


class Endpoint:
    """A chat endpoint on loopback that answers by `prose`, and counts how often it was asked for what.

    kept: the file that holds its port, which is the same when the benchmark goes on: a run says whom it asked.
    """

    def __init__(self, kept: Path) -> None:
        self.asked: dict[str, int] = {}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = json.dumps([body["messages"], body.get("seed")], sort_keys=True)
                endpoint.asked[asked] = endpoint.asked.get(asked, 0) + 1
                text = prose(hashlib.sha256(asked.encode()).hexdigest()[:6])
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29}
                self._send({"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice],
                            "usage": usage})  # fmt: skip

            def do_GET(self) -> None:
                self._send({"object": "list", "data": [{"id": "tiny-model", "object": "model"}]})

            def _send(self, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        port = int(kept.read_text()) if kept.exists() else 0
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        kept.write_text(str(self.server.server_port))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

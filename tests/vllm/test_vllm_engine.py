"""The vllm backend on the real engine, on a CPU."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import transformers
from tiny import ROOM, card_file

from udrl.data.ledger import Ledger
from udrl.errors import TeacherError
from udrl.teacher.backends import choice
from udrl.teacher.backends.vllm import VllmTeacher
from udrl.teacher.protocol import Reply, Request

KILLS = 10
TASK = "search-query"


def ask(key: str, text: str, *, seed: int = 1, system: str | None = None, **sampling: Any) -> Request:
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    settings = {"style": "careful", "temperature": 0.0, "max_tokens": 24} | sampling
    return Request(key, TASK, key, text, tuple(messages), settings, seed, 0)


def answers(teacher: VllmTeacher, requests: list[Request]) -> dict[str, Reply]:
    replies = list(teacher.generate(requests))
    assert sorted(reply.key for reply in replies) == sorted(request.key for request in requests)
    return {reply.key: reply for reply in replies}


def gone(pid: int, *, seconds: float = 15.0) -> bool:
    """Whether the process ends within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[VllmTeacher]:
    found = choice.teacher(card_file(tmp_path_factory.mktemp("card"), model))
    assert isinstance(found, VllmTeacher)
    yield found
    found.close()


def test_vllm_greedy_completions_equal_those_of_transformers(teacher: VllmTeacher, model: Path) -> None:
    texts = [f"write about the {thing}, please" for thing in ("sea", "sky", "town", "people", "old harbour at dawn")]
    replies = answers(teacher, [ask(str(n), text) for n, text in enumerate(texts)])
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    for n, text in enumerate(texts):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = network.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        reply = replies[str(n)]
        assert reply.completion == tokenizer.decode(written, skip_special_tokens=True)
        assert reply.prompt_tokens == prompt["input_ids"].shape[1]
        assert reply.completion_tokens == len(written)
        assert reply.finish_reason == ("stop" if len(written) < 24 else "length")
        assert reply.error is None
        assert reply.seconds > 0
        assert abs(reply.started - time.time()) < 600
    assert len({reply.completion for reply in replies.values()}) == len(texts)


def test_vllm_draws_by_seed_whatever_else_is_in_flight(teacher: VllmTeacher) -> None:
    def wanted(seed: int) -> Request:
        return ask(f"w{seed}", "write about the sea", seed=seed, temperature=1.0, top_p=0.95)

    alone = {seed: answers(teacher, [wanted(seed)])[f"w{seed}"].completion for seed in (1, 2)}
    crowd = [ask(f"c{n}", f"about the sky {n}", seed=n + 50, temperature=1.3) for n in range(100)]
    together = answers(teacher, [*crowd[:60], wanted(2), *crowd[60:], wanted(1)])
    assert {seed: together[f"w{seed}"].completion for seed in (1, 2)} == alone
    assert alone[1] != alone[2]


def test_vllm_over_long_prompt_is_a_failed_reply_and_the_others_go_on(teacher: VllmTeacher) -> None:
    replies = answers(teacher, [ask("long", "sea " * ROOM), ask("short", "sea")])
    assert replies["long"].completion is None
    assert replies["long"].error is not None
    assert replies["long"].error.startswith("prompt: has ")
    assert f"of {ROOM} that the model reads" in replies["long"].error
    assert replies["short"].error is None


def test_vllm_setting_that_the_engine_refuses_is_a_failed_reply(teacher: VllmTeacher) -> None:
    replies = answers(teacher, [ask("bad", "sea", top_p=7.0), ask("good", "sea")])
    assert "request: vLLM does not take it" in str(replies["bad"].error)
    assert replies["good"].error is None


def test_vllm_unknown_sampling_setting_is_an_error(teacher: VllmTeacher) -> None:
    with pytest.raises(TeacherError, match=r"no sampling setting 'temprature' \(did you mean temperature\?\)"):
        list(teacher.generate([ask("a", "sea", temprature=1.0)]))
    assert answers(teacher, [ask("b", "sea")])["b"].error is None, "and the engine is as it was"


def test_vllm_merges_the_system_message_where_the_card_says_so(
    teacher: VllmTeacher, tmp_path: Path, model: Path
) -> None:
    merging = choice.teacher(card_file(tmp_path, model, chat={"system": "merge"}))
    assert isinstance(merging, VllmTeacher)
    merging._engine = teacher._engine  # one engine is enough: what differs is what it is sent
    apart = answers(teacher, [ask("a", "the sea", system="Be brief."), ask("b", "Be brief.\n\nthe sea")])
    merged = answers(merging, [ask("a", "the sea", system="Be brief.")])
    merging._engine = None
    assert merged["a"].prompt_tokens == apart["b"].prompt_tokens != apart["a"].prompt_tokens
    assert merged["a"].completion == apart["b"].completion
    assert merging.engine_arguments == {"merge_system": True, "dtype": "float32"}


def test_vllm_crash_keeps_what_was_finished_and_names_the_end(teacher: VllmTeacher) -> None:
    requests = [ask(f"k{n}", f"sea {n}", max_tokens=4 if n < 4 else 200, min_p=0.0) for n in range(60)]
    replies = teacher.generate(requests)
    first = next(replies)
    assert first.error is None
    pid = teacher.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(TeacherError, match=r"vLLM's engine ended by signal SIGKILL .*start again to go on"):
        list(replies)
    assert teacher.pid is None
    assert gone(pid)


def test_vllm_close_ends_the_process_and_the_next_request_starts_another(teacher: VllmTeacher) -> None:
    before = answers(teacher, [ask("a", "sea")])["a"]  # after the crash above: a new engine
    pid = teacher.pid
    assert pid is not None
    assert psutil.Process(pid).memory_info().rss > 200 << 20
    teacher.close()
    assert not psutil.pid_exists(pid)
    assert teacher.pid is None
    teacher.close()
    assert before.completion


def test_vllm_model_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    missing = choice.teacher(card_file(tmp_path, Path("nobody/no-such-model")))
    with pytest.raises(TeacherError, match=r"nobody/no-such-model cannot be loaded.*set HF_TOKEN.*give their folder"):
        list(missing.generate([ask("a", "sea")]))


class _GatedHub(BaseHTTPRequestHandler):
    """A hub that answers as huggingface.co does for weights whose licence was not accepted."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this model is restricted")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def log_message(self, *_: object) -> None:
        pass


def test_vllm_gated_weights_say_what_to_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = ThreadingHTTPServer(("127.0.0.1", 0), _GatedHub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_address[1]}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    gated = choice.teacher(card_file(tmp_path, Path("nobody/gated-model")))
    try:
        with pytest.raises(TeacherError, match=r"gated: accept the licence at .*nobody/gated-model, set HF_TOKEN"):
            list(gated.generate([ask("a", "sea")]))
    finally:
        hub.shutdown()
        hub.server_close()


def lines(run: Path) -> list[dict[str, Any]]:
    return [row for _, row in Ledger(run / "ledger").rows()] if (run / "ledger").is_dir() else []


def engines_of(pid: int) -> list[int]:
    try:
        return [
            child.pid
            for child in psutil.Process(pid).children()
            if "udrl.teacher.backends.vllm.engine" in child.cmdline()
        ]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.timeout(2400)  # a dozen engines begin, one after another
@pytest.mark.filterwarnings("ignore:.*torn last line")
def test_synth_killed_ten_times_on_the_real_engine_writes_every_key_once(tmp_path: Path, model: Path) -> None:
    inputs = tmp_path / "inputs.jsonl"
    rng = random.Random(3)
    texts = [f"{rng.choice('abcdefghij')}{n} {rng.random()} by the sea at {n * n}" for n in range(300)]
    inputs.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    command = [sys.executable, "-m", "udrl", "synth", "--teacher", str(card_file(tmp_path, model)), "--task", TASK]
    command += ["--inputs", str(inputs), "--num-inputs", "200", "--samples", "4", "--no-score", "--json"]
    command += ["--engine-arg", "max_num_seqs=8", "--run"]
    run = tmp_path / "killed"
    total = 800
    for kill in range(KILLS):
        before = len(lines(run))
        moment = before + rng.randrange(1, 60) if kill % 3 else before  # every third while it loads
        process = subprocess.Popen([*command, str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        engines: list[int] = []
        while not engines or len(lines(run)) < moment:
            assert process.poll() is None, process.communicate()[1].decode()
            engines = engines or engines_of(process.pid)
            time.sleep(0.05)
        process.kill()
        process.communicate()
        assert all(gone(pid) for pid in engines), "the engine ends with its parent"
    rows = lines(run)
    assert 0 < len(rows) < total
    done = subprocess.run([*command, str(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["already"] + report["written"] + report["failed"] == total  # hot, some completion has no text
    straight = tmp_path / "straight"
    subprocess.run([*command, str(straight)], check=True, capture_output=True)
    times = Counter(row["key"] for row in lines(run))
    assert set(times) == {row["key"] for row in lines(straight)}
    assert set(times.values()) == {1}
    assert len(times) == total

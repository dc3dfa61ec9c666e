"""Weights from a hub that does not answer: said within seconds, without the client's own waiting."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from udrl.architecture.gpt2.scratch import scratch_gpt2
from udrl.errors import WeightsError
from udrl.hub_reach import is_reachable
from udrl.tokenizer import train_tokenizer
from udrl.training.admission import admit


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service that answers, if only that it is busy; the hub's client speaks to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    yield url
    server.shutdown()
    server.server_close()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")


def test_hub_is_reachable_whatever_it_answers(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_reachable()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not is_reachable(), "not when the client is set to be offline"


def test_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a red fox"], 300)
    model = scratch_gpt2(vocab_size=300, layers=1, width=16, heads=1, context=16, eos=tokenizer.eos_token_id, seed=0)
    tokenizer.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"cannot be loaded .*safetensors"):
        admit(str(tmp_path))


@pytest.mark.usefixtures("nowhere")
def test_weights_without_a_hub_are_refused_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s to try again")

    assert not is_reachable()
    monkeypatch.setattr("time.sleep", sleep)
    with pytest.raises(WeightsError, match=r"'no-such/model' cannot be loaded .* and pass the folder$"):
        admit("no-such/model")

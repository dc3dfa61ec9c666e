"""Pushing to a stand-in of the hub: a real HTTP server that speaks what the hub's client speaks."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from udrl.cli.main import run as cli
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.hub import TOKEN, push
from udrl.teacher.synthesis import synth

GOOD = "hf_good"


class Hub:
    """What the stand-in was told. files: by repository, what its commits hold."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.status: int | None = None
        self.url = ""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, data: object = None) -> None:
            body = json.dumps(data if data is not None else {"error": "no"}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def allowed(self) -> bool:
            if hub.status is not None:
                self.answer(hub.status)
                return False
            if self.headers.get("Authorization") != f"Bearer {GOOD}":
                self.answer(401)
                return False
            return True

        def do_GET(self) -> None:
            if not self.allowed():
                return
            self.answer(200, {"id": "me/x", "sha": "0" * 40, "siblings": []}) if "/api/" in self.path else self.answer(
                404
            )

        def do_PUT(self) -> None:
            hub.objects[self.path.rsplit("/", 1)[1]] = self.body()
            self.answer(200, {})

        def do_POST(self) -> None:
            raw = self.body()
            if not self.allowed():
                return
            if self.path == "/api/repos/create":
                data = json.loads(raw)
                hub.created.append(data)
                name = f"{data.get('organization') or 'me'}/{data['name']}"
                prefix = "" if data.get("type", "model") == "model" else "datasets/"
                self.answer(200, {"url": f"{hub.url}/{prefix}{name}"})
            elif "/preupload/" in self.path:
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith((".parquet", ".safetensors")) else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for file in json.loads(raw)["files"]
                ]
                self.answer(200, {"files": files})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**item, "actions": {"upload": {"href": f"{hub.url}/lfs/{item['oid']}", "header": {}}}}
                    for item in json.loads(raw)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": objects})
            elif "/commit/" in self.path:
                name = self.path.split("/commit/")[0].removeprefix("/api/")
                files = hub.files.setdefault(name, {})
                for line in raw.splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif entry["key"] == "lfsFile":
                        files[value["path"]] = hub.objects[value["oid"]]
                self.answer(200, {"commitUrl": f"{hub.url}/x/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None})
            else:
                self.answer(200, {})

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    told = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(told))
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", told.url)
    monkeypatch.setenv(TOKEN, GOOD)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield told
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("hub") / "mine"
    synth(run, tasks=["search-query"], num_inputs=40, samples=4, rewards=("novelty",))
    return run


def test_push_dataset_is_private_and_loads_again(hub: Hub, made: Path, tmp_path: Path) -> None:
    import datasets

    report = push(made, repo="org/mine")
    assert report.private
    assert (hub.created[0]["organization"], hub.created[0]["name"]) == ("org", "mine")
    assert hub.created[0].get("private", hub.created[0].get("visibility")) in (True, "private")
    files = hub.files["datasets/org/mine"]
    assert set(report.files) == set(files) >= {"README.md", "train.parquet"}
    folder = tmp_path / "there"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    kept = read_episodes(Run(made).episodes, splits=("train",))
    assert [row["episode_id"] for row in loaded["train"]] == [episode.episode_id for episode in kept]
    assert set(loaded["train"]["rejected_by"]) == {None}
    assert loaded["train"][0]["returns"]["novelty"] == kept[0].returns["novelty"]
    assert b"license: " in files["README.md"]
    assert GOOD.encode() not in b"".join(files.values())
    assert GOOD not in (made / "run.json").read_text()


def test_push_sends_rejected_episodes_only_when_asked(hub: Hub, made: Path) -> None:
    everything = read_episodes(Run(made).episodes, splits=("train", "validation", "test"), kept=False)
    kept = [episode for episode in everything if episode.rejected_by is None]
    assert len(kept) < len(everything)
    assert push(made).episodes == len(kept)
    assert push(made, rejected=True).episodes == len(everything)
    assert hub.files.keys() == {"datasets/me/udrl-mine"}


def test_push_public_and_student(hub: Hub, made: Path) -> None:
    student = Run(made).student
    student.mkdir()
    (student / "config.json").write_text("{}")
    (student / "model.safetensors").write_bytes(b"weights")
    (student / "README.md").write_text("card")
    report = push(made, kind="model", private=False)
    assert hub.files["models/me/udrl-mine"]["model.safetensors"] == b"weights"
    assert report.episodes is None
    assert hub.created[0].get("private", hub.created[0].get("visibility")) in (False, "public")


@pytest.mark.parametrize(
    ("status", "said"), [(401, "does not know the token"), (403, "does not let the token"), (404, "check --repo")]
)
def test_push_refusals_are_one_line(
    hub: Hub, made: Path, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.status = status
    assert cli(["push", "--dataset", "--run", str(made)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert GOOD not in lines[0]


def test_push_without_token_service_or_choice(
    hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert cli(["push", "--dataset", "--run", str(made)]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    monkeypatch.delenv(TOKEN)
    assert cli(["push", "--dataset", "--run", str(made)]) == 2
    assert "set HF_TOKEN" in capsys.readouterr().err
    assert cli(["push", "--run", str(made)]) == 2
    assert "--dataset or --student" in capsys.readouterr().err


def test_push_asks_for_the_licence_of_a_teacher_with_limits(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "limited"
    synth(run, tasks=["search-query"], num_inputs=5, samples=1, score=False)
    facts = json.loads((run / "run.json").read_text())
    card = facts["stages"]["synth"]["teachers"]["builtin"]
    card.update(licence="llama3", outputs="may not be used to improve any other large language model")
    (run / "run.json").write_text(json.dumps(facts))
    assert cli(["push", "--dataset", "--run", str(run)]) == 2
    assert "--accept-licence" in capsys.readouterr().err
    assert hub.created == []
    assert cli(["push", "--dataset", "--accept-licence", "--run", str(run)]) == 0
    assert "license: llama3" in hub.files["datasets/me/udrl-limited"]["README.md"].decode()

"""A stand-in of the hub: a real HTTP server that speaks what the hub's client speaks."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import yaml

from udrl.data.dataset_card import HUB_LICENCES

GOOD, READ_ONLY = "hf_good", "hf_readonly"


@dataclass
class Hub:
    """The stand-in's state. repos: visibility by ``datasets/ORG/NAME``; folder: what the commits hold, on disk.

    broken: status that uploads of files end with. requests: every request, as method and path.
    """

    folder: Path
    url: str = ""
    repos: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: int | None = None

    def files(self, repo: str) -> dict[str, bytes]:
        """Return what a repository holds."""
        there = self.folder / repo
        return {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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

        def allowed(self, *, writing: bool = True) -> bool:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token == GOOD or (token == READ_ONLY and not writing):
                return True
            self.answer(403 if token == READ_ONLY else 401)
            return False

        def do_GET(self) -> None:
            hub.requests.append(f"GET {self.path}")
            if not self.allowed(writing=False):
                return
            repo = self.path.removeprefix("/api/")
            if repo not in hub.repos:
                self.answer(404, {"error": "Repository not found"})
                return
            name = repo.partition("/")[2]
            self.answer(200, {"id": name, "sha": "0" * 40, "private": hub.repos[repo] == "private", "siblings": []})

        def do_PUT(self) -> None:
            hub.requests.append(f"PUT {self.path}")
            body = self.body()
            if hub.broken:
                self.answer(hub.broken, {"error": "storage quota exceeded"})
                return
            hub.objects[self.path.rsplit("/", 1)[1]] = body
            self.answer(200, {})

        def do_POST(self) -> None:
            hub.requests.append(f"POST {self.path}")
            raw = self.body()
            if not self.allowed():
                return
            if self.path == "/api/repos/create":
                self.create(json.loads(raw))
            elif self.path == "/api/validate-yaml":
                self.validate(json.loads(raw)["content"])
            elif "/preupload/" in self.path:
                self.answer(200, {"files": [self.mode(file["path"]) for file in json.loads(raw)["files"]]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                self.batch(json.loads(raw)["objects"])
            elif "/commit/" in self.path:
                self.commit(self.path.removeprefix("/api/").split("/commit/")[0], raw)
            else:
                self.answer(404)

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            kind = asked.get("type", "model")
            repo = f"{kind}s/{name}"
            url = f"{hub.url}/{name if kind == 'model' else repo}"
            if asked.get("organization") == "elsewhere":
                self.answer(403, {"error": "not a member"})
            elif repo in hub.repos:
                self.answer(409, {"error": "You already created this repo", "url": url})
            else:
                hub.repos[repo] = asked.get("visibility", "public")
                self.answer(200, {"url": url})

        def validate(self, content: str) -> None:
            """As the hub: the header must be YAML, and of a licence that the hub does not know the name is said."""
            header = yaml.safe_load(content.split("---\n")[1])
            licence = header.get("license", "unknown")
            wrong = licence not in (*HUB_LICENCES, "other") or (licence == "other" and not header.get("license_name"))
            self.answer(400 if wrong else 200, {"errors": [{"message": "license"}] if wrong else [], "warnings": []})

        def mode(self, path: str) -> dict[str, Any]:
            large = path.endswith((".parquet", ".safetensors"))
            return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

        def batch(self, objects: list[dict[str, Any]]) -> None:
            actions = [
                {**item, "actions": {"upload": {"href": f"{hub.url}/lfs/{item['oid']}", "header": {}}}}
                for item in objects
            ]
            self.answer(200, {"transfer": "basic", "objects": actions})

        def commit(self, repo: str, raw: bytes) -> None:
            for line in raw.splitlines():
                entry = json.loads(line)
                if entry["key"] not in ("file", "lfsFile"):
                    continue
                value = entry["value"]
                path = hub.folder / repo / value["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                small = entry["key"] == "file"
                path.write_bytes(base64.b64decode(value["content"]) if small else hub.objects[value["oid"]])
            place = repo.removeprefix("models/")
            self.answer(200, {"commitUrl": f"{hub.url}/{place}/commit/1", "commitOid": "1" * 40})

    return Handler

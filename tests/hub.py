"""A stand-in for the Hugging Face hub: a real HTTP server with the calls that an upload makes."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_test"


@dataclass
class Repo:
    """A repository: who may see it, and its files."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Hub:
    """The server's address, and its repositories by kind and name, such as ``("models", "me/pair")``."""

    url: str
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if (method, path) == ("POST", "/api/repos/create"):
            wanted = json.loads(body)
            key = (f"{wanted.get('type') or 'model'}s", f"{wanted['organization']}/{wanted['name']}")
            exists = key in self.repos
            self.repos.setdefault(key, Repo(private=wanted.get("visibility") == "private"))
            return (409 if exists else 200), {"url": f"{self.url}/{key[1]}", "error": "exists"}
        if (method, path) == ("POST", "/api/validate-yaml"):
            return 200, {"warnings": [], "errors": []}
        match = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(preupload|commit)/main)?", path)
        repo = self.repos.get((match[1], match[2])) if match else None
        if match is None or repo is None:
            return 404, {"error": f"no {method} {path}"}
        if match[3] is None:
            return 200, {
                "id": match[2],
                "private": repo.private,
                "tags": [],
                "siblings": [],
            }
        if match[3] == "preupload":
            files = json.loads(body)["files"]
            return 200, {
                "files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            }
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                repo.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"{self.url}/{match[2]}/commit/1", "commitOid": "1"}


@contextmanager
def hub() -> Iterator[Hub]:
    """The stand-in on loopback; requests without the token are refused."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = 401, {"error": "Invalid credentials"}
            if self.headers.get("authorization") == f"Bearer {TOKEN}":
                status, content = state.answer(self.command, self.path.partition("?")[0], body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = respond

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

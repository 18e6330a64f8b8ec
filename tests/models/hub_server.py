"""A server that speaks the part of the Hugging Face Hub that downloads use, and what can go wrong with it."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT, LATER = "a" * 40, "b" * 40


class Hub(ThreadingHTTPServer):
    """Serves one repository, `owner/tiny`. Safetensors lie elsewhere, behind a redirection, as on the Hub.

    Attributes:
        files: Their contents by name.
        sent: Contents that are sent in the place of others.
        listing: What is told of the repository beside its files, or in their place.
        commit: The newest.
        requests: Paths that were asked for, each with the headers.
        stop_after: Where set, a file of weights is sent so far; then `stopped` is called, and nothing more comes.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.files |= {"README.md": b"# Tiny", "pytorch_model.bin": b"pickle", "modeling.py": b"import os"}
        self.sent: dict[str, bytes] = {}
        self.listing: dict[str, Any] = {"cardData": {"license": "apache-2.0"}}
        self.commit = COMMIT
        self.requests: list[tuple[str, Any]] = []
        self.stop_after: int | None = None
        self.stopped = lambda: None
        self.closed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, part: str) -> list[str]:
        """The paths with some text that were asked for."""
        return [path for path, _ in self.requests if part in path]

    def siblings(self) -> list[dict[str, Any]]:
        listed = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_blob(content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 135}
            listed.append(entry)
        return listed


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        hub = self.server
        path = self.path.partition("?")[0]
        hub.requests.append((path, self.headers))
        _, *parts = path.split("/")
        match parts:
            case ["api", "models", "owner", "tiny", *rest]:
                commit = rest[1] if rest[:1] == ["revision"] else hub.commit
                listing = {"id": "owner/tiny", "sha": commit, "siblings": hub.siblings(), **hub.listing}
                self._answer(200, json.dumps(listing).encode(), "application/json")
            case ["owner", "tiny", "resolve", _, name] if name.endswith(".safetensors"):
                self.send_response(302)
                self.send_header("Location", f"{hub.url}/cdn/{name}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case ["owner", "tiny", "resolve", _, name] | ["cdn", name] if name in hub.files:
                self._file(hub.sent.get(name, hub.files[name]))
            case _:
                self._answer(404, b"{}", "application/json")

    def _file(self, content: bytes) -> None:
        hub, start = self.server, 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if hub.stop_after is not None and "cdn" in self.path:
            self.wfile.write(content[start:hub.stop_after])
            hub.stopped()
            hub.closed.wait(60)
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass

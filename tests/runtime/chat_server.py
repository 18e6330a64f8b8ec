"""A server that speaks the part of OpenAI's API that a remote pipeline uses, and does what a test tells it to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LIMIT_S = 60.0
WORDS = ["a ", "small ", "red ", "mug"]
TEXT = "".join(WORDS)


class ChatServer(ThreadingHTTPServer):
    """Answers every text with WORDS, unless told otherwise.

    Attributes:
        models: What it lists.
        list_models: Answers a request for that list.
        behave: Answers a request for a text.
        bodies: What was asked, in order.
        headers: Those of the requests.
        most: How many texts were written at the same time.
        left: How many listeners went away in the middle of a text.
        held: While this is not set, texts stop after their first word.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.models = ["qwen"]
        self.behave: Callable[[_Handler, dict[str, Any]], None] = words
        self.list_models: Callable[[_Handler], None] = listing
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.most = self.left = self._now = 0
        self.held = threading.Event()
        self.held.set()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def count(self, step: int) -> None:
        with self._lock:
            self._now += step
            self.most = max(self.most, self._now)

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted = super().get_request()
        self._sockets.append(accepted[0])
        return accepted

    def close(self) -> None:
        """Go, as a process that is killed: nothing that is open is finished."""
        self.held.set()
        self.shutdown()
        self.server_close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_GET(self) -> None:
        self.server.headers.append(self.headers)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone
            self.server.list_models(self)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append(self.headers)
        self.server.bodies.append(body)
        self.server.count(1)
        try:
            self.server.behave(self, body)
        except (BrokenPipeError, ConnectionResetError):
            self.server.left += 1
            self.close_connection = True
        finally:
            self.server.count(-1)

    def answer(self, status: int, content: Any, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self, **headers: str) -> None:
        """Begin a stream of events."""
        self.send_response(200)
        for name, value in {"Content-Type": "text/event-stream", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, data: bytes | str) -> None:
        data = data.encode() if isinstance(data, str) else data
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def event(self, text: str | None = None, finish: str | None = None, **choice: Any) -> None:
        delta = {"role": "assistant"} if text is None else {"content": text}
        content = {"object": "chat.completion.chunk",
                   "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **choice}]}
        self.send(f"data: {json.dumps(content)}\n\n")

    def end(self) -> None:
        self.send("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


Handler = _Handler


def listing(handler: _Handler) -> None:
    """The models."""
    handler.answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in handler.server.models]})


def stalling(handler: _Handler, body: dict[str, Any]) -> None:
    """A word, and nothing more while the server is held."""
    handler.begin()
    handler.event("a ")
    handler.server.held.wait(LIMIT_S)


def words(handler: _Handler, body: dict[str, Any]) -> None:
    """WORDS, up to as many as may be; after the first it waits where the server is held."""
    handler.begin()
    handler.event()
    for word in WORDS[:body["max_tokens"]]:
        handler.event(word)
        while not handler.server.held.wait(0.05):
            handler.send(": still here\n\n")  # by which it notices that nobody listens
    handler.event("", "stop" if body["max_tokens"] >= len(WORDS) else "length")
    handler.end()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        threading.Event().wait(0.005)

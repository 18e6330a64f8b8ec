"""Who may use a page of this package: which names it answers to, which pages may talk to it, and the token."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_WRONG_TOKEN_S = 1.0  # before a wrong token is refused, one after the other: tokens can't be tried out in bulk
_LONGEST_TOKEN = 200
_HEADERS = {
    # Scripts and styles come from files alone, so that no text, whoever wrote it, runs as a script.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine's own programs reach a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """The rules of one server.

    Args:
        token: What browsers must show; "" lets everybody in who reaches the server.
        names: Host names of the server, beside this machine's own. An address is always accepted: a page of somebody
            else's that makes its own name mean this server (DNS rebinding) comes by a name.
    """

    def __init__(self, token: str, names: Collection[str] = ()) -> None:
        self._token = token.encode()
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own}.local", *(name.lower() for name in names)}
        self._one_at_a_time = asyncio.Lock()

    @property
    def needs_token(self) -> bool:
        """Whether a browser must show a token."""
        return bool(self._token)

    def refusal(self, headers: Headers, reads: bool) -> str:
        """Why a request is refused, by its Host and Origin; "" where it is not.

        Args:
            headers: The request's.
            reads: Whether it only reads, which the browser lets no page of another origin see; any other must come from
                the server's own page.
        """
        host = headers.get("host", "")
        name = _host_name(host)
        if name not in self._names and not _is_address(name):
            return (f"host {host[:100]!r} is not one of this server's; use its address, or start it with "
                    f"--allow-host {name[:100]}")
        origin = headers.get("origin")
        if not reads and (origin or "").partition("://")[2].lower() != host.lower():
            return f"origin {origin!r:.100} is not this server's own page; expected http://{host[:100]}"
        return ""

    async def admits(self, token: str) -> bool:
        """Whether a token is the right one; a wrong one takes a second."""
        if not self._token or hmac.compare_digest(self._token, token[:_LONGEST_TOKEN].encode()):
            return True
        async with self._one_at_a_time:
            await asyncio.sleep(_WRONG_TOKEN_S)
        return False


class GuardedApp:
    """An application that serves only requests which `Access` lets through, with headers that bind the browser.

    Args:
        app: The application.
        access: The rules.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        websocket = scope["type"] == "websocket"
        reads = not websocket and scope["method"] in ("GET", "HEAD")
        if refusal := self._access.refusal(Headers(scope=scope), reads):
            if websocket:
                await send({"type": "websocket.close", "code": 1008, "reason": "host or origin refused"})
            else:
                await PlainTextResponse(refusal + "\n", 421)(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_guarded)


def _host_name(host: str) -> str:
    """A Host header's name or address, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

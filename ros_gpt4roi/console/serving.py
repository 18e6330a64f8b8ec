"""How pages of this package are served: addresses, the token, and an end in order. Knows no ROS."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import socket
import sys
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ros_gpt4roi.interrupts import ending_signals

from .access import is_loopback


def add_options(parser: argparse.ArgumentParser, port: int, token_variable: str) -> None:
    """Adds the options that say who reaches a server.

    Args:
        parser: Receives them.
        port: The default.
        token_variable: The environment variable that holds the token.
    """
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone); "
                        "beyond this machine, browsers need a token")
    parser.add_argument("--port", type=int, default=port, help=f"0 takes any that is free ({port})")
    parser.add_argument("--token", metavar="TEXT", help=f"what browsers must show; better given as {token_variable}, "
                        "which no process list shows (one is made where it is needed)")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a host name under which the "
                        "page is reached, beside localhost, this machine's name and its addresses")


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace, token_variable: str) -> None:
    """Ends the program where an option cannot be; makes a token where one is needed and none is given."""
    if not 0 <= options.port < 65536:
        parser.error(f"--port {options.port}: expected 0 to 65535")
    options.token = options.token or os.environ.get(token_variable, "")
    if not options.token and not is_loopback(options.host):
        options.token = secrets.token_urlsafe(16)


def serve(app: ASGIApp, title: str, options: argparse.Namespace, **settings: Any) -> int:
    """Prints the address, and serves until a signal tells it to end.

    Args:
        app: The application.
        title: What the address is called.
        options: As of `check_options`.
        settings: More of uvicorn's.

    Returns:
        The exit status.
    """
    config = uvicorn.Config(app, host=options.host, port=options.port, log_level="warning", limit_concurrency=64,
                            server_header=False, timeout_graceful_shutdown=2, **settings)
    try:
        listening = config.bind_socket()
    except SystemExit:  # uvicorn has said why
        print(f"{title}: not at --host {options.host} --port {options.port}; give others, or --port 0 for any that is "
              "free", file=sys.stderr)
        return 1
    listening.listen()  # so that whoever reads the address can open it
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    token = f"#token={options.token}" if options.token else ""
    print(f"{title}: http://{shown}:{port}/{token}", flush=True)
    if shown in ("0.0.0.0", "[::]"):
        print(f"It listens on every address of this machine; put one of them in the place of {shown}.", flush=True)
    asyncio.run(_serve(uvicorn.Server(config), listening))
    return 0


async def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    def end() -> None:
        server.should_exit = True

    for number in ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, end)
    server.capture_signals = contextlib.nullcontext  # type: ignore  # it would raise them once more
    await server.serve([listening])

"""A web page for the people beside the robot: look, click, ask, and correct. `ros2 run ros_gpt4roi web_console`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse
from rclpy.utilities import remove_ros_args
from starlette.staticfiles import StaticFiles

from ros_gpt4roi.client import Client

from .access import Access, GuardedApp
from .commands import CommandError, Hello, read_command
from .robot import Robot
from .serving import add_options, check_options, serve
from .session import Session, TooSlow, receive, send

STATIC = Path(__file__).with_name("static")
_TOKEN_VARIABLE = "ROS_GPT4ROI_CONSOLE_TOKEN"
_MESSAGE_BYTES = 64 * 1024
_HELLO_S = 10.0  # for the first message of a browser
_MOST_STRANGERS = 16  # connections that have not shown a token yet
_STATE_S = 1.0
# Codes of the websocket's end, for the page (4000 to 4999 are an application's own).
_WRONG_TOKEN, _FULL, _SLOW = 4401, 4429, 4408


class Server:
    """The application: files of the page, and one websocket a browser.

    Args:
        client: A client of the perception node.
        image: The camera's topic.
        access: Who is let in.
        most_browsers: How many at once.
    """

    def __init__(self, client: Client, image: str, access: Access, most_browsers: int) -> None:
        self._client, self._image, self._access, self._most_browsers = client, image, access, most_browsers
        self._sessions: set[Session] = set()
        self._strangers = 0
        self._encoder = ThreadPoolExecutor(1, "pictures")
        api = FastAPI(lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        api.add_api_route("/", lambda: FileResponse(STATIC / "index.html"), methods=["GET"])
        api.mount("/static", StaticFiles(directory=STATIC))
        api.add_api_websocket_route("/ws", self._serve)
        self.app = GuardedApp(api, access)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._robot = Robot(self._client, asyncio.get_running_loop(), self._image, self._frame_changed,
                            self._voice_heard)
        ticking = asyncio.create_task(self._tick())
        yield
        ticking.cancel()
        self._robot.rest()
        self._encoder.shutdown()

    async def _tick(self) -> None:
        while True:
            if self._sessions:
                self._robot.listen()
                self._tell_state(self._sessions)
            await asyncio.sleep(_STATE_S)

    def _tell_state(self, sessions: set[Session]) -> None:
        state = self._robot.state() | {"browsers": len(self._sessions)}
        for session in sessions:
            session.state_changed(state)

    def _frame_changed(self) -> None:
        for session in self._sessions:
            session.frame_changed()

    def _voice_heard(self, message: dict[str, Any]) -> None:
        for session in self._sessions:
            session.post(message)

    async def _serve(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            if not await self._let_in(websocket):
                return
            session = Session(websocket, self._robot, self._encoder)
            self._sessions.add(session)
            try:
                await send(websocket, {"type": "welcome", "namespace": self._robot.namespace})
                self._robot.listen()
                self._tell_state({session})
                await session.run()
            finally:
                self._sessions.discard(session)
                if not self._sessions:
                    self._robot.rest()
        except WebSocketDisconnect:
            pass
        except TooSlow as error:
            await self._refuse(websocket, _SLOW, str(error))

    async def _let_in(self, websocket: WebSocket) -> bool:
        if self._strangers >= _MOST_STRANGERS:
            return await self._refuse(websocket, _FULL, "too many connections have not shown a token yet")
        self._strangers += 1
        try:
            hello = read_command(await asyncio.wait_for(receive(websocket), _HELLO_S))
            if not isinstance(hello, Hello):
                return await self._refuse(websocket, _WRONG_TOKEN, "expected a message of type hello first")
            if not await self._access.admits(hello.token):
                return await self._refuse(websocket, _WRONG_TOKEN, "this token is not the console's" if hello.token
                                          else "this console asks for a token")
        except TimeoutError:
            return await self._refuse(websocket, _WRONG_TOKEN, f"no message within {_HELLO_S:.0f} s")
        except CommandError as error:
            return await self._refuse(websocket, _WRONG_TOKEN, f"expected a message of type hello first: {error}")
        finally:
            self._strangers -= 1
        if len(self._sessions) >= self._most_browsers:
            return await self._refuse(websocket, _FULL, f"{self._most_browsers} browsers are connected, which is the "
                                                        "limit (--browsers)")
        return True

    async def _refuse(self, websocket: WebSocket, code: int, reason: str) -> bool:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # gone already
            await websocket.send_json({"type": "refused", "reason": reason})
            await websocket.close(code, reason[:100])
        return False


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; ROS arguments are rclpy's."""
    parser = argparse.ArgumentParser(prog="web_console", description=__doc__)
    add_options(parser, 8450, _TOKEN_VARIABLE)
    parser.add_argument("--image", default="image", metavar="TOPIC", help="the camera's topic (image)")
    parser.add_argument("--browsers", type=int, default=8, help="most browsers at once (8)")
    own = remove_ros_args(sys.argv)[1:] if arguments is None else list(arguments)
    options = parser.parse_args(own)
    check_options(parser, options, _TOKEN_VARIABLE)
    if options.browsers < 1:
        parser.error(f"--browsers {options.browsers}: expected at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the web console. Returns the exit status."""
    options = parse(arguments)
    access = Access(options.token, options.allow_host)
    with Client(name="web_console") as client:
        return serve(Server(client, options.image, access, options.browsers).app, "Web console", options,
                     ws="websockets-sansio", ws_max_size=_MESSAGE_BYTES, ws_per_message_deflate=False)


if __name__ == "__main__":
    sys.exit(main())

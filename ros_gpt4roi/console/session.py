"""One browser of the web console: what it asks for, and what it is sent."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect
from ros_gpt4roi_interfaces.action import Watch as WatchAction
from ros_gpt4roi_interfaces.msg import Answer, Query
from ros_gpt4roi_interfaces.srv import FindEvidence

from ros_gpt4roi.client import AskReply, WatchReply, status_name
from ros_gpt4roi.image_messages import ImageError

from .commands import (
    Acknowledge,
    Ask,
    Cancel,
    Command,
    CommandError,
    Correct,
    Explain,
    Pong,
    Talk,
    Unwatch,
    Watch,
    header_of,
    read_command,
)
from .evidence import evidence
from .frames import LEVELS, Frame, finite, finite_corners, stamp_of
from .pace import Pace
from .robot import Robot
from .talk import TalkError, TalkStream

MOST_OPEN = 4  # questions of one browser
MOST_WATCHES = 4  # of one browser
ANSWER_LIMIT_S = 120.0
_MOST_EVENTS = 256  # that a browser may be behind
_MOST_COMMANDS, _COMMANDS_S = 200, 1.0  # pictures' acknowledgements are most of them
_STILL_LEVEL = 2  # of the picture that stays beside a conversation, at most


async def receive(websocket: WebSocket) -> str | bytes:
    """The next message, whichever kind it is of.

    Raises:
        WebSocketDisconnect: There will be none.
    """
    try:
        message = await websocket.receive()
    except RuntimeError as error:  # Starlette's for one that was closed meanwhile
        raise WebSocketDisconnect(1006) from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    return message.get("text") or message.get("bytes") or ""


async def send(websocket: WebSocket, message: dict[str, Any] | bytes) -> None:
    """Sends a message: JSON, or bytes as they are.

    Raises:
        WebSocketDisconnect: Nobody is there to take it.
    """
    text = message if isinstance(message, bytes) else json.dumps(message)
    try:
        await (websocket.send_bytes(text) if isinstance(text, bytes) else websocket.send_text(text))
    except RuntimeError as error:  # Starlette's and uvicorn's for one that was closed meanwhile
        raise WebSocketDisconnect(1006) from error


class TooSlow(Exception):
    """The browser takes texts more slowly than they come."""


class Session:
    """Sends one browser what it has asked for, newest first where something can be left out.

    Texts of answers are kept in order, and joined where the browser is behind. Of the robot's state and of the frames
    only the newest is sent.

    Args:
        websocket: Of a browser that was let in.
        robot: The robot.
        encoder: The thread that makes pictures.
    """

    def __init__(self, websocket: WebSocket, robot: Robot, encoder: ThreadPoolExecutor) -> None:
        self._websocket, self._robot, self._encoder = websocket, robot, encoder
        self._events: deque[dict[str, Any] | bytes] = deque()
        self._state: dict[str, Any] | None = None
        self._known: dict[str, str] = {}  # values of the node's state that the browser has
        self._wake = asyncio.Event()
        self._pace = Pace()
        self._shown = 0  # number of the last frame that was sent
        self._open: dict[str, AskReply] = {}
        self._watches: dict[str, WatchReply] = {}
        self._talk: TalkStream | None = None
        self._explaining = 0
        self._stills: set[asyncio.Task[None]] = set()
        self._window_s, self._commands = 0.0, 0
        self._overflow = False

    async def run(self) -> None:
        """Serves the browser until it leaves.

        Raises:
            WebSocketDisconnect: It has left.
            TooSlow: It takes too little to be served.
        """
        sender = asyncio.create_task(self._send_all())
        receiver = asyncio.create_task(self._receive_all())
        try:
            done, _ = await asyncio.wait((sender, receiver), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (sender, receiver):
                task.cancel()
            await asyncio.gather(sender, receiver, return_exceptions=True)
            for reply in [*self._open.values(), *self._watches.values()]:
                reply.cancel()
            if self._talk is not None:
                self._talk.end()

    def frame_changed(self) -> None:
        """Another frame is shown."""
        self._wake.set()

    def state_changed(self, state: dict[str, Any]) -> None:
        """The robot's state; what the browser has of it already is left out."""
        self._state = state
        self._wake.set()

    # To the browser

    async def _send_all(self) -> None:
        while True:
            delay = self._pace.wait_s() if self._newest() is not None else None
            try:
                await asyncio.wait_for(self._wake.wait(), None if delay == float("inf") else delay)
            except TimeoutError:
                pass
            self._wake.clear()
            while self._events:
                await self._send(self._events.popleft())
            if self._overflow:
                raise TooSlow(f"more than {_MOST_EVENTS} messages wait for this browser")
            if self._state is not None:
                state, self._state = self._state, None
                await self._send(self._changed_part(state))
            frame = self._newest()
            if frame is not None and self._pace.wait_s() <= 0:
                await self._send_frame(frame)

    def _newest(self) -> Frame | None:
        frame = self._robot.frames.shown
        return frame if frame is not None and frame.number != self._shown else None

    async def _send_frame(self, frame: Frame) -> None:
        self._shown = frame.number
        data = await self._picture(frame, self._pace.level, {"type": "frame", "number": frame.number})
        self._pace.sent(frame.number)
        await self._send({"type": "ping", "frame": frame.number})
        await self._send(data)

    async def _picture(self, frame: Frame, level: Any, head: dict[str, Any]) -> bytes:
        try:
            about, jpeg = await asyncio.get_running_loop().run_in_executor(self._encoder, frame.encode, level)
        except ImageError as error:
            about, jpeg = {"picture": "none", "error": str(error)}, b""
        text = json.dumps(head | frame.as_json() | about | {"level": LEVELS.index(level)}).encode()
        return struct.pack("<I", len(text)) + text + jpeg

    async def _send(self, message: dict[str, Any] | bytes) -> None:
        await send(self._websocket, message)

    def post(self, message: dict[str, Any] | bytes) -> None:
        """Sends a message in its turn; a browser that is too far behind is disconnected."""
        last = self._events[-1] if self._events else None
        if isinstance(message, dict) and message["type"] == "text" and isinstance(last, dict) \
                and last["type"] == "text" and last["ask"] == message["ask"]:
            last["piece"] += message["piece"]
        elif len(self._events) < _MOST_EVENTS:
            self._events.append(message)
        else:
            self._overflow = True
        self._wake.set()

    def _changed_part(self, state: dict[str, Any]) -> dict[str, Any]:
        node = state["node"]
        if "values" not in node:
            self._known = {}
            return {"type": "state", **state}
        values: dict[str, str] = node["values"]
        changed = {name: value for name, value in values.items() if self._known.get(name) != value}
        gone = [name for name in self._known if name not in values]
        self._known = values
        return {"type": "state", **state, "node": {**node, "values": changed, "gone": gone}}

    # From the browser

    async def _receive_all(self) -> None:
        while True:
            message = await receive(self._websocket)
            if self._too_many():
                continue
            try:
                if isinstance(message, bytes):
                    self._take_sound(message)
                else:
                    self._obey(read_command(message))
            except CommandError as error:
                self.post({"type": "rejected", "about": "", "error": f"this message is refused: {error}"})

    def _too_many(self) -> bool:
        now = time.monotonic()
        if now - self._window_s > _COMMANDS_S:
            self._window_s, self._commands = now, 0
        self._commands += 1
        if self._commands == _MOST_COMMANDS:
            self.post({"type": "rejected", "about": "", "error": f"more than {_MOST_COMMANDS} messages a second are "
                                                                  "refused"})
        return self._commands >= _MOST_COMMANDS

    def _obey(self, command: Command) -> None:
        if isinstance(command, Acknowledge):
            self._pace.acknowledged(command.frame)
            self._wake.set()
        elif isinstance(command, Pong):
            self._pace.pong(command.frame)
        elif isinstance(command, Ask):
            self._ask(command)
        elif isinstance(command, Cancel):
            if reply := self._open.get(command.ask):
                reply.cancel()
        elif isinstance(command, Watch):
            self._watch(command)
        elif isinstance(command, Unwatch):
            if watch := self._watches.get(command.watch):
                watch.cancel()
        elif isinstance(command, Talk):
            self._switch_talk(command)
        elif isinstance(command, Correct):
            try:
                heard = self._robot.correct(command.as_correction())
                self.post({"type": "corrected", "about": command.about, "heard": heard})
            except Exception as error:  # rclpy's and the middleware's have no common base
                self.post({"type": "rejected", "about": command.about, "error": f"not published: {error}"})
        elif isinstance(command, Explain):
            self._explain(command)
        else:
            raise CommandError(f"type: {command.type!r} was said already")

    def _explain(self, command: Explain) -> None:
        def end(response: FindEvidence.Response | str) -> None:
            self._explaining -= 1
            self.post({"type": "evidence", "about": command.about, **evidence(response)})

        self._explaining += 1
        if self._explaining > MOST_OPEN:
            end(f"{MOST_OPEN} questions of this kind are open; wait for their answers")
            return
        try:
            self._robot.find_evidence(command.region.as_region(), header_of(command.stamp, command.frame_id), end,
                                      ANSWER_LIMIT_S)
        except Exception as error:  # the client's, when the server ends
            end(str(error))

    def _switch_talk(self, command: Talk) -> None:
        if self._talk is not None:
            self._talk.end()
            self._talk = None
        if command.on:
            try:
                self._talk = self._robot.talk(command.rate, self._silence)
            except TalkError as error:
                self._silence(str(error))

    def _take_sound(self, data: bytes) -> None:
        if self._talk is None:  # it has ended, and the page has not heard yet
            return
        try:
            self._talk.feed(data)
        except TalkError as error:
            self._talk.end()
            self._silence(str(error))

    def _silence(self, why: str) -> None:
        self._talk = None
        self.post({"type": "silence", "error": why})

    def _ask(self, command: Ask) -> None:
        name = command.ask
        if name in self._open or len(self._open) >= MOST_OPEN:
            self._fail(name, f"{len(self._open)} questions of this browser are open; expected at most {MOST_OPEN}")
            return
        frame = None
        if not command.conversation:
            frame = self._robot.frames.find(command.stamp)
            if frame is None and command.boxes:
                self._fail(name, "the picture that was drawn on is not held any more; draw again")
                return
            frame = frame or self._robot.frames.shown
            if frame is None:
                self._fail(name, self._robot.state()["picture_error"] or "no picture has come yet to ask about")
                return
        query = Query(text=command.text, conversation_id=command.conversation,
                      boxes=[box.as_region() for box in command.boxes])
        if frame is not None:
            query.header = header_of(frame.stamp, frame.header.frame_id)
            self.post({"type": "asked", "ask": name, "stamp": frame.stamp,
                        "age_s": time.monotonic() - frame.received_s})
            if frame.stamp != command.stamp:  # the page has no picture of it
                self._send_still(name, frame)
        try:
            self._open[name] = self._robot.ask(
                query, lambda piece: self.post({"type": "text", "ask": name, "piece": piece}),
                self._ended(name, frame), ANSWER_LIMIT_S)
        except Exception as error:  # the client's, when the server ends
            self._fail(name, str(error))

    def _watch(self, command: Watch) -> None:
        name = command.watch

        def changed(change: WatchAction.Feedback) -> None:
            self.post({"type": "change", "watch": name, "answer": _said(change.answer)})

        def ended(error: str) -> None:
            self._watches.pop(name, None)
            self.post({"type": "unwatched", "watch": name, "error": error})

        if name in self._watches or len(self._watches) >= MOST_WATCHES:
            error = f"{len(self._watches)} watches of this browser go on; expected at most {MOST_WATCHES}"
            self.post({"type": "unwatched", "watch": name, "error": error})
            return
        try:
            query = Query(text=command.text, boxes=[box.as_region() for box in command.boxes])
            self._watches[name] = self._robot.watch_question(query, changed, ended)
        except Exception as error:  # the client's, when the server ends
            ended(str(error))

    def _send_still(self, name: str, frame: Frame) -> None:
        async def send() -> None:
            level = self._pace.level if self._pace.level.width else LEVELS[-2]
            level = LEVELS[max(LEVELS.index(level), _STILL_LEVEL)]
            self.post(await self._picture(frame, level, {"type": "still", "ask": name}))
        task = asyncio.create_task(send())
        self._stills.add(task)
        task.add_done_callback(self._stills.discard)

    def _ended(self, name: str, frame: Frame | None) -> Callable[[Answer | str], None]:
        def end(answer: Answer | str) -> None:
            self._open.pop(name, None)
            if isinstance(answer, str):
                self._fail(name, answer)
                return
            self.post({"type": "answer", "ask": name, **_said(answer), "conversation": answer.conversation_id,
                        "query_id": answer.query_id, "frame_id": answer.header.frame_id,
                        "regions": [{"id": region.id, "box": finite_corners(region), "label": region.label}
                                    for region in answer.regions],
                        "confidence": finite(answer.confidence, 3)})
        return end

    def _fail(self, name: str, error: str) -> None:
        self.post({"type": "failed", "ask": name, "error": error})


def _said(answer: Answer) -> dict[str, Any]:
    return {"status": status_name(answer), "text": answer.text, "error": answer.error,
            "region_ids": list(answer.region_ids), "stamp": stamp_of(answer.header)}

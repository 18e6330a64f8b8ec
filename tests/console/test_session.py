"""What a browser that has gone looks like."""
from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from fastapi import WebSocket, WebSocketDisconnect  # noqa: E402

from ros_gpt4roi.console.session import receive, send  # noqa: E402


def test_a_websocket_that_was_closed_meanwhile_is_a_browser_that_has_left() -> None:
    incoming: list[dict[str, Any]] = [{"type": "websocket.connect"},
                                      {"type": "websocket.disconnect", "code": 1001}]

    async def take() -> dict[str, Any]:
        return incoming.pop(0)

    async def give(message: Any) -> None:
        pass

    async def talk() -> None:
        websocket = WebSocket({"type": "websocket"}, take, give)
        await websocket.accept()
        await websocket.close()
        for message in ({"type": "ping"}, b"picture"):
            with pytest.raises(WebSocketDisconnect):
                await send(websocket, message)
        for _ in range(2):  # told once, and then raised by Starlette
            with pytest.raises(WebSocketDisconnect):
                await receive(websocket)
    asyncio.run(talk())

"""The perception node with its model on a server: descriptions, answers, a server that goes and comes back."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from answering import BOXES, perception_here  # noqa: E402
from camera import Camera  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from perception_fixtures import Asker, described  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, RegionDescriptionArray  # noqa: E402
from ros_peer import Peer  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent.parent / "runtime"))
from chat_server import WORDS, ChatServer, listing, words  # noqa: E402

from ros_gpt4roi.runtime.remote.options import KEY_VARIABLE  # noqa: E402

TEXT = "".join(WORDS)
SETTINGS = {"pipeline.server.retry_s": 0.2,
            "qos.image.reliability": "reliable", "qos.detections.reliability": "reliable",
            "scheduler.answer_timeout_s": 600.0, "scheduler.description_timeout_s": 600.0}


@pytest.fixture(name="server")
def server_fixture() -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.close()


def told(peer: Peer, diagnostics: list[DiagnosticArray], level: bytes, *words: str) -> None:
    peer.wait_for(lambda: diagnostics and diagnostics[-1].status[0].level == level
                  and all(word in diagnostics[-1].status[0].message for word in words), f"diagnostics with {words}")


def test_the_model_runs_on_a_server_which_goes_and_comes_back(peer: Peer, server: ChatServer, tiny_model: Path) -> None:
    with perception_here(peer, tiny_model, SETTINGS | {"pipeline.remote": server.url}):
        diagnostics = peer.collect(DiagnosticArray, "/diagnostics", 10)
        descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        camera, ask = Camera(peer), Asker(peer)
        message = described(peer, descriptions, camera.send(BOXES))
        assert [d.text for d in message.descriptions] == [TEXT] * len(BOXES)
        assert message.model_version == f"qwen@127.0.0.1:{server.port}"
        grown: list[str] = []
        _, answer = ask("what is region 2?", grown)
        assert answer.status == Answer.OK and answer.text == TEXT and grown and all(map(TEXT.startswith, grown))
        server.close()
        _, lost = ask("what is region 1?")
        assert lost.status == Answer.FAILED and str(server.port) in lost.error
        told(peer, diagnostics, DiagnosticStatus.WARN, "cannot be reached")
        again = ChatServer(server.port)
        try:
            # With frames: a silent camera would be told instead.
            peer.wait_for(lambda: camera.send(BOXES) and ask("what is region 1?")[1].status == Answer.OK,
                          "the server's return")
            told(peer, diagnostics, DiagnosticStatus.OK)
        finally:
            again.close()


def with_fallback(server: ChatServer, model: Path) -> dict[str, Any]:
    """Parameters of a node whose model runs on a server, with one that serves here while it does not."""
    return SETTINGS | {"pipeline.remote": server.url, "fallback_model": str(model),
                       "pipeline.vision.backend": "torch", "pipeline.answer_tokens": 12}


def test_a_local_model_serves_from_the_start_while_the_server_refuses_everything(
        peer: Peer, server: ChatServer, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-of-this-robot")
    server.list_models = lambda handler: handler.answer(401, {"error": "sk-of-this-robot has expired"})
    server.behave = lambda handler, body: handler.answer(401, {"error": "sk-of-this-robot has expired"})
    with perception_here(peer, tiny_model, with_fallback(server, tiny_model)):
        diagnostics = peer.collect(DiagnosticArray, "/diagnostics", 10)
        descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        camera, ask = Camera(peer), Asker(peer)
        assert described(peer, descriptions, camera.send(BOXES)).model_version.startswith("tiny@")
        _, answer = ask("what is region 1?")
        assert answer.status == Answer.OK and answer.model_version.startswith("tiny@")
        told(peer, diagnostics, DiagnosticStatus.WARN, "serves in place of", f"refuses the key of {KEY_VARIABLE} (401)")
        assert "sk-of" not in str(diagnostics[-1])
        server.list_models, server.behave = listing, words
        peer.wait_for(lambda: camera.send(BOXES) and ask("what is region 1?")[1].text == TEXT, "the server's return")
        told(peer, diagnostics, DiagnosticStatus.OK)


def test_a_local_model_serves_while_the_server_is_gone(peer: Peer, server: ChatServer, tiny_model: Path) -> None:
    with perception_here(peer, tiny_model, with_fallback(server, tiny_model)):
        diagnostics = peer.collect(DiagnosticArray, "/diagnostics", 10)
        descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        camera, ask = Camera(peer), Asker(peer)
        assert described(peer, descriptions, camera.send(BOXES)).model_version.startswith("qwen@")
        server.close()
        _, answer = ask("what is region 1?")
        assert answer.status == Answer.OK and answer.text and answer.model_version.startswith("tiny@")
        told(peer, diagnostics, DiagnosticStatus.WARN, "serves in place of qwen@", "cannot be reached")
        assert described(peer, descriptions, camera.send(BOXES)).model_version == answer.model_version
        again = ChatServer(server.port)
        try:
            peer.wait_for(lambda: camera.send(BOXES) and ask("what is region 1?")[1].text == TEXT,
                          "the server's return")
            _, follow_up = ask("and region 2?", conversation_id=answer.conversation_id)
            assert follow_up.text == TEXT and follow_up.model_version.startswith("qwen@")
            told(peer, diagnostics, DiagnosticStatus.OK)
        finally:
            again.close()

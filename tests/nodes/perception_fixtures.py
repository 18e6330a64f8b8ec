"""The perception node in its own process with a model of random weights, a camera for it and somebody who asks."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from camera import Camera  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

BOXES = ((2, 2, 20, 20), (30, 10, 60, 40))
ANSWER_TOKENS = 200
QUEUE = 4


@pytest.fixture(scope="module", name="node")
def node_fixture(peer: Peer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process(
        "perception", tmp_path_factory.mktemp("log") / "perception.log", model=tiny_model,
        qos__image__reliability="reliable", qos__detections__reliability="reliable",
        pipeline__vision__backend="torch",
        pipeline__description_tokens=150, pipeline__answer_tokens=ANSWER_TOKENS, pipeline__reuse_distance=0.0,
        pipeline__decoding__draft_tokens=0,
        scheduler__queue_length=QUEUE,
        # A busy machine must not turn an answer into a TIMEOUT.
        scheduler__answer_timeout_s=3600.0, scheduler__description_timeout_s=3600.0)
    peer.watch(process)
    yield process
    assert process.running, f"the node has ended:\n{process.output()}"
    words: list[str] = []  # it is interrupted in the middle of an answer, if it has got a frame to speak of
    peer.action(Ask, "ask").send_goal_async(query_goal(Query(text="why?")), lambda message: words.append(message))
    answers = peer.collect(Answer, "answers", 10)
    peer.wait_for(lambda: words or answers, "the first words")
    assert process.stop() == 0
    assert "Traceback" not in process.output(), process.output()


@pytest.fixture(scope="module", name="descriptions")
def descriptions_fixture(peer: Peer, node: Process) -> list[RegionDescriptionArray]:
    return peer.collect(RegionDescriptionArray, "region_descriptions", 10)


@pytest.fixture(scope="module", name="diagnostics")
def diagnostics_fixture(peer: Peer, node: Process) -> list[DiagnosticArray]:
    return peer.collect(DiagnosticArray, "/diagnostics", 10)


@pytest.fixture(scope="module", name="camera")
def camera_fixture(peer: Peer, descriptions: list[RegionDescriptionArray]) -> Camera:
    return Camera(peer)


@pytest.fixture(scope="module", name="ask")
def ask_fixture(peer: Peer, node: Process) -> Asker:
    return Asker(peer)


class Asker:
    """Sends goals and waits for what comes of them."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._client = peer.action(Ask, "ask")

    def send(self, query: Query, feedback: list | None = None):
        """The accepted goal's handle."""
        def received(message) -> None:
            if feedback is not None:
                feedback.append(message.feedback.text)
        goal = self._peer.result_of(self._client.send_goal_async(query_goal(query), received), "a goal's acceptance")
        assert goal.accepted
        return goal

    def result(self, goal) -> tuple[int, Answer]:
        result = self._peer.result_of(goal.get_result_async(), "an answer")
        return result.status, result.result.answer

    def __call__(self, text: str = "what is region 1?", feedback: list | None = None,
                 **fields: object) -> tuple[int, Answer]:
        return self.result(self.send(Query(text=text, **fields), feedback))


def query_goal(query: Query) -> Ask.Goal:
    return Ask.Goal(query=query)


def described(peer: Peer, descriptions: list[RegionDescriptionArray], header: Header) -> RegionDescriptionArray:
    return peer.wait_for(lambda: next((m for m in descriptions if m.header == header), None),
                         f"descriptions of {header.stamp}")


def reported(peer: Peer, diagnostics: list[DiagnosticArray], key: str, *words: str) -> None:
    """Waits until the diagnostics count a problem whose last text has all the words."""
    def found() -> bool:
        values = {pair.key: pair.value for pair in diagnostics[-1].status[0].values} if diagnostics else {}
        return int(values.get(key, 0)) > 0 and all(word in values[f"{key}, last"] for word in words)
    peer.wait_for(found, f"{key} with {words} in /diagnostics")

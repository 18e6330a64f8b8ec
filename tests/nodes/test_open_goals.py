"""What is open when the perception node is deactivated, cleaned up or ended gets its answer."""
from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from lifecycle_fixtures import (  # noqa: F401, E402
    CompressedCamera,
    Managed,
    engines_fixture,
    managed_fixture,
    node_fixture,
)
from lifecycle_msgs.msg import Transition  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402


def test_deactivation_answers_what_is_open(peer: Peer, managed: Managed, tiny_model: Path) -> None:
    managed.set_model(tiny_model)
    assert managed.change(Transition.TRANSITION_CONFIGURE) and managed.change(Transition.TRANSITION_ACTIVATE)
    camera, described = CompressedCamera(peer), peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    client = peer.action(Ask, "ask")
    answer = None
    while answer is None or answer.status != Answer.CANCELED:  # until an answer has been cut off
        described.clear()
        camera.send_until(described, "descriptions")
        words: list = []
        sent = client.send_goal_async(Ask.Goal(query=Query(text="what is region 7?")), words.append)
        result = peer.result_of(sent, "a goal's acceptance").get_result_async()
        peer.wait_for(lambda: words or result.done(), "words or a refusal")
        assert managed.change(Transition.TRANSITION_DEACTIVATE)
        answer = peer.result_of(result, "an answer").result.answer
        assert answer.status in (Answer.NO_FRAME, Answer.OK, Answer.CANCELED), answer.error
        assert managed.change(Transition.TRANSITION_ACTIVATE)
    assert answer.error
    assert managed.ask().status == Answer.NO_FRAME, "a frame from before the deactivation is asked about"
    client.destroy()


class Crowd:
    """Goals that are all being worked on."""

    def __init__(self, peer: Peer, camera: CompressedCamera, count: int) -> None:
        self._peer = peer
        history = QoSProfile(depth=100)
        self._client = peer.action(Ask, "ask", goal_service_qos_profile=history, result_service_qos_profile=history)
        self._results: list = []
        sent = [self._client.send_goal_async(Ask.Goal(query=Query(text="what is region 7?"))) for _ in range(count)]
        peer.wait_for(lambda: all(future.done() for future in sent), f"{count} acceptances")
        self._results = [future.result().get_result_async() for future in sent]

    def statuses(self) -> list[int]:
        """How they ended, once all have."""
        self._peer.wait_for(lambda: all(future.done() for future in self._results), "all results")
        self._client.destroy()
        return [future.result().result.answer.status for future in self._results]


def active_with_a_frame(peer: Peer, managed: Managed, tiny_model: Path) -> CompressedCamera:
    managed.set_model(tiny_model)
    assert managed.change(Transition.TRANSITION_CONFIGURE) and managed.change(Transition.TRANSITION_ACTIVATE)
    camera, described = CompressedCamera(peer), peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    camera.send_until(described, "descriptions")
    return camera


def test_open_goals_end_before_the_server_goes(peer: Peer, managed: Managed, tiny_model: Path) -> None:
    crowd = Crowd(peer, active_with_a_frame(peer, managed, tiny_model), 16)
    managed.unconfigure()  # deactivates, and cleans up at once
    statuses = crowd.statuses()
    assert set(statuses) <= {Answer.CANCELED, Answer.OK} and Answer.CANCELED in statuses


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_open_goals_end_before_the_process_does(peer: Peer, node: Process, managed: Managed, tiny_model: Path,
                                                tmp_path: Path, number: signal.Signals) -> None:
    managed.unconfigure()
    process = Process("perception", tmp_path / "ending.log", model=tiny_model, transport="compressed",
                      pipeline__vision__backend="torch", pipeline__answer_tokens=400,
                      scheduler__answer_timeout_s=3600.0)
    described = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    camera = CompressedCamera(peer)
    camera.send_until(described, "descriptions")
    crowd = Crowd(peer, camera, 16)
    peer.watch(node)
    process.send_signal(number)
    statuses = crowd.statuses()
    assert process.wait() == 0 and "Traceback" not in process.output()
    assert set(statuses) <= {Answer.CANCELED, Answer.OK} and Answer.CANCELED in statuses

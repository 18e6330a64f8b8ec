"""The perception node under a lifecycle manager, and a camera of compressed images for it."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from camera import claim_size  # noqa: E402
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.msg import Parameter as ParameterMessage  # noqa: E402
from rcl_interfaces.msg import ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from vision_msgs.msg import Detection2D, Detection2DArray  # noqa: E402

from ros_gpt4roi.image_messages import rgb_to_compressed  # noqa: E402
from ros_gpt4roi.messages import box_to_message  # noqa: E402


class Managed:
    """What a lifecycle manager does to the node."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def change(self, transition: int, label: str = "") -> bool:
        request = ChangeState.Request(transition=Transition(id=transition, label=label))
        return self._peer.call(ChangeState, "/perception/change_state", request).success

    def state(self) -> int:
        return self._peer.call(GetState, "/perception/get_state", GetState.Request()).current_state.id

    def set_model(self, model: Path) -> None:
        self.set(model=str(model))

    def set(self, **values: str) -> None:
        for name, value in values.items():
            self.set_parameter(name.replace("__", "."), ParameterValue(type=ParameterType.PARAMETER_STRING,
                                                                       string_value=value))

    def set_parameter(self, name: str, value: ParameterValue) -> None:
        response = self._peer.call(SetParameters, "/perception/set_parameters", SetParameters.Request(
            parameters=[ParameterMessage(name=name, value=value)]))
        assert all(result.successful for result in response.results), response.results

    def unconfigure(self) -> None:
        if self.state() == State.PRIMARY_STATE_ACTIVE:
            assert self.change(Transition.TRANSITION_DEACTIVATE)
        if self.state() == State.PRIMARY_STATE_INACTIVE:
            assert self.change(Transition.TRANSITION_CLEANUP)
        assert self.state() == State.PRIMARY_STATE_UNCONFIGURED

    def ask(self) -> Answer:
        client = self._peer.action(Ask, "ask")
        sent = client.send_goal_async(Ask.Goal(query=Query(text="what is region 1?")))
        goal = self._peer.result_of(sent, "a goal's acceptance")
        answer = self._peer.result_of(goal.get_result_async(), "an answer").result.answer
        client.destroy()
        return answer


class CompressedCamera:
    """A camera of jpeg images and a tracker of one object."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._images = peer.publisher(CompressedImage, "image/compressed")
        self._detections = peer.publisher(Detection2DArray, "detections")
        self._pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
        self._seconds = 0

    def send(self, spoiled: bool = False, claimed: tuple[int, int] | None = None, restamped: bool = False) -> None:
        """Sends an image and its boxes.

        spoiled: the picture ends before its pixels. claimed: width and height that its header claims. restamped: the
        boxes have a stamp of their own.
        """
        self._seconds += 1
        header = Header(frame_id="camera")
        header.stamp.sec = self._seconds
        message = rgb_to_compressed(self._pixels, header)
        if spoiled:
            message.data = message.data[:bytes(message.data).index(b"\xff\xda")]
        if claimed:
            message = claim_size(message, *claimed)
        self._images.publish(message)
        if restamped:
            header = Header(frame_id="camera")
            header.stamp.sec, header.stamp.nanosec = self._seconds, 1
        self._detections.publish(Detection2DArray(header=header, detections=[
            Detection2D(id="7", bbox=box_to_message((2, 2, 20, 20)))]))

    def send_until(self, seen: list, what: str) -> None:
        """The default inputs are best effort: a frame that is lost is sent again."""
        def sent() -> bool:
            self.send()
            self._peer.executor.spin_once(timeout_sec=0.2)
            return bool(seen)
        self._peer.wait_for(sent, what)


@pytest.fixture(scope="module", name="engines")
def engines_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The node's folder of engines; it is taken at the start."""
    return tmp_path_factory.mktemp("engines") / "cache"


@pytest.fixture(scope="module", name="node")
def node_fixture(peer: Peer, engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process("perception", tmp_path_factory.mktemp("log") / "managed.log", model="no/such/model",
                      autostart=False, transport="compressed", pipeline__vision__backend="torch",
                      pipeline__vision__engine__cache=engines,
                      pipeline__description_tokens=8,
                      pipeline__answer_tokens=400, scheduler__answer_timeout_s=3600.0,
                      scheduler__description_timeout_s=3600.0)
    peer.watch(process)
    yield process
    assert process.running, f"the node has ended:\n{process.output()}"
    assert process.stop() == 0
    assert "Traceback" not in process.output(), process.output()


@pytest.fixture(name="managed")
def managed_fixture(peer: Peer, node: Process) -> Managed:
    managed = Managed(peer)
    managed.unconfigure()
    return managed

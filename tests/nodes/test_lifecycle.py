"""The perception node under a lifecycle manager: bad models, states that take no work, compressed images."""
from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
import rclpy  # noqa: E402
from camera import claim_size  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.msg import Parameter as ParameterMessage  # noqa: E402
from rcl_interfaces.msg import ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import DescribeRegions  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from vision_msgs.msg import Detection2D, Detection2DArray  # noqa: E402

from ros_gpt4roi.engine.cache import EngineCache, model_entry  # noqa: E402
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


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The node's folder of engines; it is taken at the start."""
    return tmp_path_factory.mktemp("engines") / "cache"


@pytest.fixture(scope="module")
def node(peer: Peer, engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
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


@pytest.fixture
def managed(peer: Peer, node: Process) -> Managed:
    managed = Managed(peer)
    managed.unconfigure()
    return managed


def cut(folder: Path) -> str:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return "model.safetensors"


def other_version(folder: Path) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    return "99"


def without_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "config.json"


def missing(folder: Path) -> str:
    shutil.rmtree(folder)
    return str(folder)


def not_finite(folder: Path) -> str:
    from safetensors.torch import load_file, save_file
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "lm_head" in name)
    save_file({**weights, name: weights[name] * float("nan")}, folder / "model.safetensors", {"format": "pt"})
    return "not finite"


@pytest.mark.parametrize("spoil", [cut, other_version, without_config, missing, not_finite])
def test_a_model_that_can_not_be_loaded_is_told_and_another_one_taken(
        peer: Peer, managed: Managed, tiny_model: Path, tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    word = spoil(folder)
    managed.set_model(folder)
    assert not managed.change(Transition.TRANSITION_CONFIGURE)
    assert managed.state() == State.PRIMARY_STATE_UNCONFIGURED
    reports = peer.collect(DiagnosticArray, "/diagnostics", 10)
    peer.wait_for(lambda: reports, "diagnostics")
    status = reports[-1].status[0]
    assert status.level == DiagnosticStatus.ERROR and word in status.message
    managed.set_model(tiny_model)
    assert managed.change(Transition.TRANSITION_CONFIGURE)


def test_diagnostics_come_while_configuring_waits_for_another_process(
        peer: Peer, managed: Managed, tiny_model: Path, engines: Path) -> None:
    cache = EngineCache(engines)
    managed.set(model=str(tiny_model), pipeline__vision__backend="auto", pipeline__vision__engine__build="never")
    reports = peer.collect(DiagnosticArray, "/diagnostics", 10)
    client = peer.node.create_client(ChangeState, "/perception/change_state")
    peer.wait_for(client.service_is_ready, "the node's services")
    try:
        with cache.lock(f"{model_entry(tiny_model)}.onnx", 10):
            request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
            configured = client.call_async(request)

            def waiting() -> bool:
                messages = [report.status[0].message for report in reports]
                return sum(message.startswith(f"waiting for process {os.getpid()}, which works on engine")
                           for message in messages) >= 3
            peer.wait_for(waiting, "three reports of the waiting")
            assert not configured.done()
        assert peer.result_of(configured, "the end of configuring").success
        reports.clear()
        peer.wait_for(lambda: reports, "diagnostics")
        assert reports[-1].status[0].message == "inactive"
    finally:
        managed.unconfigure()
        managed.set(pipeline__vision__backend="torch", pipeline__vision__engine__build="auto")


def test_the_folder_that_is_written_to_can_not_be_changed_from_outside(
        peer: Peer, managed: Managed, tmp_path: Path) -> None:
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(tmp_path))
    for parameter in ("pipeline.vision.engine.cache",):
        response = peer.call(SetParameters, "/perception/set_parameters", SetParameters.Request(
            parameters=[ParameterMessage(name=parameter, value=value)]))
        assert not response.results[0].successful and "read-only" in response.results[0].reason


@pytest.mark.slow
def test_an_engine_is_built_in_configure_with_progress_or_refused(peer: Peer, managed: Managed,
                                                                  tiny_model: Path) -> None:
    reports = peer.collect(DiagnosticArray, "/diagnostics", 10)

    def last_status() -> DiagnosticStatus:
        reports.clear()
        peer.wait_for(lambda: reports, "diagnostics")
        return reports[-1].status[0]

    managed.set(model=str(tiny_model), pipeline__vision__backend="onnxruntime", pipeline__vision__engine__build="never")
    try:
        assert not managed.change(Transition.TRANSITION_CONFIGURE)
        status = last_status()
        assert status.level == DiagnosticStatus.ERROR and "building is switched off" in status.message
        managed.set(pipeline__vision__engine__build="auto")
        reports.clear()
        assert managed.change(Transition.TRANSITION_CONFIGURE)
        assert any(report.status[0].message.startswith("exporting to ONNX, ") for report in reports)
        assert {pair.key: pair.value for pair in last_status().values}["vision stage"] == "onnxruntime: fp32, asked for"
        # A node that must not build finds what this one has built.
        managed.unconfigure()
        managed.set(pipeline__vision__engine__build="never")
        assert managed.change(Transition.TRANSITION_CONFIGURE)
        assert managed.change(Transition.TRANSITION_ACTIVATE)
        camera, described = CompressedCamera(peer), peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        camera.send_until(described, "descriptions")
        assert described[0].descriptions[0].text
    finally:
        managed.unconfigure()
        managed.set(pipeline__vision__backend="torch", pipeline__vision__engine__build="auto")


@pytest.mark.parametrize("transition, label", [
    (Transition.TRANSITION_ACTIVATE, ""), (Transition.TRANSITION_CLEANUP, ""),
    (Transition.TRANSITION_ACTIVE_SHUTDOWN, ""),
    (Transition.TRANSITION_CALLBACK_SUCCESS, ""), (99, ""), (0, "no such transition"), (0, "activate"),
])
def test_a_transition_that_is_not_possible_is_refused_and_the_node_lives(managed: Managed, transition: int,
                                                                         label: str) -> None:
    assert not managed.change(transition, label)
    assert managed.state() == State.PRIMARY_STATE_UNCONFIGURED


def test_a_label_from_outside_is_logged_escaped(node: Process, managed: Managed) -> None:
    assert not managed.change(0, "\x1b[31m\n[INFO] forged \u202e")
    assert r"\x1b[31m\n[INFO] forged \u202e" in node.output() and "\n[INFO] forged" not in node.output()


def test_a_request_that_rclpy_raises_at_is_responded_to(peer: Peer, node: Process, managed: Managed) -> None:
    value = ParameterValue(type=99)
    response = peer.call(SetParameters, "/perception/set_parameters", SetParameters.Request(
        parameters=[ParameterMessage(name="model", value=value)]))
    assert not any(result.successful for result in response.results)
    assert "service /perception/set_parameters failed: ValueError: 99" in node.output()
    assert managed.state() == State.PRIMARY_STATE_UNCONFIGURED


def test_diagnostics_come_while_ros_time_stands_still(peer: Peer, managed: Managed, tiny_model: Path) -> None:
    reports = peer.collect(DiagnosticArray, "/diagnostics", 10)
    try:
        managed.set_parameter("use_sim_time", ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True))
        managed.set_model(tiny_model)
        assert managed.change(Transition.TRANSITION_CONFIGURE)
        reports.clear()
        peer.wait_for(lambda: len(reports) >= 3, "three reports")
        assert reports[-1].status[0].message == "inactive" and reports[-1].header.stamp.sec == 0
    finally:
        managed.set_parameter("use_sim_time", ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=False))


def test_no_work_is_taken_before_activation_or_after_deactivation(managed: Managed, tiny_model: Path) -> None:
    managed.set_model(tiny_model)
    assert managed.change(Transition.TRANSITION_CONFIGURE)
    answer = managed.ask()
    assert answer.status == Answer.FAILED and "not active" in answer.error
    assert managed.change(Transition.TRANSITION_ACTIVATE)
    answer = managed.ask()
    assert answer.status == Answer.NO_FRAME and answer.error
    assert managed.change(Transition.TRANSITION_DEACTIVATE)
    assert managed.ask().status == Answer.FAILED


def test_without_an_image_the_service_says_so(peer: Peer, managed: Managed, tiny_model: Path) -> None:
    managed.set_model(tiny_model)
    assert managed.change(Transition.TRANSITION_CONFIGURE) and managed.change(Transition.TRANSITION_ACTIVATE)
    response = peer.call(DescribeRegions, "describe_regions", DescribeRegions.Request())
    assert response.status == Answer.NO_FRAME and response.error


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


def test_sources_that_stop_and_a_second_node_of_its_name_are_told(peer: Peer, managed: Managed,
                                                                  tiny_model: Path) -> None:
    managed.set_model(tiny_model)
    assert managed.change(Transition.TRANSITION_CONFIGURE) and managed.change(Transition.TRANSITION_ACTIVATE)
    reports = peer.collect(DiagnosticArray, "/diagnostics", 10)

    def told(*words: str) -> bool:
        status = reports[-1].status[0] if reports else DiagnosticStatus(level=DiagnosticStatus.OK)
        return status.level == DiagnosticStatus.WARN and all(word in status.message for word in words)

    peer.wait_for(lambda: told("active", "/image/compressed: nothing has arrived yet", "/detections: nothing"),
                  "a warning of inputs that never came")
    camera, described = CompressedCamera(peer), peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    camera.send_until(described, "descriptions")

    def well() -> bool:
        camera.send()
        peer.executor.spin_once(timeout_sec=0.2)
        return bool(reports) and reports[-1].status[0].level == DiagnosticStatus.OK
    peer.wait_for(well, "a report without warnings")
    peer.wait_for(lambda: told("/image/compressed: nothing has come for", "/detections: nothing has come for"),
                  "a warning of inputs that have stopped")
    namesake = rclpy.create_node("perception")
    peer.wait_for(lambda: told("2 nodes are called /perception"), "a warning of the second node")
    namesake.destroy_node()


def test_images_and_boxes_that_never_meet_are_told(peer: Peer, managed: Managed, tiny_model: Path) -> None:
    def limit(seconds: float) -> None:
        managed.set_parameter("scheduler.description_timeout_s", ParameterValue(
            type=ParameterType.PARAMETER_DOUBLE, double_value=seconds))

    limit(0.5)
    managed.set_model(tiny_model)
    try:
        assert managed.change(Transition.TRANSITION_CONFIGURE) and managed.change(Transition.TRANSITION_ACTIVATE)
        camera, reports = CompressedCamera(peer), peer.collect(DiagnosticArray, "/diagnostics", 10)

        def told() -> bool:
            camera.send(restamped=True)
            peer.executor.spin_once(timeout_sec=0.2)
            message = reports[-1].status[0].message if reports else ""
            return "no frame was described for" in message and "sync.slop_s" in message
        peer.wait_for(told, "the warning")
    finally:
        managed.unconfigure()
        limit(3600.0)


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


def test_compressed_images_and_a_broken_one(peer: Peer, managed: Managed, tiny_model: Path) -> None:
    managed.set_model(tiny_model)
    assert managed.change(Transition.TRANSITION_CONFIGURE) and managed.change(Transition.TRANSITION_ACTIVATE)
    descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    camera = CompressedCamera(peer)
    camera.send_until(descriptions, "a description of a compressed image")
    reports = peer.collect(DiagnosticArray, "/diagnostics", 10)

    def refused() -> bool:
        camera.send(spoiled=True)
        peer.executor.spin_once(timeout_sec=0.2)
        values = {pair.key: pair.value for pair in reports[-1].status[0].values} if reports else {}
        return "can not be decoded" in values.get("image refused, last", "")
    peer.wait_for(refused, "the broken image in /diagnostics")

    def bombed() -> bool:
        camera.send(claimed=(30000, 30000))
        peer.executor.spin_once(timeout_sec=0.2)
        values = {pair.key: pair.value for pair in reports[-1].status[0].values} if reports else {}
        return "image.max_pixels" in values.get("image refused, last", "")
    peer.wait_for(bombed, "the picture of too many pixels in /diagnostics")
    descriptions.clear()
    camera.send_until(descriptions, "a description after the broken image")
    assert [d.region.id for d in descriptions[-1].descriptions] == ["7"]

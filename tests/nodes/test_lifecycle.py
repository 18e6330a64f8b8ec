"""The perception node under a lifecycle manager: bad models, states that take no work, compressed images."""
from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
import rclpy  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from lifecycle_fixtures import (  # noqa: F401, E402
    CompressedCamera,
    Managed,
    engines_fixture,
    managed_fixture,
    node_fixture,
)
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rcl_interfaces.msg import Parameter as ParameterMessage  # noqa: E402
from rcl_interfaces.msg import ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import DescribeRegions  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402

from ros_gpt4roi.engine.cache import EngineCache, model_entry  # noqa: E402
from ros_gpt4roi.messages import box_to_message  # noqa: E402


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


def test_boxes_of_another_resolution_are_scaled_to_the_image(peer: Peer, managed: Managed, tiny_model: Path) -> None:
    def resolution(width: int, height: int) -> None:
        for name, value in (("width", width), ("height", height)):
            managed.set_parameter(f"detections.{name}", ParameterValue(type=ParameterType.PARAMETER_INTEGER,
                                                                       integer_value=value))

    resolution(32, 24)  # the camera's images are of 64x48
    managed.set_model(tiny_model)
    try:
        assert managed.change(Transition.TRANSITION_CONFIGURE) and managed.change(Transition.TRANSITION_ACTIVATE)
        camera, described = CompressedCamera(peer), peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        camera.send_until(described, "descriptions")
        assert [item.region.bbox for item in described[0].descriptions] == [box_to_message((4, 4, 40, 40))]
    finally:
        managed.unconfigure()
        resolution(0, 0)


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

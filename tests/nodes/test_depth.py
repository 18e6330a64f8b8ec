"""Depth from its message to the positions of regions: alone, and through the node and the simulated camera on DDS."""
from __future__ import annotations

import gc
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Query, RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from vision_msgs.msg import Detection3DArray  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from ros_gpt4roi.image_messages import MessageImage, rgb_to_image  # noqa: E402
from ros_gpt4roi.nodes.depth import DepthParameters, DepthSource  # noqa: E402
from ros_gpt4roi.nodes.diagnostics import Problems  # noqa: E402
from ros_gpt4roi.nodes.sim_camera import depth_to_image, pinhole  # noqa: E402
from ros_gpt4roi.runtime.types import Frame, Region  # noqa: E402

WIDTH, HEIGHT, SECOND = 64, 48, 1_000_000_000
REGION = Region("1", (22, 14, 42, 34))


def header(stamp_ns: int, frame_id: str = "optical") -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = divmod(stamp_ns, SECOND)
    return made


def frame_of(stamp_ns: int) -> Frame:
    message = rgb_to_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), header(stamp_ns))
    return Frame(MessageImage(message), (REGION,), stamp_ns, "optical", message.header)


def depth_of(stamp_ns: int, metres: float = 2.0, encoding: str = "16UC1", **changes: object) -> Image:
    message = depth_to_image(np.full((HEIGHT, WIDTH), metres, np.float32), encoding)
    message.header = header(stamp_ns)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def info_of(**changes: object) -> CameraInfo:
    message = pinhole(WIDTH, HEIGHT, 50.0)
    message.header = header(0)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


class Source(DepthSource):
    """With what it reports beside it."""

    def __init__(self, **parameters: object) -> None:
        self.problems = Problems(lambda text: None)
        super().__init__(DepthParameters(**parameters), keep_s=60, max_bytes=4 * WIDTH * HEIGHT, problems=self.problems)

    def z(self, frame: Frame) -> float | None:
        found = self.positions(frame, frame.regions).get("1")
        return None if found is None else found.point[2]


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_both_encodings_give_metres(encoding: str) -> None:
    source = Source()
    source.on_camera_info(info_of())
    source.on_depth(depth_of(SECOND, 1.234, encoding))
    frame = frame_of(SECOND)
    found = source.positions(frame, frame.regions)["1"]
    assert found.point == pytest.approx((0, 0, 1.234), abs=1e-5) and not source.problems.values()


def test_big_endian_and_padded_rows_are_read() -> None:
    source = Source()
    source.on_camera_info(info_of())
    rows = np.zeros((HEIGHT, WIDTH + 3), ">u2")
    rows[:, :WIDTH] = 1500
    message = Image(header=header(SECOND), width=WIDTH, height=HEIGHT, encoding="16UC1", is_bigendian=1,
                    step=2 * (WIDTH + 3))
    message.data.frombytes(rows.tobytes())
    source.on_depth(message)
    assert source.z(frame_of(SECOND)) == pytest.approx(1.5)


def test_the_nearest_depth_within_the_tolerance_is_taken() -> None:
    source = Source(slop_s=0.02)
    source.on_camera_info(info_of())
    for stamp, metres in ((SECOND - 15_000_000, 1.0), (SECOND + 5_000_000, 2.0)):
        source.on_depth(depth_of(stamp, metres))
    assert source.z(frame_of(SECOND)) == pytest.approx(2.0)
    assert source.z(frame_of(SECOND + SECOND)) is None
    text = source.problems.values()["frame without depth, last"]
    assert "0.02 s" in text and "2.000000000 s" in text and "1.005000000 s" in text


def test_the_depth_of_a_frame_stays_as_long_as_its_picture() -> None:
    source = Source()
    source.on_camera_info(info_of())
    frame = frame_of(SECOND)
    source.on_depth(depth_of(SECOND, 1.0))
    source.hold(frame)
    for later in range(1, 4):  # more than the buffer takes
        source.on_depth(depth_of((1 + later) * SECOND))
    assert source.z(frame_of(SECOND)) is None
    asked_later = Frame(frame.image, (*frame.regions, Region("2", (0, 0, 20, 20))), SECOND, "optical", frame.header)
    assert set(source.positions(asked_later, asked_later.regions)) == {"1", "2"}
    del frame, asked_later
    gc.collect()
    assert not source._held


def test_without_any_depth_nothing_is_said() -> None:
    source = Source()
    source.on_camera_info(info_of())
    assert source.z(frame_of(SECOND)) is None and not source.problems.values()


@pytest.mark.parametrize("changes, words", [
    ({"encoding": "rgb8"}, ["'rgb8'", "16UC1"]), ({"step": 100}, ["step 100", "128"]),
    ({"height": 47}, ["6144 bytes", "6016"]), ({"width": 0}, ["0x48"]),
])
def test_a_depth_image_that_contradicts_itself_is_refused(changes: dict, words: list[str]) -> None:
    source = Source()
    source.on_depth(depth_of(SECOND, **changes))
    text = source.problems.values()["depth refused, last"]
    assert all(word in text for word in words), text


@pytest.mark.parametrize("info, depth, words", [
    (None, {}, ["no camera_info"]),
    (dict(width=128), {}, ["camera_info is of 128x48", "64x48"]),
    (dict(header=header(0, "other")), {}, ["camera_info", "'other'", "'optical'"]),
    (dict(k=[0.0] * 9), {}, ["focal lengths are (0.0, 0.0)"]),
    (dict(binning_x=2), {}, ["binning"]),
    (dict(distortion_model="mine", d=[0.1]), {}, ["'mine'", "plumb_bob"]),
    (dict(d=[0.1] * 3), {}, ["plumb_bob", "3 coefficients", "4 or 5"]),
    ({}, dict(width=32, step=64, height=96), ["depth image is of 32x96", "64x48"]),
    ({}, dict(header=header(SECOND, "depth_optical")), ["depth image", "'depth_optical'", "aligned"]),
])
def test_what_does_not_fit_is_told_and_the_frame_goes_without(info: dict | None, depth: dict,
                                                              words: list[str]) -> None:
    source = Source()
    if info is not None:
        source.on_camera_info(info_of(**info))
    source.on_depth(depth_of(SECOND, **depth))
    assert source.z(frame_of(SECOND)) is None
    text = source.problems.values()["depth not used, last"]
    assert all(word in text for word in words), text


def test_a_rectified_image_is_read_by_p() -> None:
    p = [100.0, 0.0, 31.5, 0.0, 0.0, 100.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    for rectified, width in ((False, 20 / 50 * 2), (True, 20 / 100 * 2)):
        source = Source(rectified=rectified)
        source.on_camera_info(info_of(p=p))
        source.on_depth(depth_of(SECOND))
        frame = frame_of(SECOND)
        assert source.positions(frame, frame.regions)["1"].size[0] == pytest.approx(width)


def test_regions_have_their_true_positions_through_the_node(peer: Peer, tiny_model: Path, tmp_path: Path) -> None:
    from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
    with TabletopRenderer(320, 240) as renderer:
        truth = {str(item.object_index + 1): item for item in renderer.render("test", 0, 0).objects}
    reliable = {"qos__reliability": "reliable"}
    camera = Process("sim_camera", tmp_path / "camera.log", views=1, width=320, height=240, rate_hz=2.0, depth="32FC1",
                     **reliable)
    node = Process("perception", tmp_path / "node.log", model=tiny_model, pipeline__vision__backend="torch",
                   pipeline__description_tokens=5, pipeline__answer_tokens=5, scheduler__answer_timeout_s=3600.0,
                   qos__image__reliability="reliable", qos__detections__reliability="reliable",
                   qos__depth__reliability="reliable")
    try:
        peer.watch(node)
        descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        in_space = peer.collect(Detection3DArray, "described_detections_3d", 10)
        markers = peer.collect(MarkerArray, "region_markers", 10)

        def complete() -> tuple | None:
            for described in descriptions:
                found = [next((m for m in messages if m.header == described.header), None) for messages in (in_space,)]
                drawn = next((m for m in markers if m.markers[0].header == described.header), None)
                if all(found) and drawn and all(item.region.has_position for item in described.descriptions):
                    return described, *found, drawn
            return None
        described, detections, drawn = peer.wait_for(complete, "positions of all regions, in three messages")
        assert {item.region.id for item in described.descriptions} == set(truth)
        for item, detection, marker in zip(described.descriptions, detections.detections, drawn.markers[1:],
                                           strict=True):
            point = item.region.position
            away = math.dist((0, 0, 0), (point.x, point.y, point.z))
            assert abs(truth[item.region.id].distance - away) < 0.1, "no farther than half an object"
            assert 0 <= item.region.position_spread < 0.15
            assert detection.id == item.region.id and detection.bbox.center.position == point
            assert detection.results[0].hypothesis.class_id == item.text
            assert (marker.type, marker.pose.position.z) == (Marker.TEXT_VIEW_FACING, point.z)
            assert marker.text == f"{item.region.id}: {item.text}" and marker.header == described.header
        assert drawn.markers[0].action == Marker.DELETEALL

        region = next(iter(truth))
        client = peer.action(Ask, "ask")
        goal = peer.result_of(client.send_goal_async(Ask.Goal(query=Query(text=f"what is region {region}?"))),
                              "an accepted goal")
        answer = peer.result_of(goal.get_result_async(), "an answer").result.answer
        assert [found.id for found in answer.regions] == [region], answer
        assert answer.regions[0].has_position and answer.regions[0].position.z > 0.2
        client.destroy()
    finally:
        assert camera.stop() == 0 and node.stop() == 0

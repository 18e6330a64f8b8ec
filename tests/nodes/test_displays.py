"""What display tools are sent: as messages, and by the node in its own process on real DDS."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
import message_packages  # noqa: E402
from camera import Camera  # noqa: E402
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from vision_msgs.msg import Detection2DArray  # noqa: E402
from visualization_msgs.msg import ImageMarker  # noqa: E402

from ros_gpt4roi.annotate import region_colour  # noqa: E402
from ros_gpt4roi.messages import box_to_message  # noqa: E402
from ros_gpt4roi.nodes.displays import described_detections, image_marker  # noqa: E402
from ros_gpt4roi.nodes.optional import optional_messages  # noqa: E402
from ros_gpt4roi.runtime.masks import Mask  # noqa: E402
from ros_gpt4roi.runtime.types import Description, Frame, FrameDescriptions, Region  # noqa: E402

BOXES = ((2.0, 2.0, 20.0, 20.0), (30.0, 10.0, 60.0, 40.0))


@pytest.fixture
def result() -> FrameDescriptions:
    header = Header(frame_id="camera_optical")
    header.stamp.sec = 12
    regions = Region("7", (10, 20, 30, 60), "mug", 0.5), Region("here", (5, 6, 5, 6))
    frame = Frame(np.zeros((480, 640, 3), np.uint8), regions, 12_000_000_000, "camera_optical", header)
    return FrameDescriptions(frame, (Description(regions[0], "a red mug", 0.75), Description(regions[1], "", 0.5)))


def corners(message: ImageMarker) -> list[tuple[float, float]]:
    return [(point.x, point.y) for point in message.points]


def test_a_detection_has_the_description_for_its_class(result: FrameDescriptions) -> None:
    message = described_detections(result)
    assert message.header == result.frame.header
    first, second = message.detections
    assert (first.id, second.id) == ("7", "here") and first.header == message.header
    assert first.bbox == box_to_message((10, 20, 30, 60))
    assert [(item.hypothesis.class_id, item.hypothesis.score) for item in first.results] == [("a red mug", 0.75)]


def test_an_image_marker_outlines_boxes_and_crosses_points(result: FrameDescriptions) -> None:
    message = image_marker(result)
    assert message.header == result.frame.header and message.type == ImageMarker.LINE_LIST
    points = corners(message)
    assert points[:8] == [(10, 20), (30, 20), (30, 20), (30, 60), (30, 60), (10, 60), (10, 60), (10, 20)]
    assert points[8:] == [(0, 6), (10, 6), (5, 1), (5, 11)]
    assert len(message.outline_colors) == len(points)
    assert [round(255 * value) for value in (message.outline_colors[8].r, message.outline_colors[8].g,
                                             message.outline_colors[8].b)] == list(region_colour("here"))


def test_an_image_marker_outlines_masks(result: FrameDescriptions) -> None:
    masks = [Mask.of_polygons([((10, 20), (30, 20), (10, 60))]), Mask.of_runs(32, 24, [0, 2, 22, 2, 742])]
    regions = [Region(str(place), (0, 0, 640, 480), mask=mask) for place, mask in enumerate(masks)]
    message = image_marker(replace(result, descriptions=tuple(Description(region, "", 0.5) for region in regions)))
    points = corners(message)
    assert points[:6] == [(10, 20), (30, 20), (30, 20), (10, 60), (10, 60), (10, 20)]
    assert set(points[6:]) == {(10, 10), (10, 30), (30, 10), (30, 30)}, "through the centres of cells"
    assert len(message.outline_colors) == len(points)


def test_a_package_that_is_not_there_is_none() -> None:
    assert optional_messages("no_such_msgs", "Nothing") is None
    assert optional_messages("std_msgs", "NoSuchMessage") is None
    assert optional_messages("std_msgs", "Header") is not None


@pytest.fixture
def node(peer: Peer, tiny_model: Path, tmp_path: Path) -> Iterator[Process]:
    """It ends with its test: two nodes of one name space would both describe what a test's camera sends."""
    process = start(peer, tiny_model, tmp_path)
    yield process
    assert process.stop() == 0


def start(peer: Peer, model: Path, folder: Path) -> Process:
    process = Process("perception", folder / "perception.log", model=model, pipeline__vision__backend="torch",
                      qos__image__reliability="reliable", qos__detections__reliability="reliable",
                      pipeline__description_tokens=5, scheduler__description_timeout_s=3600.0)
    peer.watch(process)
    return process


def published(peer: Peer, camera: Camera, *received: list) -> tuple:
    """One message of each list, all of the same frame."""
    def matching() -> tuple | None:
        # The node makes them only for those who listen, and learns of a listener a little later than it of the node.
        stamps = [{stamp_of(message): message for message in messages} for messages in received]
        common = set.intersection(*map(set, stamps))
        if not common:
            camera.send(BOXES, ids=("mug", "bowl"))
            return None
        return tuple(messages[max(common)] for messages in stamps)
    return peer.wait_for(matching, "what is shown of one frame", poll_s=0.2)


def stamp_of(message) -> tuple[int, int]:
    stamp = message.texts[0].timestamp if hasattr(message, "texts") else message.header.stamp
    return stamp.sec, stamp.nanosec


def test_what_is_described_is_published_for_display(peer: Peer, node: Process) -> None:
    topics = ((RegionDescriptionArray, "region_descriptions"), (Detection2DArray, "described_detections"),
              (ImageMarker, "image_marker"))
    described, detections, marker = published(peer, Camera(peer), *(peer.collect(*topic, 10) for topic in topics))
    texts = [description.text for description in described.descriptions]
    assert all(texts) and [d.results[0].hypothesis.class_id for d in detections.detections] == texts
    assert [detection.id for detection in detections.detections] == ["mug", "bowl"]
    assert [detection.bbox for detection in detections.detections] == [box_to_message(box) for box in BOXES]
    assert corners(marker)[:2] == [(2, 2), (20, 2)] and len(marker.points) == 16
    assert marker.header == described.header


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_foxglove_gets_annotations_with_the_images_stamp(peer: Peer, tiny_model: Path, tmp_path: Path) -> None:
    message_packages.build(tmp_path)
    foxglove = optional_messages("foxglove_msgs", "ImageAnnotations")
    assert foxglove is not None
    process = start(peer, tiny_model, tmp_path)
    try:
        described, annotations = published(
            peer, Camera(peer), peer.collect(RegionDescriptionArray, "region_descriptions", 10),
            peer.collect(foxglove.ImageAnnotations, "image_annotations", 10))
        assert [text.text for text in annotations.texts] == [
            f"{item.region.id}: {item.text}" for item in described.descriptions]
        assert [(text.position.x, text.position.y) for text in annotations.texts] == [box[:2] for box in BOXES]
        for box, outline in zip(BOXES, annotations.points, strict=True):
            assert outline.type == foxglove.PointsAnnotation.LINE_LIST and outline.timestamp == described.header.stamp
            assert {(point.x, point.y) for point in outline.points} == {
                (x, y) for x in (box[0], box[2]) for y in (box[1], box[3])}
        assert outline.outline_color.a == 1.0
        (red, green, blue) = region_colour("bowl")
        assert (outline.outline_color.r, outline.outline_color.b) == pytest.approx((red / 255, blue / 255))
    finally:
        process.stop()

"""Messages of yolo_ros in place of vision_msgs; where they are not installed, the tests build a stand-in."""
from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
import message_packages  # noqa: E402
from camera import HEIGHT, WIDTH  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi.image_messages import rgb_to_image  # noqa: E402
from ros_gpt4roi.messages import box_to_message  # noqa: E402
from ros_gpt4roi.nodes.conversions import DetectionsError  # noqa: E402
from ros_gpt4roi.nodes.optional import optional_messages  # noqa: E402
from ros_gpt4roi.nodes.yolo import detections_from_yolo, yolo_type  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BOXES = {"4": (2.0, 2.0, 20.0, 20.0), "17": (30.0, 10.0, 60.0, 40.0)}


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    message_packages.build(tmp_path_factory.mktemp("packages"))
    module = optional_messages("yolo_msgs", "DetectionArray")
    assert module is not None
    return module


def array_of(yolo: ModuleType, header: Header):
    message = yolo.DetectionArray(header=header)
    for identifier, (x1, y1, x2, y2) in BOXES.items():
        found = yolo.Detection(id=identifier, class_id=41, class_name="cup", score=0.75)
        found.bbox.center.position.x, found.bbox.center.position.y = (x1 + x2) / 2, (y1 + y2) / 2
        found.bbox.size.x, found.bbox.size.y = x2 - x1, y2 - y1
        found.mask.height, found.mask.width = HEIGHT, WIDTH
        found.mask.data = [yolo.Point2D(x=x1, y=y1), yolo.Point2D(x=x2, y=y1), yolo.Point2D(x=x2, y=y2)]
        message.detections.append(found)
    return message


def test_boxes_ids_names_and_scores_are_kept(yolo: ModuleType) -> None:
    header = Header(frame_id="camera")
    header.stamp.sec = 7
    data = serialize_message(array_of(yolo, header))
    message, count, outlines = detections_from_yolo(data, 500)
    assert count == 2 and message.header == header
    assert [(outline.corners.tolist(), outline.size) for outline in outlines] == [
        ([[x1, y1], [x2, y1], [x2, y2]], (WIDTH, HEIGHT)) for x1, y1, x2, y2 in BOXES.values()]
    assert {item.id: item.bbox for item in message.detections} == {
        name: box_to_message(box) for name, box in BOXES.items()}
    best = message.detections[0].results[0].hypothesis
    assert (best.class_id, best.score) == ("cup", 0.75)
    message, count, outlines = detections_from_yolo(data, 1)
    assert count == 2 and len(message.detections) == len(outlines) == 1
    plain = array_of(yolo, header)
    plain.detections[1].mask = yolo.Mask()
    assert detections_from_yolo(serialize_message(plain), 500)[2][1] is None


def test_what_is_no_array_is_refused(yolo: ModuleType) -> None:
    with pytest.raises(DetectionsError, match="5 bytes"):
        detections_from_yolo(b"\x00\x01\x00\x00\xff", 500)
    large = array_of(yolo, Header())
    large.detections[0].mask.data = [yolo.Point2D(x=1.0, y=1.0)] * 2**17
    with pytest.raises(DetectionsError, match="an array of 2 detections has .* at most 2097152"):
        detections_from_yolo(serialize_message(large), 500)
    large.detections = large.detections[::-1]
    assert len(detections_from_yolo(serialize_message(large), 1)[2]) == 1, "what is not wanted is not read"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.nodes.yolo.optional_messages", lambda *names: None)
    with pytest.raises(DetectionsError, match="yolo_msgs"):
        yolo_type()


def test_detections_of_yolo_ros_are_described(peer: Peer, yolo: ModuleType, tiny_model: Path, tmp_path: Path) -> None:
    import numpy as np
    process = Process("perception", tmp_path / "node.log", model=tiny_model, detections__type="yolo_msgs",
                      pipeline__vision__backend="torch", pipeline__description_tokens=5,
                      qos__image__reliability="reliable", qos__detections__reliability="reliable")
    try:
        peer.watch(process)
        descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
        header = Header(frame_id="camera")
        header.stamp.sec = 7
        peer.publisher(Image, "image").publish(rgb_to_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), header))
        message, bad = array_of(yolo, header), yolo.Detection(id="bad", class_name="cup", score=0.5)
        bad.bbox = message.detections[0].bbox
        bad.mask.data = [yolo.Point2D(x=3.0, y=3.0)] * 2
        message.detections = [bad, *message.detections]
        peer.publisher(yolo.DetectionArray, "detections").publish(message)
        (described,) = peer.wait_for(lambda: descriptions, "descriptions")
        assert described.header == header
        assert {item.region.id: item.region.bbox for item in described.descriptions} == {
            name: box_to_message(box) for name, box in BOXES.items()}
        assert {item.region.label for item in described.descriptions} == {"cup"}
        for item in described.descriptions:
            (polygon,) = item.region.mask.polygons
            x1, y1, x2, y2 = BOXES[item.region.id]
            assert [(corner.x, corner.y) for corner in polygon.points] == [(x1, y1), (x2, y1), (x2, y2)]
        peer.wait_for(lambda: "box refused" in process.output(), "the refusal in the log")
        assert "region bad: polygon 1 of the mask has 2 corners" in process.output()
    finally:
        process.stop()

"""Detections to regions and results to messages."""
from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from geometry_msgs.msg import Point32, Polygon  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer as AnswerMessage  # noqa: E402
from ros_gpt4roi_interfaces.msg import Region as RegionMessage  # noqa: E402
from ros_gpt4roi_interfaces.msg import RegionMask  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray, ObjectHypothesisWithPose  # noqa: E402

from ros_gpt4roi.nodes.conversions import (  # noqa: E402
    DetectionsError,
    Outline,
    answer_as_text,
    answer_to_message,
    box_to_message,
    descriptions_to_message,
    detections_from_cdr,
    region_to_message,
    regions_from_detections,
    regions_from_messages,
    tell_apart,
)
from ros_gpt4roi.runtime.types import Answer, Description, Frame, FrameDescriptions, Region, Status  # noqa: E402

WIDTH, HEIGHT = 640, 480
NAN, INFINITE = math.nan, math.inf


def detection(box: tuple[float, float, float, float], identifier: str = "", **scores: float) -> Detection2D:
    result = Detection2D(id=identifier, bbox=box_to_message(box))
    for label, score in scores.items():
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = label, score
        result.results.append(hypothesis)
    return result


def test_ids_labels_and_boxes() -> None:
    regions, refusals = regions_from_detections(Detection2DArray(detections=[
        detection((10, 20, 30, 60), mug=0.2, bowl=0.7), detection((0, 0, 5, 5), "track 7"), detection((1, 1, 9, 9)),
    ]), WIDTH, HEIGHT)
    assert refusals == ()
    assert [region.id for region in regions] == ["1", "track 7", "3"]
    assert regions[0] == Region("1", (10.0, 20.0, 30.0, 60.0), "bowl", 0.7)
    assert (regions[1].label, regions[1].score) == ("", 0.0)


def test_a_tracker_number_is_never_given_to_another_box() -> None:
    regions, refusals = regions_from_detections(Detection2DArray(detections=[
        detection((0, 0, 5, 5)), detection((0, 0, 6, 6)), detection((0, 0, 7, 7), "2"), detection((0, 0, 8, 8), "1"),
    ]), WIDTH, HEIGHT)
    assert refusals == ()
    assert [region.id for region in regions] == ["3", "4", "2", "1"]


@pytest.mark.parametrize("x, y, size_x, size_y, theta, words", [
    (NAN, 1, 2, 2, 0, ["nan", "not finite"]), (1, 1, INFINITE, 2, 0, ["inf", "not finite"]),
    (10, 10, 2, 2, NAN, ["theta nan"]), (10, 10, -4, 2, 0, ["-4", "inverted"]), (10, 10, 0, 2, 0, ["empty"]),
    (-10, 10, 20, 5, 0, ["outside", "640x480"]), (700, 10, 20, 5, 0, ["700", "outside"]),
    (10, 500, 20, 40, 0, ["500", "outside"]), (320, 240, 1e-5, 20, 0, ["1e-05", "too thin", "at least 0.1"]),
    (320, 240, 20, 1e-5, 0, ["1e-05", "too thin"]), (-10, 240, 20.0001, 20, 0, ["too thin"]),
    (1e39, 240, 20, 20, 0, ["1e+39", "outside"]), (0, 240, 1e39, 20, 0, ["1e+39", "beyond"]),
    (320, 0, 20, 3e38, 0, ["3e+38", "beyond"]), (1e308, 1, 1.7e308, 1.7e308, 0.5, ["e+308"]),
])
def test_a_bad_box_costs_only_itself(x: float, y: float, size_x: float, size_y: float, theta: float,
                                     words: list[str]) -> None:
    bad = detection((0, 0, 1, 1), "bad one")
    bad.bbox.center.position.x, bad.bbox.center.position.y, bad.bbox.center.theta = float(x), float(y), float(theta)
    bad.bbox.size_x, bad.bbox.size_y = float(size_x), float(size_y)
    array = Detection2DArray(detections=[detection((0, 0, 5, 5)), bad, detection((0, 0, 6, 6))])
    regions, (refusal,) = regions_from_detections(array, WIDTH, HEIGHT)
    assert [region.id for region in regions] == ["1", "3"]  # the places are those of the array
    for word in [*words, "bad one"]:
        assert word in refusal


@pytest.mark.parametrize("size", [1e-5, 1e39])
def test_a_drawn_box_that_float32_can_not_hold_is_refused(size: float) -> None:
    thin = RegionMessage(bbox=box_to_message((300, 200, 340, 240)))
    thin.bbox.size_x = size
    fine = RegionMessage(bbox=box_to_message((1, 1, 1.2, 1.2)))
    regions, (refusal,) = regions_from_messages([thin, fine], (), WIDTH, HEIGHT)
    assert [region.id for region in regions] == ["2"] and f"{size:g}" in refusal


def test_an_endless_id_is_refused() -> None:
    array = Detection2DArray(detections=[detection((0, 0, 5, 5), "z" * 100), detection((0, 0, 6, 6), "z" * 101)])
    regions, (refusal,) = regions_from_detections(array, WIDTH, HEIGHT)
    assert len(regions) == 1 and "101 characters; expected at most 100" in refusal and len(refusal) < 200


def test_two_boxes_of_one_id_are_told() -> None:
    regions, (refusal,) = regions_from_detections(
        Detection2DArray(detections=[detection((0, 0, 5, 5), "a"), detection((0, 0, 6, 6), "a")]), WIDTH, HEIGHT)
    assert len(regions) == 1 and "'a'" in refusal


def test_detections_of_one_id_are_told_apart() -> None:
    ids = ["cup", "", "cup", "cup 2", "plate", "cup", "", "plate"]
    array = Detection2DArray(detections=[detection((0, 0, 5, 5 + i), identifier) for i, identifier in enumerate(ids)])
    assert tell_apart(array) == ("cup", "plate")
    regions, refusals = regions_from_detections(array, WIDTH, HEIGHT)
    assert refusals == ()
    assert [region.id for region in regions] == ["cup", "2", "cup 3", "cup 2", "plate", "cup 4", "7", "plate 2"]
    assert tell_apart(array) == ()


@pytest.mark.parametrize("box", [(0.1, 0.2, 0.4, 0.9), (0, 0, 1, 1), (0.5, 0.5, 1.04, 1.04), (0, 0, 0.01, 0.01)])
def test_normalised_boxes_are_refused_by_name(box: tuple[float, float, float, float]) -> None:
    array = Detection2DArray(detections=[detection(box), detection((0, 0, 2, 2))])
    regions, (refusal,) = regions_from_detections(array, WIDTH, HEIGHT)
    assert [region.id for region in regions] == ["2"]
    for words in ("normalised", "expected pixels of the image of 640x480", "detections.width"):
        assert words in refusal
    drawn = [RegionMessage(bbox=box_to_message(box))]
    assert "normalised" in regions_from_messages(drawn, (), WIDTH, HEIGHT)[1][0]


def test_boxes_of_another_resolution_are_scaled() -> None:
    half = Detection2DArray(detections=[detection((10, 20, 30, 60))])
    assert regions_from_detections(half, WIDTH, HEIGHT, (320, 120))[0][0].box == (20, 80, 60, 240)
    unit = Detection2DArray(detections=[detection((0.25, 0.5, 0.5, 1))])
    assert regions_from_detections(unit, WIDTH, HEIGHT, (1, 1))[0][0].box == (160, 240, 320, 480)
    outside = Detection2DArray(detections=[detection((320, 20, 330, 60))])
    assert "outside" in regions_from_detections(outside, WIDTH, HEIGHT, (320, 240))[1][0]


def test_no_more_detections_are_read_than_are_wanted() -> None:
    header = Header(frame_id="cam")
    header.stamp.sec, header.stamp.nanosec = 7, 9
    for frame_id in ("", "c", "ca", "cam", "came"):  # every padding
        header.frame_id = frame_id
        array = Detection2DArray(header=header, detections=[
            detection((i, 1, i + 9, 9), f"id {i}", mug=0.5) for i in range(30)])
        data = serialize_message(array)
        assert detections_from_cdr(data, 30) == (array, 30)
        read, count = detections_from_cdr(data, 7)
        assert count == 30 and read.header == header and list(read.detections) == list(array.detections[:7])


@pytest.mark.parametrize("spoil", [lambda data: data[:11], lambda data: data[:-9], lambda data: b"",
                                   lambda data: b"\xff" * 99,
                                   lambda data: data[:12] + b"\xff\xff\xff\x7f" + data[16:]])
def test_data_that_is_no_detection_array_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    data = serialize_message(Detection2DArray(detections=[detection((1, 1, 9, 9))]))
    with pytest.raises(DetectionsError, match="bytes are no Detection2DArray"):
        detections_from_cdr(spoil(data), 10)


def test_a_detection_array_of_endless_hypotheses_is_refused() -> None:
    array = Detection2DArray(detections=[detection((1, 1, 9, 9), mug=0.5)])
    array.detections[0].results = list(array.detections[0].results) * 8000
    with pytest.raises(DetectionsError, match="an array of 1 detections has .* expected at most"):
        detections_from_cdr(serialize_message(array), 10)
    array.detections = list(array.detections) * 2
    with pytest.raises(DetectionsError):
        detections_from_cdr(serialize_message(array), 1)


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python a call runs: its time, without a clock."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return trace
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("ids", [
    lambda n: [""] * n, lambda n: [""] * n + [str(i) for i in range(1, n + 1)], lambda n: ["cup"] * n,
    lambda n: ["cup"] * n + [f"cup {i}" for i in range(n)], lambda n: [str(i // 2) for i in range(n)],
], ids=["none", "numbers taken", "one name", "names taken", "twice each"])
def test_the_time_of_a_detection_array_is_linear(ids: Callable[[int], list[str]]) -> None:
    def lines(number: int) -> int:
        array = Detection2DArray(detections=[Detection2D(id=identifier, bbox=box_to_message((1, 1, 9, 9)))
                                             for identifier in ids(number)])
        return lines_run(lambda: (tell_apart(array), regions_from_detections(array, WIDTH, HEIGHT)))
    assert lines(800) < 2.2 * lines(400)


def test_drawn_boxes_are_bounded() -> None:
    regions, (refusal,) = regions_from_messages([RegionMessage(bbox=box_to_message((1, 1, 4, 4)))] * 257, (), WIDTH,
                                                HEIGHT)
    assert regions == () and "257 boxes are given; expected at most 256" in refusal


def test_a_box_over_the_border_is_kept_and_a_turned_one_enclosed() -> None:
    turned = detection((100, 100, 140, 120))
    turned.bbox.center.theta = math.pi / 2
    regions, refusals = regions_from_detections(
        Detection2DArray(detections=[detection((-10, -10, 20, 20)), turned]), WIDTH, HEIGHT)
    assert refusals == () and regions[0].box == (-10, -10, 20, 20)
    assert regions[1].box == pytest.approx((110, 90, 130, 130))


def test_a_score_that_is_no_number_loses() -> None:
    (region,), _ = regions_from_detections(
        Detection2DArray(detections=[detection((0, 0, 5, 5), mug=NAN, bowl=0.1)]), WIDTH, HEIGHT)
    assert (region.label, region.score) == ("bowl", 0.1)


def test_drawn_boxes_come_after_those_present() -> None:
    present = (Region("1", (0, 0, 5, 5)), Region("2", (0, 0, 6, 6)))
    drawn = [RegionMessage(bbox=box_to_message((1, 1, 4, 4))), RegionMessage(id="2", bbox=box_to_message((1, 1, 4, 4))),
             RegionMessage(id="mine", bbox=box_to_message((1, 1, 4, 4)))]
    regions, (refusal,) = regions_from_messages(drawn, present, WIDTH, HEIGHT)
    assert [region.id for region in regions] == ["3", "mine"] and "'2'" in refusal
    assert [region.score for region in regions] == [1, 1], "no detection goes before what somebody has drawn"
    (region,), _ = regions_from_messages([RegionMessage(bbox=box_to_message((1, 1, 4, 4)), score=NAN)], (), WIDTH,
                                         HEIGHT)
    assert region.score == 1


def test_a_drawn_box_without_size_is_a_point_and_a_detected_one_is_empty() -> None:
    clicked = box_to_message((12, 480, 12, 480))
    (region,), refusals = regions_from_messages([RegionMessage(bbox=clicked)], (), WIDTH, HEIGHT)
    assert region.is_point and region.box == (12, 480, 12, 480) and refusals == ()
    assert region_to_message(region).bbox == clicked
    regions, (refusal,) = regions_from_detections(Detection2DArray(detections=[detection((9, 9, 9, 9))]), WIDTH, HEIGHT)
    assert regions == () and "empty" in refusal


@pytest.mark.parametrize("box, words", [
    ((641, 5, 641, 5), ["point", "641", "640x480"]), ((5, -1, 5, -1), ["point", "-1"]), ((5, NAN, 5, NAN), ["nan"]),
    ((5, 9, 5, 12), ["empty"]), ((5, 9, 8, 9), ["empty"]),
])
def test_a_point_elsewhere_and_a_line_are_refused(box: tuple[float, float, float, float], words: list[str]) -> None:
    message = box_to_message(box)
    message.size_x, message.size_y = (0.0 if math.isnan(size) else size for size in (message.size_x, message.size_y))
    regions, (refusal,) = regions_from_messages([RegionMessage(bbox=message)], (), WIDTH, HEIGHT)
    assert regions == ()
    for word in words:
        assert word in refusal


def masked(identifier: str, mask: RegionMask, box: tuple[float, ...] | None = None) -> RegionMessage:
    return RegionMessage(id=identifier, mask=mask, bbox=BoundingBox2D() if box is None else box_to_message(box))


def polygons(*outlines: tuple[tuple[float, float], ...]) -> RegionMask:
    return RegionMask(polygons=[Polygon(points=[Point32(x=float(x), y=float(y)) for x, y in outline])
                                for outline in outlines])


TRIANGLE = ((100, 100), (300, 100), (100, 200))
SQUARE = [30 * 480 + 20, *(10, 470) * 9, 10, 600 * 480 + 450]  # 10 columns from 30, 10 rows from 20


def test_masks_come_back_as_they_were_given() -> None:
    given = [masked("outline", polygons(TRIANGLE, ((5, 5), (9, 5), (7, 9.5)))),
             masked("runs", RegionMask(width=640, height=480, counts=SQUARE)),
             masked("boxed", polygons(TRIANGLE), (90, 90, 310, 150)), masked("none", RegionMask(), (5, 5, 50, 50))]
    regions, refusals = regions_from_messages(given, (), WIDTH, HEIGHT)
    assert refusals == ()
    assert {region.id: region.box for region in regions} == {
        "outline": (5, 5, 300, 200), "runs": (30, 20, 40, 30), "boxed": (90, 90, 310, 150), "none": (5, 5, 50, 50)}
    messages = [region_to_message(region) for region in regions]
    assert [message.mask for message in messages] == [message.mask for message in given]
    again, _ = regions_from_messages(messages, (), WIDTH, HEIGHT)
    assert [(region.id, region.box) for region in again] == [(region.id, region.box) for region in regions]


@pytest.mark.parametrize("mask, box, words", [
    (polygons(((1, 1), (9, 9))), None, ["polygon 1", "2 corners", "at least 3"]),
    (polygons(TRIANGLE, ()), None, ["polygon 2", "0 corners"]),
    (polygons(((1, 1), (9, INFINITE), (5, 9))), None, ["not finite"]),
    (polygons(((700, 1), (900, 1), (800, 9))), None, ["mask around (700 1 900 9)", "outside", "640x480"]),
    (polygons(((0, 0), (5000, 0), (0, 400))), None, ["mask around", "too far"]),
    (polygons(TRIANGLE), (400, 100, 500, 200), ["mask around (100 100 300 200)", "outside its box (400 100 500 200)"]),
    (polygons(TRIANGLE), (150, 150, 150, 150), ["box", "empty"]),
    (polygons(((50, 50), (100, 100), (150, 150))), None, ["mask around (50 50 150 150)", "encloses nothing"]),
    (polygons(TRIANGLE * 20_000), None, ["60000 corners", "at most 32768"]),
    (polygons(((0, 0), (1, 0), (1, 1))), None, ["normalised"]),
    (RegionMask(polygons=polygons(TRIANGLE).polygons, width=2, height=1, counts=[1, 1]), None, ["both"]),
    (RegionMask(width=640, height=480), None, ["runs of 0 pixels", "640 * 480"]),
    (RegionMask(width=640, height=480, counts=[5, 7]), None, ["runs of 12 pixels", "640 * 480"]),
    (RegionMask(width=2**31, height=2**31, counts=[2**31] * 9), None, ["grid of 2147483648x2147483648"]),
    (RegionMask(counts=[5, 7]), None, ["grid of 0x0"]),
    (RegionMask(width=640, height=480, counts=[640 * 480]), None, ["empty"]),
    (RegionMask(width=640, height=480, counts=SQUARE), (100, 100, 200, 200), ["mask around", "outside its box"]),
])
def test_a_bad_mask_costs_only_itself(mask: RegionMask, box: tuple[float, ...] | None, words: list[str]) -> None:
    given = [masked("fine", polygons(TRIANGLE)), masked("bad one", mask, box),
             masked("last", RegionMask(), (5, 5, 9, 9))]
    regions, (refusal,) = regions_from_messages(given, (), WIDTH, HEIGHT)
    assert [region.id for region in regions] == ["fine", "last"]
    assert all(word in refusal for word in ["bad one", *words]), refusal
    assert len(refusal) < 400


def test_the_corners_of_a_request_are_bounded_together() -> None:
    angles = np.linspace(0, 2 * math.pi, 16_000, endpoint=False)
    circle = polygons(np.stack([np.cos(angles) * 90 + 200, np.sin(angles) * 90 + 200], 1).tolist())
    given = [masked("a", circle), masked("b", circle), masked("c", circle), masked("d", polygons(TRIANGLE))]
    regions, (refusal,) = regions_from_messages(given, (), WIDTH, HEIGHT)
    assert [region.id for region in regions] == ["a", "b", "d"]
    assert refusal == "region c: the masks up to it have 48000 corners; expected at most 32768 in all"


def test_outlines_of_a_detector_are_scaled_to_the_image() -> None:
    array = Detection2DArray(detections=[detection((50, 50, 150, 100)), detection((1, 1, 20, 20)),
                                         detection((1, 1, 30, 30)), detection((1, 1, 40, 40))])
    corners = np.array(TRIANGLE, np.float32) / 2
    regions, (refusal,) = regions_from_detections(
        array, WIDTH, HEIGHT, (320, 240), [Outline(corners, (320, 240)), None, Outline(corners[:2], (320, 240)),
                                           Outline(np.array([(1, 1), (9, 1), (9, 9)], np.float32), (0, 0))])
    assert [region.id for region in regions] == ["1", "2", "4"] and "region 3: polygon 1 of the mask has 2" in refusal
    assert regions[0].mask.polygons[0].tolist() == [list(map(float, corner)) for corner in TRIANGLE]
    assert regions[1].mask is None and regions[2].mask.bounds(WIDTH, HEIGHT) == (2, 2, 18, 18)


@pytest.fixture
def frame() -> Frame:
    header = Header(frame_id="camera_optical")
    header.stamp.sec, header.stamp.nanosec = 12, 345
    return Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), (Region("7", (10, 20, 30, 60), "mug", 0.5),),
                 12_000_000_345, "camera_optical", header)


def test_descriptions_carry_the_header_of_their_image(frame: Frame) -> None:
    result = FrameDescriptions(frame, (Description(frame.regions[0], "a red mug", 0.75, True),),
                               {"vision": 1.25, "decode": 0.5})
    message = descriptions_to_message(result)
    assert message.header == frame.header
    (description,) = message.descriptions
    assert (description.text, description.confidence, description.reused) == ("a red mug", 0.75, True)
    assert (description.region.id, description.region.label, description.region.score) == ("7", "mug", 0.5)
    assert description.region.bbox == box_to_message((10, 20, 30, 60))
    assert [(s.stage, s.duration.sec, s.duration.nanosec) for s in message.stage_times] == [
        ("vision", 1, 250_000_000), ("decode", 0, 500_000_000)]


def test_an_answer_names_its_regions_with_their_boxes(frame: Frame) -> None:
    answer = Answer(Status.OK, "it is region 7", region_ids=("7",), conversation_id="c", query_id="q", frame=frame,
                    confidence=0.5)
    message = answer_to_message(answer)
    assert (message.status, message.text, message.query_id, message.conversation_id) == (0, answer.text, "q", "c")
    assert message.header == frame.header and list(message.region_ids) == ["7"]
    assert message.regions[0].bbox == box_to_message((10, 20, 30, 60))
    assert answer_as_text(answer) == "it is region 7"


def test_boxes_of_asserted_regions_come_before_those_of_the_evidence(frame: Frame) -> None:
    boxes = {"a": (1.0, 1.0, 9.0, 9.0), "b": (2.0, 2.0, 9.0, 9.0), "c": (3.0, 3.0, 9.0, 9.0)}
    frame = dataclasses.replace(frame, regions=tuple(Region(name, box) for name, box in boxes.items()))
    answer = Answer(Status.OK, "a and b, so c", region_ids=("c",), evidence_ids=("b", "a"), frame=frame)
    message = answer_to_message(answer)
    assert (list(message.region_ids), list(message.evidence_ids)) == (["c"], ["b", "a"])
    assert [region.id for region in message.regions] == ["c", "b", "a"]
    assert message.regions[0].bbox == box_to_message(boxes["c"])


@pytest.mark.parametrize("text", ['a "mug" {', "\\ \n\x00\t", "杯子 \ufffd", ""])
def test_an_answer_in_json_is_one_object_whatever_its_words(text: str) -> None:
    answer = Answer(Status.TIMEOUT, text, "over", region_ids=('7"',), confidence=0.5)
    message = answer_to_message(answer, "json")
    assert json.loads(message.text) == {"answer": text, "regions": ['7"'], "confidence": 0.5, "status": "TIMEOUT",
                                        "error": "over"}
    assert answer_to_message(answer, "text").text == answer_to_message(answer).text == text


def test_an_answer_without_a_frame_has_a_status_and_a_reason() -> None:
    answer = Answer(Status.NO_FRAME, "", error="no frame has arrived yet", query_id="q")
    message = answer_to_message(answer)
    assert message.status == AnswerMessage.NO_FRAME and message.header == Header()
    assert answer_as_text(answer) == "[NO_FRAME: no frame has arrived yet]"


def test_status_constants_of_message_and_runtime_are_the_same() -> None:
    assert {status.name: int(status) for status in Status} == {
        name: getattr(AnswerMessage, name) for name in (status.name for status in Status)}

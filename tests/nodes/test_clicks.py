"""Clicks of stock tools and what they are answered, through the node in its own process on real DDS."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from camera import HEIGHT, WIDTH, Camera  # noqa: E402
from geometry_msgs.msg import Point, PointStamped  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query, RegionDescriptionArray  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402
from std_msgs.msg import Header, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from ros_gpt4roi.messages import box_to_message  # noqa: E402
from ros_gpt4roi.nodes.clicks import _as_answer, _clicked  # noqa: E402
from ros_gpt4roi.nodes.sim_camera import pinhole  # noqa: E402
from ros_gpt4roi.runtime.masks import Mask  # noqa: E402
from ros_gpt4roi.runtime.types import Frame, FrameDescriptions, Region, Status  # noqa: E402

# The second one lies in the first.
BOXES = ((2.0, 2.0, 40.0, 40.0), (10.0, 10.0, 20.0, 20.0))


class Clicker:
    """Clicks, and waits for the answer that comes of it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.answers = peer.collect(Answer, "answers", 10)
        self.queries = peer.collect(Query, "queries", 10)
        self._pixels = {name: peer.publisher(Point, f"{name}_mouse_left") for name in ("image", "annotated_image")}
        self._points = peer.publisher(PointStamped, "clicked_point")

    def __call__(self, x: float, y: float, image: str = "image") -> Answer:
        return self._answer(lambda: self._pixels[image].publish(Point(x=float(x), y=float(y))))

    def in_space(self, frame_id: str, x: float, y: float, z: float = 0.0) -> Answer:
        message = PointStamped(header=Header(frame_id=frame_id), point=Point(x=float(x), y=float(y), z=float(z)))
        return self._answer(lambda: self._points.publish(message))

    def _answer(self, click) -> Answer:
        count = len(self.answers)
        click()
        self._peer.wait_for(lambda: len(self.answers) > count, "an answer to a click")
        return self.answers[-1]


@pytest.fixture(scope="module")
def node(peer: Peer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = Process("perception", tmp_path_factory.mktemp("log") / "perception.log", model=tiny_model,
                      pipeline__vision__backend="torch", pipeline__description_tokens=5, pipeline__answer_tokens=5,
                      qos__image__reliability="reliable", qos__detections__reliability="reliable",
                      scheduler__answer_timeout_s=3600.0, scheduler__description_timeout_s=3600.0)
    peer.watch(process)
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="module")
def click(peer: Peer, node: Process) -> Clicker:
    return Clicker(peer)


def test_a_click_before_any_image_is_told_so(click: Clicker) -> None:
    answer = click(5, 5)
    assert answer.status == Answer.NO_FRAME and answer.query_id.startswith("click ")


@pytest.fixture(scope="module")
def described(peer: Peer, click: Clicker) -> RegionDescriptionArray:
    """The descriptions of the frame that is clicked on; what comes before it sees none."""
    descriptions = peer.collect(RegionDescriptionArray, "region_descriptions", 10)
    Camera(peer).send(BOXES, ids=("table", "mug"))
    return peer.wait_for(lambda: descriptions and descriptions[-1], "descriptions")


@pytest.mark.parametrize("image", ["image", "annotated_image"])
@pytest.mark.parametrize("place, region", [((15, 15), "mug"), ((30, 15), "table")])
def test_a_click_is_about_the_smallest_region_around_it(click: Clicker, described: RegionDescriptionArray,
                                                        place: tuple[float, float], region: str, image: str) -> None:
    answer = click(*place, image)
    assert (answer.status, list(answer.region_ids)) == (Answer.OK, [region])
    assert answer.header == described.header and answer.text and not answer.conversation_id
    assert answer.regions[0].bbox == box_to_message(BOXES[region == "mug"])


def test_a_click_beside_all_regions_is_about_that_point(peer: Peer, click: Clicker,
                                                        described: RegionDescriptionArray) -> None:
    answer = click(60.0, 44.0)
    asked = peer.wait_for(lambda: next((query for query in click.queries if query.query_id == answer.query_id), None),
                          "the click's question")
    assert (asked.text, asked.header) == ("Describe region 3.", described.header)
    assert [region.id for region in asked.boxes] == ["3"]
    assert answer.status == Answer.OK and answer.text, answer
    (region,) = answer.regions
    assert region.id == "3" and region.bbox == box_to_message((60, 44, 60, 44))


@pytest.mark.parametrize("place", [(-1.0, 5.0), (5.0, HEIGHT + 1.0), (float("nan"), 3.0)])
def test_a_click_outside_the_image_is_told_so(click: Clicker, described: RegionDescriptionArray,
                                              place: tuple[float, float]) -> None:
    answer = click(*place)
    assert answer.status == Answer.INVALID and f"{WIDTH}x{HEIGHT}" in answer.error and "outside" in answer.error


def test_a_point_is_of_the_image_or_of_the_cameras_frame(peer: Peer, click: Clicker,
                                                         described: RegionDescriptionArray) -> None:
    for name in ("", "camera"):
        assert list(click.in_space(name, 15, 15).region_ids) == ["mug"]
    for place in ((0, 0, 1), (15, 15, 0)):
        elsewhere = click.in_space("map", *place)
        assert elsewhere.status == Answer.INVALID and "'map'" in elsewhere.error and "'camera'" in elsewhere.error
    unknown = click.in_space("camera", 0, 0, 1)
    assert unknown.status == Answer.INVALID and "no camera_info" in unknown.error
    info = pinhole(WIDTH, HEIGHT, 50.0)
    info.header.frame_id = "camera"
    publisher = peer.publisher(CameraInfo, "camera_info")

    def placed() -> Answer | None:  # the calibration and the click come by different topics
        publisher.publish(info)
        answer = click.in_space("camera", (15 - 32) / 50 * 2, (15 - 24) / 50 * 2, 2)
        return answer if answer.status == Answer.OK else None
    assert list(peer.wait_for(placed, "a click in space").region_ids) == ["mug"]
    behind = click.in_space("camera", 0, 0, -1)
    assert behind.status == Answer.INVALID and "before the camera" in behind.error


def test_a_click_asks_the_last_question_about_this(peer: Peer, click: Clicker,
                                                   described: RegionDescriptionArray) -> None:
    count = len(click.answers)
    peer.publisher(String, "query_text").publish(String(data="Is this one red?"))
    peer.wait_for(lambda: len(click.answers) > count, "an answer to the question")
    assert click.answers[-1].status == Answer.INVALID and "nothing is pointed at" in click.answers[-1].error
    for refused in (False, True):
        if refused:
            count = len(click.answers)
            peer.publisher(String, "query_text").publish(String(data="What is this? " + "x" * 100_000))
            peer.wait_for(lambda: len(click.answers) > count, "a refusal")
            assert click.answers[-1].status == Answer.INVALID
        answer = click(15, 15)
        assert answer.status == Answer.OK and answer.conversation_id, "a question opens one, a description none"
        assert list(answer.region_ids) == ["mug"]
    peer.call(Trigger, "new_conversation", Trigger.Request())
    answer = click(15, 15)
    assert answer.status == Answer.OK and not answer.conversation_id


@pytest.mark.parametrize("status", [status for status in Status if status != Status.OK])
def test_a_description_that_failed_asserts_nothing(status: Status) -> None:
    region = Region("mug", (5, 5, 40, 40))
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), (region,), 0, "camera")
    answer = _as_answer(FrameDescriptions(frame, (), status=status, error="why"), frame, region, "click")
    assert (answer.status, answer.error, answer.region_ids) == (status, "why", ())


@pytest.mark.parametrize("place, region", [((8, 8), "front"), ((30, 30), "back"), ((45, 5), "3")])
def test_a_click_inside_a_box_but_outside_its_mask_is_beside_it(place: tuple[float, float], region: str) -> None:
    corner, rest = Mask.of_polygons([((5, 5), (20, 5), (5, 20))]), Mask.of_polygons([((0, 0), (0, 48), (48, 48))])
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), (
        Region("back", (0, 0, 48, 48), mask=rest), Region("front", (5, 5, 40, 40), mask=corner)), 0, "camera")
    seen, clicked = _clicked(frame, *place)
    assert clicked.id == region and (seen is frame) == (region != "3") and clicked in seen.regions

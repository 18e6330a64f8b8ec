"""Masks through the node in its own process on real DDS: into the model, and back as they were given."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from answering import start_perception  # noqa: E402
from camera import HEIGHT, WIDTH, Camera  # noqa: E402
from geometry_msgs.msg import Point32, Polygon  # noqa: E402
from perception_fixtures import (  # noqa: F401, E402
    BOXES,
    Asker,
    ask_fixture,
    camera_fixture,
    described,
    descriptions_fixture,
    node_fixture,
)
from ros_gpt4roi_interfaces.msg import Answer, Region, RegionDescriptionArray, RegionMask  # noqa: E402
from ros_gpt4roi_interfaces.srv import DescribeRegions  # noqa: E402
from ros_peer import Peer  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi.engine.precision.calibration import default_frames_folder  # noqa: E402
from ros_gpt4roi.image_file import read_image  # noqa: E402
from ros_gpt4roi.image_messages import rgb_to_image  # noqa: E402
from ros_gpt4roi.messages import box_to_message, place_to_message  # noqa: E402
from ros_gpt4roi.paths import find_model  # noqa: E402

BOX = (8, 8, 40, 40)


def outline(*corners: tuple[float, float]) -> RegionMask:
    return RegionMask(polygons=[Polygon(points=[Point32(x=float(x), y=float(y)) for x, y in corners])])


# The left half of the box: as an outline, as runs in the frame's resolution, and as runs in half of that.
LEFT = {
    "outline": outline((8, 8), (24, 8), (24, 40), (8, 40)),
    "runs": RegionMask(width=WIDTH, height=HEIGHT, counts=[
        8 * HEIGHT + 8, *(32, HEIGHT - 32) * 15, 32, (WIDTH - 24) * HEIGHT + HEIGHT - 40]),
    "coarse runs": RegionMask(width=WIDTH // 2, height=HEIGHT // 2, counts=[
        4 * HEIGHT // 2 + 4, *(16, HEIGHT // 2 - 16) * 7, 16, (WIDTH // 2 - 12) * HEIGHT // 2 + HEIGHT // 2 - 20])}


@pytest.fixture(scope="module")
def frame(peer: Peer, camera: Camera, descriptions: list[RegionDescriptionArray]) -> RegionDescriptionArray:
    return described(peer, descriptions, camera.send(BOXES))


def asked(ask: Asker, mask: RegionMask) -> Answer:
    _, answer = ask("what is region mine?", boxes=[Region(id="mine", bbox=box_to_message(BOX), mask=mask)])
    assert answer.status == Answer.OK, answer.error
    return answer


def test_outlines_and_runs_of_the_same_pixels_get_the_same_answer(ask: Asker, frame: RegionDescriptionArray) -> None:
    whole, everything = asked(ask, RegionMask()), asked(ask, RegionMask(width=1, height=1, counts=[0, 1]))
    assert (everything.text, everything.confidence) == (whole.text, whole.confidence), "a full mask is no mask"
    answers = {name: asked(ask, mask) for name, mask in LEFT.items()}
    assert len({answer.text for answer in answers.values()}) == 1, answers
    for answer in answers.values():
        assert answer.confidence == pytest.approx(answers["runs"].confidence, abs=1e-3)
        assert abs(answer.confidence - whole.confidence) > 1e-5 or answer.text != whole.text, "the mask changes nothing"


def test_what_was_given_comes_back_with_answers_and_descriptions(peer: Peer, ask: Asker,
                                                                 frame: RegionDescriptionArray) -> None:
    for mask in LEFT.values():
        _, answer = ask("what is this?", boxes=[Region(mask=mask)])
        (region,) = answer.regions
        assert (region.id, region.mask, region.bbox) == ("3", mask, box_to_message((8, 8, 24, 40)))
    response = peer.call(DescribeRegions, "describe_regions", DescribeRegions.Request(
        boxes=[Region(mask=mask) for mask in LEFT.values()]))
    assert response.status == Answer.OK, response.error
    assert [item.region.mask for item in response.descriptions.descriptions] == list(LEFT.values())
    assert all(item.text for item in response.descriptions.descriptions)


@pytest.mark.parametrize("mask, words", [
    (outline((8, 8), (24, 8)), "2 corners; expected at least 3"),
    (RegionMask(width=WIDTH, height=HEIGHT, counts=[7]), "runs of 7 pixels in all, expected 64 * 48"),
    (outline((50, 8), (60, 8), (60, 40)), "lies outside its box (8 8 40 40)")])
def test_a_bad_mask_is_told_why_and_the_next_is_served(peer: Peer, ask: Asker, frame: RegionDescriptionArray,
                                                       mask: RegionMask, words: str) -> None:
    bad = Region(id="mine", bbox=box_to_message(BOX), mask=mask)
    _, answer = ask("what is region mine?", boxes=[bad])
    assert answer.status == Answer.INVALID and "region mine: " in answer.error and words in answer.error
    response = peer.call(DescribeRegions, "describe_regions", DescribeRegions.Request(boxes=[bad]))
    assert response.status == Answer.INVALID and words in response.error
    asked(ask, LEFT["runs"])


@pytest.mark.slow
def test_of_two_things_in_one_box_the_masked_one_is_described(ros: None, tmp_path: Path) -> None:
    green, red = (222, 63, 264, 145), (185, 68, 229, 120)  # boxes that overlap, of a picture of the tabletop
    both = box_to_message((185, 63, 264, 145))
    pixels = read_image(default_frames_folder() / "3.jpg")
    peer = Peer()
    node = start_perception(find_model("tabletop"), tmp_path / "node.log", "-r", "__ns:=/tabletop")
    try:
        peer.watch(node)
        image = rgb_to_image(pixels, Header(frame_id="camera"))
        image.header.stamp.sec = 7
        peer.publisher(Image, "/tabletop/image").publish(image)
        masks = [RegionMask(), *(outline((x1, y1), (x2, y1), (x2, y2), (x1, y2)) for x1, y1, x2, y2 in (green, red))]
        for x1, y1, x2, y2 in (green, red):
            inside = np.zeros(pixels.shape[:2], bool)
            inside[y1:y2, x1:x2] = True
            masks.append(place_to_message(inside).mask)
        request = DescribeRegions.Request(boxes=[Region(bbox=both, mask=mask) for mask in masks])

        def described() -> list[str]:  # the image and the request come by different ways
            found = peer.call(DescribeRegions, "/tabletop/describe_regions", request)
            assert found.status in (Answer.OK, Answer.NO_FRAME), found.error
            return [item.text for item in found.descriptions.descriptions]
        whole, *texts = peer.wait_for(described, "descriptions")
    finally:
        node.stop()
        peer.close()
    assert ["green" in text for text in texts] == [True, False] * 2, texts
    assert "red" in texts[1] and whole != texts[1]

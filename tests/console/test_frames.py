from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Picture

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")

from ros_gpt4roi_interfaces.msg import Region, RegionDescription, RegionDescriptionArray  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi.console.frames import LEVELS, Frames  # noqa: E402
from ros_gpt4roi.image_messages import MessageImage, rgb_to_image  # noqa: E402
from ros_gpt4roi.messages import box_to_message  # noqa: E402

BOXES = ((0.0, 0.0, 60.0, 40.0), (100.0, 50.0, 300.0, 200.0), (250.0, 150.0, 400.0, 300.0))


def header(second: int) -> Header:
    value = Header(frame_id="camera")
    value.stamp.sec = second
    return value


def image(second: int, width: int = 320, height: int = 240) -> MessageImage:
    pixels = np.random.default_rng(second).integers(0, 255, (height, width, 3), np.uint8)
    return MessageImage(rgb_to_image(pixels, header(second)))


def descriptions(second: int) -> RegionDescriptionArray:
    return RegionDescriptionArray(header=header(second), descriptions=[
        RegionDescription(region=Region(id=str(place), bbox=box_to_message(box)), text="a mug")
        for place, box in enumerate(BOXES, 1)])


def test_boxes_are_shown_on_their_own_picture() -> None:
    frames = Frames()
    frames.add_image(header(1), image(1), 10.0)
    assert frames.shown.stamp == "1.000000000"  # nothing is described yet
    frames.add_image(header(2), image(2), 10.1)
    assert frames.add_descriptions(descriptions(1), 10.3) == pytest.approx(0.3)
    frames.add_image(header(3), image(3), 10.4)
    assert frames.shown.stamp == "1.000000000" and len(frames.shown.as_json()["regions"]) == 3
    frames.add_image(header(9), image(9), 20.0)  # the descriptions have stopped
    assert frames.shown.stamp == "9.000000000" and frames.shown.as_json()["regions"] == []


def test_a_picture_may_come_after_its_descriptions() -> None:
    frames = Frames()
    frames.add_descriptions(descriptions(1), 10.0)
    assert frames.shown.encode(LEVELS[0]) == ({"picture": "none"}, b"")
    before = frames.shown.number
    frames.add_image(header(1), image(1), 10.1)
    assert frames.shown.number > before and frames.shown.encode(LEVELS[0])[1]


def test_frames_are_bounded() -> None:
    frames = Frames()
    for second in range(1, 200):
        frames.add_image(header(second), image(second, 32, 24), float(second))
    assert frames.find("199.000000000") is not None and frames.find("100.000000000") is None


def test_levels_take_less_and_less() -> None:
    frames = Frames()
    frames.add_image(header(1), image(1, 1600, 1200), 1.0)
    frames.add_descriptions(descriptions(1), 1.1)
    sizes = [len(frames.shown.encode(level)[1]) for level in LEVELS]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] <= 6000
    assert Picture.open(BytesIO(frames.shown.encode(LEVELS[1])[1])).size == (960, 720)


def test_crops_say_what_they_show() -> None:
    frames = Frames()
    frames.add_image(header(1), image(1), 1.0)
    frames.add_descriptions(descriptions(1), 1.1)
    about, jpeg = frames.shown.encode(LEVELS[-1])
    sheet = Picture.open(BytesIO(jpeg))
    assert [tile[4:] for tile in about["tiles"]] == [[0, 0, 60, 40], [100, 50, 200, 150], [250, 150, 70, 90]]
    for left, top, width, height, *_ in about["tiles"]:
        assert left + width <= sheet.width and top + height <= sheet.height

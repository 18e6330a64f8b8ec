"""Pairing of images and boxes: both orders, losses, lateness, clocks that jump."""
from __future__ import annotations

import pytest

from ros_gpt4roi.nodes.frame_buffer import FrameBuffer


def test_both_orders_of_arrival_give_the_pair() -> None:
    buffer: FrameBuffer[str, str] = FrameBuffer(4)
    assert buffer.add_image(10, "image 10") is None
    pair = buffer.add_boxes(10, "boxes 10")
    assert (pair.stamp_ns, pair.image, pair.boxes) == (10, "image 10", "boxes 10")
    assert buffer.add_boxes(20, "boxes 20") is None
    pair = buffer.add_image(20, "image 20")
    assert (pair.stamp_ns, pair.image, pair.boxes) == (20, "image 20", "boxes 20")


def test_only_equal_stamps_pair_without_slop() -> None:
    buffer: FrameBuffer[str, str] = FrameBuffer(4)
    buffer.add_image(10, "image")
    assert buffer.add_boxes(11, "boxes") is None
    assert buffer.find(11) is None and buffer.find(10).boxes is None


@pytest.mark.parametrize("stamp, expected", [(95, 100), (105, 100), (146, 150), (111, None)])
def test_slop_takes_the_nearest_stamp_within_it(stamp: int, expected: int | None) -> None:
    buffer: FrameBuffer[str, str] = FrameBuffer(4, slop_ns=10)
    buffer.add_image(100, "a")
    buffer.add_image(150, "b")
    pair = buffer.add_boxes(stamp, "boxes")
    assert (pair and pair.stamp_ns) == expected


def test_the_ring_is_bounded_and_losses_are_counted() -> None:
    buffer: FrameBuffer[int, int] = FrameBuffer(3)
    for stamp in range(10):
        buffer.add_image(stamp, stamp)
    assert len(buffer) == 3 and buffer.images_without_boxes == 7
    assert buffer.find(6) is None and buffer.find(7).image == 7
    for stamp in range(100, 110):
        buffer.add_boxes(stamp, stamp)
    assert buffer.boxes_without_image == 7


def test_a_late_pair_is_kept_for_questions_but_not_described() -> None:
    buffer: FrameBuffer[str, str] = FrameBuffer(4)
    buffer.add_image(1, "old")
    buffer.add_image(2, "new")
    assert buffer.add_boxes(2, "new boxes").stamp_ns == 2
    assert buffer.add_boxes(1, "old boxes") is None
    assert buffer.paired_late == 1
    assert buffer.find(1).boxes == "old boxes"


def test_newest_prefers_a_frame_with_boxes() -> None:
    buffer: FrameBuffer[str, str] = FrameBuffer(2)
    assert buffer.newest() is None
    buffer.add_image(1, "a")
    assert buffer.newest().stamp_ns == 1
    buffer.add_boxes(1, "boxes")
    buffer.add_image(2, "b")
    assert buffer.newest().stamp_ns == 1  # a detector is always a little behind its camera
    buffer.add_image(3, "c")
    assert buffer.newest().stamp_ns == 3  # but one that has stopped must not hold questions back


def test_a_clock_set_back_starts_afresh() -> None:
    buffer: FrameBuffer[str, str] = FrameBuffer(4)
    for stamp in (1000, 1010):
        buffer.add_image(stamp, "before")
        buffer.add_boxes(stamp, "before")
    buffer.add_image(5, "after")
    assert buffer.time_jumps == 1 and len(buffer) == 1
    assert buffer.add_boxes(5, "boxes after").stamp_ns == 5
    assert buffer.newest().image == "after"


def test_the_same_stamp_again_replaces_the_image() -> None:
    """A driver that stamps nothing sends zeros: the newest of them is the frame."""
    buffer: FrameBuffer[str, str] = FrameBuffer(4)
    buffer.add_image(0, "first")
    buffer.add_boxes(0, "boxes")
    buffer.add_image(0, "second")
    assert len(buffer) == 1
    assert buffer.newest().image == "second" and buffer.newest().boxes is None


@pytest.mark.parametrize("size, slop", [(0, 0), (-1, 0), (1, -1)])
def test_impossible_settings_are_refused(size: int, slop: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        FrameBuffer(size, slop)

"""Pairing of images and boxes: both orders, losses, lateness, clocks that jump, limits of time and bytes."""
from __future__ import annotations

import pytest

from ros_gpt4roi.nodes.frame_buffer import FrameBuffer

SECOND = 1_000_000_000
PERIOD = SECOND // 30


class Clock:
    """A steady clock at the test's command."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def buffer(clock: Clock) -> FrameBuffer[str, str]:
    return FrameBuffer(3.0, 1000, clock=clock)


def test_both_orders_of_arrival_give_the_pair(buffer: FrameBuffer[str, str]) -> None:
    assert buffer.add_image(10, "image 10", 1) is None
    pair = buffer.add_boxes(10, "boxes 10")
    assert (pair.stamp_ns, pair.image, pair.boxes) == (10, "image 10", "boxes 10")
    assert buffer.add_boxes(20, "boxes 20") is None
    pair = buffer.add_image(20, "image 20", 1)
    assert (pair.stamp_ns, pair.image, pair.boxes) == (20, "image 20", "boxes 20")


def test_only_equal_stamps_pair_without_slop(buffer: FrameBuffer[str, str]) -> None:
    buffer.add_image(10, "image", 1)
    assert buffer.add_boxes(11, "boxes") is None
    assert buffer.find(11) is None and buffer.find(10).boxes is None


@pytest.mark.parametrize("stamp, expected", [(95, 100), (105, 100), (146, 150), (111, None)])
def test_slop_takes_the_nearest_stamp_within_it(stamp: int, expected: int | None) -> None:
    buffer: FrameBuffer[str, str] = FrameBuffer(3.0, 1000, slop_ns=10)
    buffer.add_image(100, "a", 1)
    buffer.add_image(150, "b", 1)
    pair = buffer.add_boxes(stamp, "boxes")
    assert (pair and pair.stamp_ns) == expected


def test_images_are_kept_for_a_time_and_losses_are_counted(buffer: FrameBuffer[str, str], clock: Clock) -> None:
    for stamp in range(10):
        buffer.add_image(stamp, f"{stamp}", 1)
        clock.now += 1
    assert [buffer.find(stamp) is not None for stamp in range(10)] == [False] * 6 + [True] * 4
    assert len(buffer) == buffer.bytes == 4 and buffer.images_without_boxes == 6 and buffer.span_s == 4
    for stamp in range(100, 110):
        buffer.add_boxes(stamp, "boxes")
        clock.now += 1
    assert buffer.boxes_without_image == 6 and buffer.last_boxes_without_image_ns == 105
    buffer.add_image(200, "an image drops boxes too", 1)
    assert buffer.boxes_without_image == 7 and buffer.last_boxes_without_image_ns == 106


def test_clearing_forgets_everything_but_the_counters(buffer: FrameBuffer[str, str], clock: Clock) -> None:
    buffer.add_boxes(5, "never met")
    clock.now += 4
    buffer.add_image(10, "image", 7)
    buffer.add_boxes(20, "waiting")
    buffer.clear()
    assert len(buffer) == buffer.bytes == buffer.span_s == 0 and buffer.newest() is None
    assert buffer.boxes_without_image == 1
    assert buffer.add_image(20, "image", 1) is None, "boxes from before have met it"
    assert buffer.add_boxes(20, "boxes").boxes == "boxes"


def test_images_are_bounded_in_bytes_but_for_the_newest(buffer: FrameBuffer[str, str]) -> None:
    for stamp in range(10):
        buffer.add_image(stamp, "small", 300)
    assert len(buffer) == 3 and buffer.bytes == 900 and buffer.images_without_boxes == 7
    buffer.add_image(10, "large", 5000)
    assert len(buffer) == 1 and buffer.newest().image == "large"
    buffer.add_image(11, "small", 300)
    assert len(buffer) == 1 and buffer.newest().image == "small" and buffer.bytes == 300


def test_masks_of_boxes_count_among_the_bytes(buffer: FrameBuffer[str, str]) -> None:
    buffer.add_boxes(1, "boxes 1", 500)
    assert buffer.bytes == 0
    assert buffer.add_image(1, "image 1", 300) is not None and buffer.bytes == 800
    buffer.add_boxes(1, "boxes 1 again", 100)
    assert buffer.bytes == 400
    buffer.add_image(2, "image 2", 300)
    buffer.add_boxes(2, "boxes 2", 400)
    buffer.add_image(3, "image 3", 250)
    assert buffer.find(1) is None and buffer.bytes == 950
    buffer.clear()
    assert buffer.bytes == 0


def test_boxes_without_images_are_bounded_in_number(buffer: FrameBuffer[str, str]) -> None:
    for stamp in range(10_000):
        buffer.add_boxes(stamp, "boxes")
    assert 9000 < buffer.boxes_without_image < 10_000


def test_boxes_that_come_two_seconds_late_meet_their_images(buffer: FrameBuffer[str, str], clock: Clock) -> None:
    paired = 0
    for frame in range(150):
        buffer.add_image(frame * PERIOD, f"{frame}", 1)
        if frame >= 60:
            pair = buffer.add_boxes((frame - 60) * PERIOD, "boxes")
            paired += pair is not None and pair.image == f"{frame - 60}"
        clock.now += 1 / 30
    assert paired == 90 and buffer.paired_late == buffer.boxes_without_image == 0


def test_the_last_images_of_a_slow_camera_stay(buffer: FrameBuffer[str, str], clock: Clock) -> None:
    buffer.add_image(1, "a", 1)
    buffer.add_boxes(1, "boxes")
    clock.now += 60
    buffer.add_image(2, "b", 1)
    assert buffer.newest().image == "a" and len(buffer) == 2


def test_a_late_pair_is_kept_for_questions_but_not_described(buffer: FrameBuffer[str, str]) -> None:
    buffer.add_image(1, "old", 1)
    buffer.add_image(2, "new", 1)
    assert buffer.add_boxes(2, "new boxes").stamp_ns == 2
    assert buffer.add_boxes(1, "old boxes") is None
    assert buffer.paired_late == 1
    assert buffer.find(1).boxes == "old boxes"


def test_newest_prefers_a_frame_with_boxes(buffer: FrameBuffer[str, str], clock: Clock) -> None:
    assert buffer.newest() is None
    buffer.add_image(1, "a", 1)
    assert buffer.newest().stamp_ns == 1
    buffer.add_boxes(1, "boxes")
    buffer.add_image(2, "b", 1)
    assert buffer.newest().stamp_ns == 1  # a detector is always a little behind its camera
    clock.now += 3.5
    buffer.add_image(3, "c", 1)
    assert buffer.newest().stamp_ns == 3  # but one that has stopped must not hold questions back


def test_after_a_clock_was_set_back_the_new_images_are_the_newest(buffer: FrameBuffer[str, str]) -> None:
    for stamp in (1000 * SECOND, 1001 * SECOND):
        buffer.add_image(stamp, "before", 1)
        buffer.add_boxes(stamp, "before")
    buffer.add_image(5 * SECOND, "after", 1)
    assert buffer.stamps_set_back == 1
    assert buffer.add_boxes(5 * SECOND, "boxes after").stamp_ns == 5 * SECOND
    assert buffer.newest().image == "after"
    for stamp in (6 * SECOND, 7 * SECOND, 6 * SECOND):  # by less than images are kept: a recording that begins again
        buffer.add_image(stamp, f"{stamp}", 1)
        assert buffer.add_boxes(stamp, "boxes").stamp_ns == stamp
    assert buffer.stamps_set_back == 1


@pytest.mark.parametrize("error", [3600 * SECOND, -3600 * SECOND, 2 * SECOND])
@pytest.mark.parametrize("delay", [0, 30])
def test_one_stamp_far_from_the_others_costs_no_other_frame(error: int, delay: int, clock: Clock,
                                                            buffer: FrameBuffer[str, str]) -> None:
    stamps = [7200 * SECOND + frame * PERIOD + (error if frame == 50 else 0) for frame in range(150)]
    paired = 0
    for frame, stamp in enumerate(stamps):
        buffer.add_image(stamp, f"{frame}", 1)
        if frame >= delay:
            pair = buffer.add_boxes(stamps[frame - delay], "boxes")
            paired += pair is not None and pair.image == f"{frame - delay}"
        clock.now += 1 / 30
    assert paired >= 150 - delay - 1


def test_the_same_stamp_again_replaces_the_image(buffer: FrameBuffer[str, str]) -> None:
    """A driver that stamps nothing sends zeros: the newest of them is the frame."""
    buffer.add_image(0, "first", 1)
    buffer.add_boxes(0, "boxes")
    buffer.add_image(0, "second", 2)
    assert len(buffer) == 1 and buffer.bytes == 2
    assert buffer.newest().image == "second" and buffer.newest().boxes is None


@pytest.mark.parametrize("keep, size, slop", [(0, 1, 0), (-1, 1, 0), (float("nan"), 1, 0), (1, 0, 0), (1, 1, -1)])
def test_impossible_settings_are_refused(keep: float, size: int, slop: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        FrameBuffer(keep, size, slop)

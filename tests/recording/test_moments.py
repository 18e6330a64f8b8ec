"""Which frames are chosen, by a clock of the test's own."""
from __future__ import annotations

import pytest

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.recording.moments import Moments, Note, RecordingRules

SECOND = 10**9


def frames(moments: Moments, begin_s: float, count: int, rate_hz: float = 10, size: int = 1000) -> None:
    """Frames whose stamps are their times of arrival; each is its time."""
    for place in range(count):
        time_s = begin_s + place / rate_hz
        moments.add_frame(round(time_s * SECOND), time_s, round(time_s, 3), size)


def taken(moments: Moments, now_s: float) -> list[float]:
    return [frame for frame, *_ in moments.take(now_s)]


def said(*triggers: str, people: bool = False, boxes: object = None, message: str = "said") -> Note:
    return Note(message, 10, triggers, people, boxes)


def test_frames_around_what_happened_are_chosen_at_the_rate() -> None:
    moments = Moments(RecordingRules(rate_hz=2, before_s=1, after_s=1), False)
    frames(moments, 10, 50)
    assert taken(moments, 15) == []
    assert moments.add_note(12_300_000_000, 15, said("changed")) == []
    assert taken(moments, 15) == [11.5, 12.0, 12.3, 12.5, 13.0]
    frames(moments, 15, 20)
    assert taken(moments, 17) == [], "the window is over"
    moments.add_note(12_300_000_000, 17, said("asked", people=True))
    assert taken(moments, 17) == [], "each frame once"
    assert moments.counts["changed"] == moments.counts["asked"] == 1


def test_a_window_that_is_open_takes_what_comes() -> None:
    moments = Moments(RecordingRules(rate_hz=2, before_s=0, after_s=2), False)
    frames(moments, 10, 1)
    moments.add_note(10 * SECOND, 10, said("low_confidence"))
    frames(moments, 10.5, 30)
    assert taken(moments, 14) == [10.0, 10.5, 11.0, 11.5, 12.0]


def test_what_no_rule_names_is_not_chosen_and_always_is_everything() -> None:
    moments = Moments(RecordingRules(triggers=("corrected",)), False)
    frames(moments, 10, 5)
    moments.add_note(10 * SECOND, 10, said("changed"))
    assert taken(moments, 11) == []
    moments = Moments(RecordingRules(triggers=("always",), rate_hz=5), False)
    frames(moments, 10, 5)
    assert taken(moments, 11) == [10.0, 10.2, 10.4]
    with pytest.raises(ConfigError, match="'sometimes'"):
        RecordingRules(triggers=("sometimes",))
    with pytest.raises(ConfigError, match="expected at least before_s"):
        RecordingRules(before_s=90)


def test_notes_go_with_their_frame_and_those_of_people_at_once() -> None:
    moments = Moments(RecordingRules(before_s=0, after_s=0), False)
    frames(moments, 10, 2)
    assert moments.add_note(10_100_000_000, 11, said(message="boxes", boxes="b")) == []
    assert moments.add_note(10_100_000_000, 11, said("corrected", people=True, message="no")) == ["no"]
    assert list(moments.take(11)) == [(10.1, ("b",), ["boxes"])]
    assert moments.add_note(10_100_000_000, 11, said(message="late")) == ["late"]
    assert moments.add_note(99 * SECOND, 11, said("corrected", people=True, message="kept")) == ["kept"]
    assert taken(moments, 99) == [] and moments.counts["frames that were spoken of and not held"] == 1


def test_what_people_say_may_overtake_its_frame() -> None:
    moments = Moments(RecordingRules(rate_hz=1, before_s=0.5, after_s=1), False)
    assert moments.add_note(10_300_000_000, 10, said("asked", people=True)) == ["said"]
    frames(moments, 10, 30)
    assert taken(moments, 13) == [10.0, 10.3, 11.0]


@pytest.mark.parametrize("boxes_first", [True, False])
def test_boxes_of_a_stamp_nearby_are_those_of_the_frame(boxes_first: bool) -> None:
    moments = Moments(RecordingRules(slop_s=0.02, triggers=("always",)), needs_boxes=True)
    if boxes_first:
        moments.add_note(10_010_000_000, 10, said(boxes="b"))
    frames(moments, 10, 1)
    if not boxes_first:
        assert taken(moments, 10) == [], "what is to be blacked out is not known yet"
        moments.add_note(10_010_000_000, 10, said(boxes="b"))
    assert list(moments.take(10)) == [(10.0, ("b",), ["said"])]
    moments.add_frame(10_015_000_000, 10, 10.015, 1000)
    assert taken(moments, 10) == [], "those of another frame, which has been given, are not its own"


def test_boxes_of_several_detectors_are_all_of_their_frame() -> None:
    moments = Moments(RecordingRules(triggers=("always",)), needs_boxes=True)
    for boxes in ("faces", "things"):
        moments.add_note(10 * SECOND, 10, said(boxes=boxes))
    frames(moments, 10, 1)
    assert list(moments.take(10)) == [(10.0, ("faces", "things"), ["said", "said"])]


def test_a_frame_whose_boxes_never_come_is_not_given() -> None:
    moments = Moments(RecordingRules(buffer_s=5), needs_boxes=True)
    frames(moments, 10, 1)
    moments.add_note(10 * SECOND, 10, said("asked", people=True))
    assert taken(moments, 10) == taken(moments, 20) == []
    assert moments.held_bytes == 0
    assert moments.counts["frames without the detections that are to be blacked out"] == 1


def test_what_is_held_is_bounded_in_bytes_and_seconds() -> None:
    moments = Moments(RecordingRules(buffer_mib=1), False)
    frames(moments, 10, 100, size=100_000)
    assert moments.held_bytes <= 2**20
    moments.add_note(10 * SECOND, 20, said("corrected", people=True))
    assert taken(moments, 20) == [], "the oldest went first"
    moments = Moments(RecordingRules(rate_hz=1, buffer_s=20), False)
    frames(moments, 10, 50)
    assert taken(moments, 19.95) == [] and moments.held_bytes == 5000, "frames of no interest go after some seconds"
    assert taken(moments, 100) == [] and moments.held_bytes == 0


def test_a_scene_that_always_changes_is_recorded_at_the_rate() -> None:
    moments = Moments(RecordingRules(rate_hz=1, before_s=0, after_s=0), False)
    frames(moments, 10, 30)
    for place in range(30):
        moments.add_note(10 * SECOND + place * SECOND // 10, 13, said("changed"))
    assert len(taken(moments, 13)) == 3

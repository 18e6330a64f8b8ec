from __future__ import annotations

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")

from ros_gpt4roi_interfaces.msg import Correction  # noqa: E402

from ros_gpt4roi.console.commands import Ask, CommandError, Correct, read_command  # noqa: E402


def test_a_question_is_read() -> None:
    ask = read_command('{"type": "ask", "ask": "1", "text": "what?", "stamp": "12.000000034", '
                       '"boxes": [{"id": "9", "box": [1, 2, 3, 6]}]}')
    assert isinstance(ask, Ask)
    region = ask.boxes[0].as_region()
    assert (region.id, region.bbox.center.position.x, region.bbox.size_y) == ("9", 2.0, 4.0)


def test_a_correction_becomes_its_message() -> None:
    command = read_command('{"type": "correct", "about": "c", "kind": "answer", "verdict": "wrong", '
                           '"stamp": "12.000000034", "said": "a mug", "right": "a valve", "who": "Ada"}')
    assert isinstance(command, Correct)
    message = command.as_correction()
    assert (message.kind, message.verdict) == (Correction.ANSWER, Correction.WRONG)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 34)
    assert (message.said, message.right, message.who) == ("a mug", "a valve", "Ada")


@pytest.mark.parametrize(("data", "named"), [
    ("", "JSON"),
    ("[]", "got []"),
    ('{"type": "delete"}', "delete"),
    ('{"type": "ask", "ask": "1"}', "text"),
    ('{"type": "watch", "watch": "1"}', "text"),
    ('{"type": "unwatch"}', "watch"),
    ('{"type": "ask", "ask": "1", "text": "?", "boxes": [{"box": [1, 2, 3]}]}', "boxes"),
    ('{"type": "ask", "ask": "1", "text": "?", "boxes": [{"box": [1, 2, 3, NaN]}]}', "boxes.0.box"),
    ('{"type": "ask", "ask": "1", "text": "?", "boxes": [{"box": [1, 2, 3, 1e300]}]}', "1000000"),
    ('{"type": "ask", "ask": "1", "text": "?", "stamp": "now"}', "stamp"),
    ('{"type": "ask", "ask": "1", "text": "?", "more": 1}', "more"),
    ('{"type": "ack", "frame": "x"}', "frame"),
    (b"\xff\xfe", "JSON"),
])
def test_what_is_no_command_is_named(data: str | bytes, named: str) -> None:
    with pytest.raises(CommandError) as raised:
        read_command(data)
    assert named in str(raised.value) and len(str(raised.value)) < 1000


def test_too_long_a_question_is_refused_shortly() -> None:
    with pytest.raises(CommandError) as raised:
        read_command('{"type": "ask", "ask": "1", "text": "' + "x" * 5000 + '"}')
    assert "4000" in str(raised.value) and len(str(raised.value)) < 300

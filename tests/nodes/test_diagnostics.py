"""Problems are counted every time and logged at a bearable rate."""
from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("diagnostic_msgs.msg", reason="no ROS 2 in this environment")
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi.nodes.diagnostics import Problems, diagnostic_array  # noqa: E402

if TYPE_CHECKING:
    from ros_peer import Peer


def test_each_kind_is_counted_and_logged_once_in_a_period() -> None:
    lines: list[str] = []
    problems = Problems(lines.append, period_s=math.inf)
    for number in range(5):
        problems.report("image refused", f"encoding {number}")
    problems.report("box refused", "nan")
    assert lines == ["image refused: encoding 0", "box refused: nan"]
    assert problems.total() == 6
    assert problems.values() == {"image refused": "5", "image refused, last": "encoding 4", "box refused": "1",
                                 "box refused, last": "nan"}


def test_what_was_passed_over_is_told_with_the_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("ros_gpt4roi.nodes.diagnostics.time.monotonic", lambda: now[0])
    lines: list[str] = []
    problems = Problems(lines.append, period_s=5.0)
    for moment in (100.0, 101.0, 104.9, 105.0, 110.0):
        now[0] = moment
        problems.report("image refused", f"at {moment}")
    assert lines == ["image refused: at 100.0", "image refused: at 105.0 (and 2 more before)",
                     "image refused: at 110.0"]


def test_what_is_odd_but_served_is_told_once_and_is_no_problem() -> None:
    lines: list[str] = []
    problems = Problems(lines.append, period_s=0)
    for name in ("cup", "plate"):
        problems.note("detection ids repeat", name)
    assert lines == ["detection ids repeat: cup"] and problems.total() == 0
    assert problems.values() == {"detection ids repeat": "2", "detection ids repeat, last": "plate"}


def test_what_is_refused_may_be_of_any_length() -> None:
    lines: list[str] = []
    problems = Problems(lines.append)
    problems.report("query INVALID", "x" * 100_000)
    assert len(lines[0]) < 500 and len(problems.values()["query INVALID, last"]) < 500


def test_what_comes_from_outside_forges_no_line_and_moves_no_cursor() -> None:
    lines: list[str] = []
    problems = Problems(lines.append)
    hostile = "box\n[ERROR] [1.0] [perception]: all is lost\x1b[2J\u202egnp.exe\u2028\r\x9b"
    problems.report("box refused", hostile)
    message = diagnostic_array(Header(), "node: part", DiagnosticStatus.OK, hostile, hostile, {"last": hostile})
    (status,) = message.status
    for text in (*lines, *problems.values().values(), status.message, status.hardware_id, status.values[0].value):
        assert text.isprintable() and len(text.splitlines()) == 1
    assert "\\n[ERROR]" in lines[0] and "\\x1b[2J\\u202e" in lines[0]


def test_values_are_written_as_text() -> None:
    message = diagnostic_array(Header(frame_id="f"), "node: part", DiagnosticStatus.WARN, "why", "model",
                               {"count": 3, "stage [ms]": 12.34567891, "state": "active"})
    (status,) = message.status
    assert (status.level, status.name, status.message, status.hardware_id) == (
        DiagnosticStatus.WARN, "node: part", "why", "model")
    assert {v.key: v.value for v in status.values} == {"count": "3", "stage [ms]": "12.3457", "state": "active"}


def test_a_gpu_that_is_not_used_is_a_warning_with_what_mends_it(peer: Peer, tiny_model: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
    from answering import perception_here

    from ros_gpt4roi.runtime.device import Device
    monkeypatch.setattr("ros_gpt4roi.runtime.pipeline.choose_device",
                        lambda wanted: Device("cpu", "auto: a GPU is here, but not usable", "install its driver"))
    reports: list[DiagnosticArray] = []
    peer.node.create_subscription(DiagnosticArray, "/diagnostics", reports.append, 10)
    with perception_here(peer, tiny_model, {"pipeline.vision.backend": "torch"}):
        def told() -> bool:
            return any(report.status[0].level == DiagnosticStatus.WARN and any(
                pair.key == "GPU not used, last" and "install its driver" in pair.value
                for pair in report.status[0].values) for report in reports)
        peer.wait_for(told, "the warning")

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")

from ros_gpt4roi.console.frames import LEVELS  # noqa: E402
from ros_gpt4roi.console.pace import Pace  # noqa: E402


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pace, float, float, int], None]:
    """Sends pictures over a link; time is what the test says."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def send(pace: Pace, distance_s: float, transfer_s: float, count: int) -> None:
        nonlocal now
        for number in range(count):
            now += min(pace.wait_s(), 10.0)
            pace.sent(number)
            assert pace.wait_s() == math.inf
            now += distance_s
            pace.pong(number)
            now += transfer_s
            pace.acknowledged(number)
    return send


def test_a_fast_browser_gets_all(link: Callable[..., None]) -> None:
    pace = Pace()
    link(pace, 0.001, 0.005, 50)
    assert pace.level == LEVELS[0] and pace.wait_s() == 0


def test_a_browser_that_is_far_away_is_not_slow(link: Callable[..., None]) -> None:
    pace = Pace()
    link(pace, 0.6, 0.01, 50)
    assert pace.level == LEVELS[0]


def test_a_slow_browser_gets_crops_once_a_second(link: Callable[..., None]) -> None:
    pace = Pace()
    link(pace, 0.02, 3.0, 2)
    assert pace.level == LEVELS[-1]
    link(pace, 0.02, 0.3, 20)
    assert pace.level == LEVELS[-1] and pace.wait_s() == pytest.approx(0.68)


def test_acknowledgements_of_something_else_change_nothing() -> None:
    pace = Pace()
    pace.sent(5)
    pace.pong(4)
    pace.acknowledged(4)
    assert pace.wait_s() == math.inf

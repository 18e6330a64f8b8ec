"""Signals of a program that talks to ROS."""
from __future__ import annotations

import os
import signal

import pytest

from ros_gpt4roi.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_where_it_is_looked_for_and_nowhere_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        interrupts.check()
        os.kill(os.getpid(), number)
        assert (interrupts.count, interrupts.status) == (1, 128 + number)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert signal.getsignal(number) is before

"""Speech that brings its button along: of a page's microphone, heard in place of the node's own."""
from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Int16MultiArray

from ros_gpt4roi.speech.audio import RATE, Chunk

from .diagnostics import Problems

_DEPTH = 200
_MOST_SAMPLES = 2 * RATE  # of one message
_SILENT_S = 2.0  # a stream that gives nothing for so long has ended
_LOOK_S = 0.5


class TalkAudio:
    """Listens to `talk_audio`: 16 kHz, one channel. Its first message presses the button, an empty one releases it.

    Both are in one stream, so that no word is lost between them.

    Args:
        node: The node.
        press: Called before the first piece.
        receive: Takes each piece, and must return at once.
        release: Called after the last piece.
        problems: Receives what goes wrong.
    """

    def __init__(self, node: Node, press: Callable[[], None], receive: Callable[[Chunk], None],
                 release: Callable[[], None], problems: Problems) -> None:
        self._node, self._problems = node, problems
        self._press, self._receive, self._release = press, receive, release
        self._heard_s = -float("inf")
        self.active = False
        """Whether somebody talks, whose microphone takes the place of the node's own."""
        node.create_subscription(Int16MultiArray, "talk_audio", self._on_audio, QoSProfile(depth=_DEPTH))
        node.create_timer(_LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_audio(self, message: Int16MultiArray) -> None:
        if not len(message.data):
            self._end()
            return
        if len(message.data) > _MOST_SAMPLES:
            self._problems.report("audio refused", f"talk_audio: a message has {len(message.data)} samples; expected "
                                                   f"at most {_MOST_SAMPLES}, of {RATE} a second")
            return
        self._heard_s = time.monotonic()
        if not self.active:
            self.active = True
            self._press()
        samples = np.array(message.data, np.int16)[:, None]
        began_ns = self._node.get_clock().now().nanoseconds - int(1e9 * len(samples) / RATE)
        self._receive(Chunk(samples, RATE, began_ns))

    def _end(self) -> None:
        if self.active:
            self._release()
            self.active = False

    def _look(self) -> None:
        if self.active and time.monotonic() > self._heard_s + _SILENT_S:
            self._problems.report("talk broke off", f"talk_audio: nothing came for {_SILENT_S:.0f} s, and no empty "
                                                    "message, which ends it")
            self._end()

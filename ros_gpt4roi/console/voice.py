"""The speech node as the consoles see it: its button, the way of sound to it, what it has heard and what it says."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from ros_gpt4roi_interfaces.msg import Utterance
from std_msgs.msg import Bool, Int16MultiArray, String

from ros_gpt4roi.client import Client
from ros_gpt4roi.client.connection import statuses

MOST_TALK_S = 30.0
"""The longest that a console keeps the button pressed; no speech node takes longer utterances."""

_DEPTH = 200
_QUIET_S = 5.0  # it reports once a second
_NOT_THERE = "no speech node runs (ros2 run ros_gpt4roi speech)"


class Voice:
    """One client's connection to the speech node in the namespace of the perception node.

    Args:
        client: The client; what is received is handed over where its node is spun.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._button = client.node.create_publisher(Bool, client.topic_name("push_to_talk"), 10)
        self._audio = client.node.create_publisher(Int16MultiArray, client.topic_name("talk_audio"), _DEPTH)
        self._status: DiagnosticStatus | None = None
        self._status_s = -float("inf")

    def listen(self, on_heard: Callable[[Utterance], None], on_reply: Callable[[str], None]) -> Callable[[], None]:
        """Begins to receive. Returns a function that ends it.

        Args:
            on_heard: Receives what was heard.
            on_reply: Receives what the node says.
        """
        stops = [self._client.listen(Utterance, "utterances", on_heard),
                 self._client.listen(String, "replies", lambda message: on_reply(message.data)),
                 self._client.listen(DiagnosticArray, "/diagnostics", self._on_diagnostics)]

        def stop() -> None:
            for end in stops:
                end()
        return stop

    def state(self) -> tuple[bool, str]:
        """Whether there is a speech node that listens to the button, and its state in a sentence."""
        if not self._button.get_subscription_count():
            return False, _NOT_THERE
        if self._status is None or time.monotonic() > self._status_s + _QUIET_S:
            return True, ""
        return True, str(self._status.message)

    def press(self, pressed: bool) -> None:
        """Presses or releases the button of the node, which listens to its own source of sound."""
        self._button.publish(Bool(data=pressed))

    def hand_over(self, samples: npt.NDArray[np.int16]) -> None:
        """Hands the next piece of somebody's speech to the node, which presses the button for it.

        Args:
            samples: int16 [n], 16 kHz; none: it has ended.
        """
        message = Int16MultiArray()
        message.data.frombytes(samples.tobytes())
        self._audio.publish(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for _, status in statuses(message, self._client.namespace, "speech"):
            self._status, self._status_s = status, time.monotonic()

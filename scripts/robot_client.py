"""A ROS 2 client of the perception node: receives descriptions, asks questions. What demo.py and ask.py share."""

from __future__ import annotations

import time
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from ros_gpt4roi_interfaces.action import Ask
from ros_gpt4roi_interfaces.msg import Answer, Query, RegionDescriptionArray
from sensor_msgs.msg import Image
from std_msgs.msg import String

from ros_gpt4roi.nodes.process import use_large_messages

#: Answer.status in words.
STATUS = {getattr(Answer, name): name for name in (
    "OK", "CANCELED", "TIMEOUT", "NO_FRAME", "UNKNOWN_REGION", "OVERLOADED", "INVALID", "FAILED")}
_POLL_S = 0.1


class ClientError(RuntimeError):
    """Something that the client waited for did not come. The text says what, and for how long."""


class RobotClient:
    """A node with one executor, spun only inside `wait_for`: no thread, no callback at any other time.

    check: called while waiting; raises to end the wait, for example when a process it started has died.
    Use it as a context manager: it starts and ends rclpy.
    """

    def __init__(self, name: str, check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        use_large_messages()
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C stays a KeyboardInterrupt
        self.node = rclpy.create_node(name)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._ask = ActionClient(self.node, Ask, "ask")
        self._failure = ""  # why a perception node could not be configured
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def __enter__(self) -> RobotClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._ask.destroy()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def on_descriptions(self, callback: Callable[[RegionDescriptionArray], None]) -> None:
        self.node.create_subscription(RegionDescriptionArray, "region_descriptions", callback, 10)

    def on_annotated_image(self, callback: Callable[[Image], None]) -> None:
        self.node.create_subscription(Image, "annotated_image", callback, qos_profile_sensor_data)

    def on_answer_text(self, callback: Callable[[str], None]) -> None:
        def hear(message: String) -> None:
            callback(message.data)

        self.node.create_subscription(String, "answer_text", hear, 10)

    def wait_for(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        """Handle messages until `condition()`. Raises ClientError naming `what` when `limit_s` seconds have passed."""
        end = time.monotonic() + limit_s
        while not condition():
            self._check()
            if time.monotonic() > end:
                raise ClientError(f"{what}: not within {limit_s:g} s")
            self._executor.spin_once(timeout_sec=_POLL_S)

    def wait_for_node(self, limit_s: float) -> None:
        """Wait until a perception node is there to answer. Raises ClientError, at once where the node can't be."""
        self.wait_for(lambda: bool(self._failure) or self._ask.server_is_ready(), limit_s,
                      "no perception node offers the action `ask`")
        if self._failure:
            raise ClientError(f"the perception node could not be configured: {self._failure}")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(": pipeline"):
                self._failure = status.message if status.level == DiagnosticStatus.ERROR else ""

    def ask(self, text: str, conversation_id: str, on_growth: Callable[[str], None], limit_s: float) -> Answer:
        """Ask about the newest frame, or in a conversation about its own; `on_growth` gets each piece of new text.

        Raises ClientError where no answer comes within `limit_s` seconds. An answer with another status than OK is
        returned like any other.
        """
        shown = ""
        answer: Answer | None = None

        def grow(so_far: str) -> None:
            nonlocal shown
            if len(so_far) > len(shown) and so_far.startswith(shown):
                on_growth(so_far[len(shown):])
                shown = so_far

        goal = Ask.Goal(query=Query(text=text, conversation_id=conversation_id))
        sent = self._ask.send_goal_async(goal, feedback_callback=lambda message: grow(message.feedback.text))
        self.wait_for(sent.done, limit_s, f"question {text!r} was not received")
        if not sent.result().accepted:
            raise ClientError(f"question {text!r} was refused by the action server")
        result = sent.result().get_result_async()
        self.wait_for(result.done, limit_s, f"question {text!r} was not answered")
        answer = result.result().result.answer
        grow(answer.text)  # what feedback has not shown yet
        return answer

"""Sends each malformed message to its input, and counts what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from action_msgs.srv import CancelGoal
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from ros_gpt4roi_interfaces.action import Ask, Watch
from ros_gpt4roi_interfaces.msg import Query
from ros_gpt4roi_interfaces.srv import AskQuestion, DescribeRegions

from benchmarks.known_good import DEPTH, STATUS, KnownGood, ObservedStation

from .kinds import KINDS, TOPICS, Kind, Sample
from .requests import ACTIONS, SOON

# What is looked at together with an image of its stamp, and with the others of these.
_OF_AN_IMAGE = ("detections", "depth/image", "camera_info")
# Each of their messages, on the topic `answers`.
_ANSWERED = ("query_text", "image_mouse_left", "annotated_image_mouse_left", "clicked_point")
_ACCEPTED = "accepted"
_REQUESTS: dict[str, Callable[[Query], Any]] = {
    "ask": lambda query: Ask.Goal(query=query), "ask_question": lambda query: AskQuestion.Request(query=query),
    "watch": lambda query: Watch.Goal(query=query, every_n_frames=1, timeout=SOON)}


def _verdict(successes: list[bool]) -> str:
    return "refused" if not any(successes) else "taken" if all(successes) else "taken in part"


# Of each service, its type and how its response reads.
SERVICES: dict[str, tuple[type, Callable[[Any], str]]] = {
    "describe_regions": (DescribeRegions, lambda reply: STATUS[reply.status]),
    "ask_question": (AskQuestion, lambda reply: STATUS[reply.answer.status]),
    "perception/set_parameters": (
        SetParameters, lambda reply: _verdict([result.successful for result in reply.results])),
    "perception/set_parameters_atomically": (
        SetParametersAtomically, lambda reply: _verdict([reply.result.successful])),
    "perception/get_parameters": (GetParameters, lambda reply: "replied"),
    "perception/get_parameter_types": (GetParameterTypes, lambda reply: "replied"),
    "perception/describe_parameters": (DescribeParameters, lambda reply: "replied"),
    "perception/list_parameters": (ListParameters, lambda reply: "replied"),
    "perception/change_state": (ChangeState, lambda reply: _verdict([reply.success])),
}
for _action, _type in ACTIONS.items():
    SERVICES |= {
        f"{_action}/_action/get_result": (_type.Impl.GetResultService, lambda reply: (
            "unknown" if not reply.status else f"goal status {reply.status}")),
        f"{_action}/_action/cancel_goal": (CancelGoal, lambda reply: f"return code {reply.return_code}"),
        f"{_action}/_action/send_goal": (
            _type.Impl.SendGoalService, lambda reply: _ACCEPTED if reply.accepted else "rejected")}


class Senders:
    """Clients and publishers of every input.

    Args:
        station: The node.
        good: The frame that messages are made after.

    Attributes:
        outcomes: How often a message of each kind came to what, by input and the kind's name.
    """

    def __init__(self, station: ObservedStation, good: KnownGood) -> None:
        self._station, self._scene = station, good.scene
        self.outcomes = {(kind.input, kind.name): Counter[str]() for kind in KINDS}
        self._waiting: list[tuple[Future, Callable[[Any], None]]] = []
        history = QoSProfile(depth=DEPTH)
        self._publishers = {topic: station.node.create_publisher(type_, topic, history)
                            for topic, type_ in TOPICS.items()}
        self.clients = {name: station.node.create_client(service, name, qos_profile=history)
                        for name, (service, _) in SERVICES.items()}
        self._actions = {"ask": station.ask, "watch": ActionClient(
            station.node, Watch, "watch", goal_service_qos_profile=history, result_service_qos_profile=history)}

    def wait_for_node(self) -> None:
        """Wait until the node hears everything that is sent."""
        other = "image" if self._station.compressed else "image/compressed"
        heard = [publisher for topic, publisher in self._publishers.items() if topic != other]
        self._station.wait_for(lambda: all(publisher.get_subscription_count() for publisher in heard)
                               and all(client.service_is_ready() for client in self.clients.values())
                               and all(client.server_is_ready() for client in self._actions.values()),
                               "the node's inputs")

    def send(self, kind: Kind, random: Random) -> None:
        """Make and send one message."""
        sample = Sample(kind.input, self._scene.image, self._station.new_header())
        message = kind.make(random, sample)
        if isinstance(message, bytes):
            message += bytes(-len(message) % 4)  # the middleware does, which can make a message of what was none
        if kind.input in TOPICS:
            if kind.input in _OF_AN_IMAGE:
                self._station.send_image(self._scene, sample.header)
                for topic in _OF_AN_IMAGE:
                    self._publishers[topic].publish(sample.message(topic) if topic != kind.input else message)
            else:
                self._publishers[kind.input].publish(message)
            readable = _is_readable(message, TOPICS[kind.input])
            self._station.asked += readable and kind.input in _ANSWERED
            self._count(kind, "published" if readable else "no message to the middleware")
            return
        if isinstance(message, Query):
            message = _REQUESTS[kind.input](message)
        if kind.input in self._actions:
            self._waiting.append((self._actions[kind.input].send_goal_async(message),
                                  lambda goal: self._on_goal(kind, goal)))
        else:
            read = SERVICES[kind.input][1]
            self._waiting.append((self.clients[kind.input].call_async(message),
                                  lambda reply: self._count(kind, read(reply))))

    def _count(self, kind: Kind, outcome: str) -> None:
        self.outcomes[kind.input, kind.name][outcome] += 1
        # Answered on the topic, too, where a watch is not.
        self._station.asked += kind.input == "ask_question" or (
            kind.input.startswith("ask/") and outcome == _ACCEPTED)

    def _on_goal(self, kind: Kind, goal: Any) -> None:
        if not goal.accepted:
            self._count(kind, "rejected")
            return
        self._station.asked += kind.input == "ask"
        self._waiting.append((goal.get_result_async(),
                              lambda reply: self._count(kind, STATUS[reply.result.answer.status])))

    def settle(self) -> None:
        """Wait until everything that was asked has its reply."""
        while self._waiting:
            future, on_reply = self._waiting.pop(0)
            self._station.wait_for(future.done, "the reply to a malformed message")
            on_reply(future.result())
        self._station.wait_for_answers()


def _is_readable(message: Any, type_: type) -> bool:
    if not isinstance(message, bytes):
        return True
    try:
        deserialize_message(message, type_)
    except Exception:  # the middleware's, which takes no such message
        return False
    return True

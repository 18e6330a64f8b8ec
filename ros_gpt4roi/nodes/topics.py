"""Topics that say why nothing arrives: subscriptions that are watched, and events of QoS that does not suit."""
from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from ros_gpt4roi.printable import printable

from .diagnostics import Problems

_STALE_S = 3.0
_SHOWN_ENDPOINTS = 3
_GRAPH_DELAY_S = 1.0
_STALE_INTERVALS = 5  # of a slow source: it has stopped when so many messages are missing


class Input:
    """One subscription, watched.

    Incompatible publishers and messages that the middleware lost are reported to the problems as they come; `stale`
    says whether messages have stopped, or never began.

    Args:
        node: The node.
        kind: The message type.
        topic: The topic's name.
        callback: Receives each message.
        profile: The QoS of the subscription.
        problems: Receives what goes wrong.
        clock: A steady clock in seconds.
        optional: Whether nothing is amiss before the first message.
        options: Further options of `Node.create_subscription`.
    """

    def __init__(self, node: Node, kind: type, topic: str, callback: Callable[[Any], None], profile: QoSProfile,
                 problems: Problems, clock: Callable[[], float] = time.monotonic, optional: bool = False,
                 **options: Any) -> None:
        self._node, self._callback, self._profile, self._problems = node, callback, profile, problems
        self._clock, self._optional = clock, optional
        self._arrived_s = clock()
        self._interval_s = 0.0
        self._count = 0
        self._told = False
        self._subscription: Subscription = node.create_subscription(
            kind, topic, self._on_message, profile, event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda event: _when_known(node, self._report_incompatible),
                message_lost=self._on_lost), **options)
        self.topic = self._subscription.topic_name

    def destroy(self) -> None:
        """Ends the subscription."""
        self._node.destroy_subscription(self._subscription)

    def stale(self) -> str:
        """Why nothing has arrived for some seconds; empty where messages arrive. Logged when it begins and ends."""
        if self._optional and not self._count:
            return ""
        silent_s = self._clock() - self._arrived_s
        if silent_s < max(_STALE_S, _STALE_INTERVALS * self._interval_s):
            if self._told:
                self._node.get_logger().info(f"messages of {self.topic} arrive again")
                self._told = False
            return ""
        since = f"nothing has come for {silent_s:.0f} s" if self._count else "nothing has arrived yet"
        cause = likely_cause(self.topic, self._profile, self._node.get_publishers_info_by_topic(self.topic))
        if not self._told:
            self._node.get_logger().warning(printable(f"{self.topic}: {since}: {cause}", 2000))
            self._told = True
        return f"{self.topic}: {since}: {cause}"

    def _on_message(self, message: object) -> None:
        now = self._clock()
        if self._count:
            self._interval_s = now - self._arrived_s
        self._arrived_s = now
        self._count += 1
        self._callback(message)

    def _report_incompatible(self) -> None:
        cause = likely_cause(self.topic, self._profile, self._node.get_publishers_info_by_topic(self.topic))
        self._problems.report("incompatible QoS", f"{self.topic}: {cause}")

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        self._problems.note("messages lost", f"{event.total_count} of {self.topic} in the middleware, by now")


def publisher_events(node: Node, topic: str, profile: QoSProfile, problems: Problems) -> PublisherEventCallbacks:
    """Events of a publisher that report who subscribes in vain, and why.

    Args:
        node: The publisher's node.
        topic: Its topic.
        profile: Its QoS.
        problems: Receives the report.
    """
    def report() -> None:
        name = node.resolve_topic_name(topic)
        bad = [info for info in node.get_subscriptions_info_by_topic(name) if not _suits(profile, info.qos_profile)]
        problems.report("incompatible QoS", f"{name}: subscribed by {_listed(bad)}, but published as {_shown(profile)} "
                                            "(parameters qos.*)")
    return PublisherEventCallbacks(incompatible_qos=lambda event: _when_known(node, report))


def question_events(node: Node, topic: str, problems: Problems) -> SubscriptionEventCallbacks:
    """Events of a subscription whose every message is to be answered: what the middleware lost is a problem.

    Args:
        node: The subscription's node.
        topic: Its topic.
        problems: Receives the report.
    """
    name = node.resolve_topic_name(topic)

    def report(event: QoSMessageLostInfo) -> None:
        problems.report("question lost", f"{event.total_count_change} of {name} in the middleware, {event.total_count} "
                                         "by now: more came at once than the publisher keeps (the depth of its QoS)")
    return SubscriptionEventCallbacks(message_lost=report)


def likely_cause(topic: str, profile: QoSProfile, publishers: Sequence[TopicEndpointInfo]) -> str:
    """Says why a subscription receives nothing.

    Args:
        topic: Its topic.
        profile: Its QoS.
        publishers: Who publishes the topic.
    """
    if not publishers:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        return (f"nobody publishes it, as far as can be seen in ROS_DOMAIN_ID {domain}; likely another topic's name, "
                "another domain, or discovery that is limited to a host (ROS_AUTOMATIC_DISCOVERY_RANGE)")
    bad = [info for info in publishers if not _suits(info.qos_profile, profile)]
    if bad:
        return f"incompatible QoS: published by {_listed(bad)}, but subscribed as {_shown(profile)} (parameters qos.*)"
    return (f"{len(publishers)} publish it, with suitable QoS; either they are silent, or their messages do not get "
            "here: between containers with a /dev/shm of their own, set FASTDDS_BUILTIN_TRANSPORTS=UDPv4 on both sides")


def _when_known(node: Node, report: Callable[[], None]) -> None:
    """Reports a little later: the event of an endpoint comes before the name of its node."""
    def once() -> None:
        timer.cancel()
        node.destroy_timer(timer)
        report()
    timer = node.create_timer(_GRAPH_DELAY_S, once, clock=Clock(clock_type=ClockType.STEADY_TIME))


def _suits(offered: QoSProfile, requested: QoSProfile) -> bool:
    return qos_check_compatible(offered, requested)[0] != QoSCompatibility.ERROR


def _listed(endpoints: Sequence[TopicEndpointInfo]) -> str:
    shown = ", ".join(f"{info.node_namespace.rstrip('/')}/{info.node_name} as {_shown(info.qos_profile)}"
                      for info in endpoints[:_SHOWN_ENDPOINTS])
    return shown or "a node that is gone"


def _shown(profile: QoSProfile) -> str:
    return f"{profile.reliability.name.lower()}, {profile.durability.name.lower()}"

"""Why nothing arrives: with real publishers on real DDS, and a clock at the test's command."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("std_msgs.msg", reason="no ROS 2 in this environment")
import rclpy  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from ros_peer import Peer  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from ros_gpt4roi.nodes.diagnostics import Problems  # noqa: E402
from ros_gpt4roi.nodes.topics import Input, publisher_events  # noqa: E402

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def other(peer: Peer) -> Iterator[Node]:
    node = rclpy.create_node("camera_driver", namespace="front")
    peer.executor.add_node(node)
    yield node
    peer.executor.remove_node(node)
    node.destroy_node()


@pytest.fixture
def problems() -> Problems:
    return Problems(lambda line: None)


def make_input(peer: Peer, topic: str, profile: QoSProfile, problems: Problems) -> tuple[Input, Clock, list]:
    clock, received = Clock(), []
    return Input(peer.node, String, topic, received.append, profile, problems, clock), clock, received


def test_an_input_that_nobody_publishes_names_domain_and_topic(peer: Peer, problems: Problems, ros_domain: int) -> None:
    source, clock, _ = make_input(peer, "nobody", RELIABLE, problems)
    clock.now += 2.9
    assert source.stale() == ""
    clock.now += 0.2
    text = source.stale()
    for words in ("/nobody", "nothing has arrived yet", "nobody publishes it", f"ROS_DOMAIN_ID {ros_domain}"):
        assert words in text
    source.destroy()


def test_a_source_that_stops_is_told_until_it_goes_on(peer: Peer, other: Node, problems: Problems) -> None:
    source, clock, received = make_input(peer, "image_a", RELIABLE, problems)
    publisher = other.create_publisher(String, "/image_a", RELIABLE)
    peer.wait_for(publisher.get_subscription_count, "the match")
    for count, interval, patience in ((1, 0, 3), (2, 1, 5), (3, 0.1, 3)):
        clock.now += interval
        publisher.publish(String(data="frame"))
        peer.wait_for(lambda: len(received) == count, "a message")
        clock.now += patience - 0.01
        assert source.stale() == ""
        clock.now -= patience - 0.01
    clock.now += 12
    text = source.stale()
    for words in ("/image_a", "nothing has come for 12 s", "1 publish it", "FASTDDS_BUILTIN_TRANSPORTS=UDPv4"):
        assert words in text
    publisher.publish(String(data="frame"))
    peer.wait_for(lambda: len(received) == 4, "a message")
    assert source.stale() == "" and problems.total() == 0
    source.destroy()


def test_incompatible_qos_is_told_with_both_sides(peer: Peer, other: Node, problems: Problems) -> None:
    source, clock, _ = make_input(peer, "image_b", RELIABLE, problems)
    other.create_publisher(String, "/image_b", BEST_EFFORT)
    peer.wait_for(lambda: "camera_driver" in problems.values().get("incompatible QoS, last", ""), "the event")
    clock.now += 5
    for text in (source.stale(), problems.values()["incompatible QoS, last"]):
        for words in ("/image_b", "/front/camera_driver as best_effort", "subscribed as reliable", "qos.*"):
            assert words in text
    source.destroy()


def test_a_viewer_that_asks_for_more_than_is_published_is_told(peer: Peer, other: Node, problems: Problems) -> None:
    peer.node.create_publisher(String, "view", BEST_EFFORT,
                               event_callbacks=publisher_events(peer.node, "view", BEST_EFFORT, problems))
    other.create_subscription(String, "/view", lambda message: None, RELIABLE)
    peer.wait_for(lambda: "camera_driver" in problems.values().get("incompatible QoS, last", ""), "the event")
    text = problems.values()["incompatible QoS, last"]
    for words in ("/view", "/front/camera_driver as reliable", "published as best_effort"):
        assert words in text

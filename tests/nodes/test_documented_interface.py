"""docs/ros_interface.md against the graph: what the nodes offer is in its tables, and nothing else is."""
from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from rclpy.action import get_action_server_names_and_types_by_node  # noqa: E402
from rclpy.node import Node  # noqa: E402
from ros_peer import ROOT, Peer, Process  # noqa: E402

# Of every node, or of every lifecycle node; and what an action is made of.
_RCLPY = re.compile(r"/parameter_events|/rosout|/(perception|sim_camera)/.*|.*/_action/.*")
Row = tuple[str, str, str]


def documented(node: str) -> set[Row]:
    """Name, type and direction or kind of each row in the page's tables about a node."""
    page = (ROOT / "docs" / "ros_interface.md").read_text(encoding="utf-8")
    tables = re.findall(rf"<!-- checked against the running node: {node} -->\n((?:\|.*\n)+)", page)
    rows = [[cell.strip(" `") for cell in line.split("|")[1:4]] for table in tables for line in table.splitlines()[2:]]
    return {(name if name.startswith("/") else f"/{name}", kind, direction) for name, kind, direction in rows}


def offered(peer: Node, node: str) -> set[Row]:
    """The same of the running node, as the graph shows it; nothing before it is discovered."""
    if node not in peer.get_node_names():
        return set()
    found = {"in": peer.get_subscriber_names_and_types_by_node(node, "/"),
             "out": peer.get_publisher_names_and_types_by_node(node, "/"),
             "service": peer.get_service_names_and_types_by_node(node, "/"),
             "action": get_action_server_names_and_types_by_node(peer, node, "/")}
    return {(name, re.sub("/(msg|srv|action)/", "/", kinds[0]), direction)
            for direction, items in found.items() for name, kinds in items if not _RCLPY.fullmatch(name)}


def transports(rows: set[Row], compressed: bool) -> set[Row]:
    """The rows without those of the image transport that isn't chosen."""
    return {row for row in rows if row[0] != ("/image" if compressed else "/image/compressed")}


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_perception_node_offers_what_is_documented(peer: Peer, tiny_model: Path, tmp_path: Path,
                                                       transport: str) -> None:
    process = Process("perception", tmp_path / "node.log", model=tiny_model, transport=transport)
    try:
        peer.watch(process)
        expected = transports(documented("perception"), transport == "compressed")
        assert len(expected) == 28
        if find_spec("foxglove_msgs") is not None:  # where another test has built it, too
            expected.add(("/image_annotations", "foxglove_msgs/ImageAnnotations", "out"))
        peer.wait_for(lambda: ("/detections", "vision_msgs/Detection2DArray", "in") in offered(peer.node, "perception"),
                      "an active node")
        peer.wait_for(lambda: offered(peer.node, "perception") >= expected, "all that is documented, in the graph")
        assert offered(peer.node, "perception") == expected
    finally:
        process.stop()


@pytest.mark.parametrize("encoding", ["rgb8", "jpeg"])
def test_the_simulated_camera_offers_what_is_documented(peer: Peer, tmp_path: Path, encoding: str) -> None:
    process = Process("sim_camera", tmp_path / "camera.log", views=1, width=64, height=48, encoding=encoding)
    try:
        peer.watch(process)
        expected = transports(documented("sim_camera"), encoding == "jpeg")
        peer.wait_for(lambda: offered(peer.node, "sim_camera") >= expected, "all that is documented, in the graph")
        assert offered(peer.node, "sim_camera") == expected
    finally:
        process.stop()

"""The RViz config and the Foxglove layout, held to the interface of the node; neither tool is here to open them."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
import yaml  # noqa: E402
from test_documented_interface import documented  # noqa: E402

TOPICS = {name: (kind, direction) for name, kind, direction in documented("perception")}


def test_rviz_shows_topics_of_the_node_with_the_right_display(root: Path) -> None:
    config = yaml.safe_load((root / "config" / "perception.rviz").read_text())["Visualization Manager"]
    kinds = {"rviz_default_plugins/Image": "sensor_msgs/Image",
             "rviz_default_plugins/MarkerArray": "visualization_msgs/MarkerArray"}
    shown = {item["Topic"]["Value"]: kinds[item["Class"]] for item in config["Displays"] if "Topic" in item}
    assert shown == {"/annotated_image": "sensor_msgs/Image", "/region_markers": "visualization_msgs/MarkerArray"}
    for topic, kind in shown.items():
        assert TOPICS[topic] == (kind, "out")
    (tool,) = [item for item in config["Tools"] if item["Class"] == "rviz_default_plugins/PublishPoint"]
    assert TOPICS[tool["Topic"]["Value"]] == ("geometry_msgs/PointStamped", "in")


def panels(layout: dict | str) -> Iterator[str]:
    """The panels of a layout, which is a panel's id or a split of two layouts."""
    if isinstance(layout, str):
        yield layout
        return
    assert layout["direction"] in ("row", "column") and 0 < layout["splitPercentage"] < 100
    yield from panels(layout["first"])
    yield from panels(layout["second"])


def test_foxglove_shows_and_publishes_topics_of_the_node(root: Path) -> None:
    layout = json.loads((root / "config" / "foxglove_layout.json").read_text())
    assert set(layout) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    configs = layout["configById"]
    assert sorted(panels(layout["layout"])) == sorted(configs)
    assert TOPICS[configs["Image!camera"]["imageMode"]["imageTopic"]] == ("sensor_msgs/Image", "in")
    assert TOPICS[configs["Image!camera"]["imageMode"]["calibrationTopic"]] == ("sensor_msgs/CameraInfo", "in")
    over = set(configs["Image!camera"]["imageMode"]["annotations"])
    assert over - {"/image_annotations"} == {"/image_marker"} and "/image_marker" in TOPICS
    assert set(configs["3D!space"]["topics"]) <= set(TOPICS)
    assert TOPICS[configs["3D!space"]["publish"]["pointTopic"]] == ("geometry_msgs/PointStamped", "in")
    question = configs["Publish!question"]
    assert TOPICS[question["topicName"]] == (question["datatype"].replace("/msg/", "/"), "in")
    assert list(json.loads(question["value"])) == ["data"]
    assert TOPICS[configs["RawMessages!answer"]["topicPath"]][1] == "out"
    assert configs["DiagnosticSummary!state"]["topicToRender"] in TOPICS

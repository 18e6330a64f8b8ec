"""Parameters from dataclasses, and the deployments of config/ held to what the nodes declare."""
from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
import rclpy  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402

from ros_gpt4roi.nodes.parameters import (ParameterError, TopicQos, declare, names, read,  # noqa: E402
                                          require, setting)
from ros_gpt4roi.nodes.perception import PerceptionParameters, find_model  # noqa: E402
from ros_gpt4roi.nodes.sim_camera import CameraParameters  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = sorted((ROOT / "config").glob("*.yaml"))
NODES = {"perception": PerceptionParameters, "sim_camera": CameraParameters}


@dataclass(frozen=True)
class Inner:
    """words: what is said."""

    words: tuple[str, ...] = ()
    limit: int = setting(3, "most of them")

    def __post_init__(self) -> None:
        require(self.limit > 0, "inner.limit", self.limit, "more than 0")


@dataclass(frozen=True)
class Outer:
    name: str = setting("here", "a name")
    inner: Inner = Inner()


@pytest.fixture
def node(ros: None, request: pytest.FixtureRequest) -> Iterator[Node]:
    overrides = getattr(request, "param", {})
    arguments = ["--ros-args"]
    for name, value in overrides.items():
        arguments += ["-p", f"{name}:={value}"]
    node = rclpy.create_node("parameters", cli_args=arguments)
    yield node
    node.destroy_node()


def test_defaults_come_from_the_dataclasses(node: Node) -> None:
    declare(node, Outer())
    assert read(node, Outer()) == Outer()
    assert node.describe_parameter("inner.limit").description == "most of them"
    assert node.describe_parameter("inner.words").description == "words: what is said."


@pytest.mark.parametrize("node", [{"inner.limit": 7, "inner.words": '["a", "b"]', "name": "there"}], indirect=True)
def test_values_come_from_the_command_line(node: Node) -> None:
    declare(node, Outer())
    assert read(node, Outer()) == Outer("there", Inner(("a", "b"), 7))


@pytest.mark.parametrize("node", [{"inner.limit": -1}], indirect=True)
def test_a_bad_value_is_named_with_what_was_expected(node: Node) -> None:
    declare(node, Outer())
    with pytest.raises(ParameterError, match=r"inner\.limit is -1; expected more than 0"):
        read(node, Outer())


@pytest.mark.parametrize("defaults", [PerceptionParameters(), CameraParameters()], ids=lambda d: type(d).__name__)
def test_every_parameter_of_the_nodes_can_be_declared_and_read(node: Node, defaults: object) -> None:
    declare(node, defaults)
    assert read(node, defaults) == defaults
    for name in names(defaults):
        assert node.describe_parameter(name).description, f"{name} has no description"


def test_qos_is_made_of_parameters() -> None:
    profile = TopicQos("reliable", 4).profile()
    assert profile.reliability == ReliabilityPolicy.RELIABLE and profile.depth == 4
    assert TopicQos().profile().reliability == ReliabilityPolicy.BEST_EFFORT and TopicQos().profile().depth == 1
    with pytest.raises(ParameterError, match="'sometimes'"):
        TopicQos("sometimes")
    with pytest.raises(ParameterError, match="is 0"):
        TopicQos(depth=0)


def test_a_model_that_is_nowhere_is_named(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == tmp_path
    with pytest.raises(ParameterError, match="'no-such-model'"):
        find_model("no-such-model")


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.stem)
def test_deployments_name_nodes_and_parameters_that_exist(node: Node, path: Path) -> None:
    executables = set(re.findall(r'"(\w+) = \{NAME\}\.nodes', (ROOT / "setup.py").read_text()))
    for executable, section in yaml.safe_load(path.read_text()).items():
        assert executable in executables and executable in NODES
        declare(node, NODES[executable]())
        for name, value in leaves(section.get("parameters", {})):
            assert node.has_parameter(name), f"{path.name}: {executable} has no parameter {name}"
            assert isinstance(value, type(node.get_parameter(name).value)), f"{path.name}: {name} is {value!r}"


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

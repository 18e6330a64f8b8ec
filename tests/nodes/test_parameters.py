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
from rcl_interfaces.msg import ParameterType  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402

from ros_gpt4roi.configuration import ConfigError, Configuration, build, leaves, setting  # noqa: E402
from ros_gpt4roi.nodes.parameters import TopicQos, declare, names, read  # noqa: E402
from ros_gpt4roi.nodes.perception import PerceptionParameters  # noqa: E402
from ros_gpt4roi.nodes.recorder import RecorderParameters  # noqa: E402
from ros_gpt4roi.nodes.sim_camera import CameraParameters  # noqa: E402
from ros_gpt4roi.nodes.speech import SpeechParameters  # noqa: E402
from ros_gpt4roi.paths import find_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = sorted((ROOT / "config").glob("*.yaml"))
NODES = {"perception": PerceptionParameters, "sim_camera": CameraParameters, "speech": SpeechParameters,
         "recorder": RecorderParameters}


@dataclass(frozen=True)
class Inner(Configuration):
    words: tuple[str, ...] = setting((), "what is said")
    limit: int = setting(3, "most of them", more_than=0)
    share: float = setting(0.5, "how much of it", at_least=0, at_most=1, unit="of all")


@dataclass(frozen=True)
class Outer(Configuration):
    name: str = setting("here", "a name", choices=("here", "there"))
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


def test_defaults_and_descriptors_come_from_the_dataclasses(node: Node) -> None:
    assert declare(node, Outer()) == []
    assert read(node, Outer) == Outer()
    assert node.describe_parameter("inner.words").description == "what is said"
    limit, share = node.describe_parameter("inner.limit"), node.describe_parameter("inner.share")
    assert limit.description == "most of them" and limit.integer_range[0].from_value == 0
    assert share.description == "how much of it [of all]" and share.floating_point_range[0].to_value == 1
    assert node.describe_parameter("name").additional_constraints == "here or there"


@pytest.mark.parametrize("node", [{"inner.limit": 7, "inner.words": '["a", "b"]', "name": "there", "inner.share": 1}],
                         indirect=True)
def test_values_come_from_the_command_line(node: Node) -> None:
    declare(node, Outer())
    assert read(node, Outer) == Outer("there", Inner(("a", "b"), 7, 1.0))
    assert node.get_parameter("inner.share").type_ == Parameter.Type.DOUBLE


@pytest.mark.parametrize("node, expected", [
    ({"inner.limit": -1}, r"inner\.limit is -1, expected a whole number, more than 0"),
    ({"inner.limit": 1.5}, r"inner\.limit is 1\.5, expected a whole number"),
    ({"inner.share": 2}, r"inner\.share is 2, expected a number, 0 to 1"),
    ({"inner.share": "much"}, r"inner\.share is 'much'"),
    ({"name": 7}, r"name is 7, expected here or there")], indirect=["node"])
def test_a_bad_value_is_named_with_what_was_expected_and_can_be_mended(node: Node, expected: str) -> None:
    declare(node, Outer())
    with pytest.raises(ConfigError, match=expected):
        read(node, Outer)
    good = [Parameter("inner.limit", value=3), Parameter("inner.share", value=1), Parameter("name", value="there")]
    assert all(result.successful for result in node.set_parameters(good))
    assert read(node, Outer) == Outer("there", Inner(share=1.0))


@pytest.mark.parametrize("name, value", [("inner.limit", 0), ("inner.share", 1.5), ("name", "nowhere"), ("name", 3)])
def test_what_does_not_suit_cannot_be_set(node: Node, name: str, value: object) -> None:
    declare(node, Outer())
    result, = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful and result.reason
    assert read(node, Outer) == Outer()


@pytest.mark.parametrize("node", [{"inner.limits": 7, "use_sim_time": True, "qos_overrides./image.depth": 3}],
                         indirect=True)
def test_an_unknown_name_is_told_with_the_nearest_one(node: Node) -> None:
    assert declare(node, Outer()) == ["parameter inner.limits is unknown, did you mean inner.limit?"]


@pytest.mark.parametrize("defaults", [PerceptionParameters(), CameraParameters()], ids=lambda d: type(d).__name__)
def test_every_parameter_of_the_nodes_can_be_declared_and_read(
        node: Node, defaults: PerceptionParameters | CameraParameters) -> None:
    declare(node, defaults)
    kind: type[PerceptionParameters | CameraParameters] = type(defaults)
    assert read(node, kind) == defaults
    for name in names(defaults):
        assert node.describe_parameter(name).description, f"{name} has no description"


PARAMETERS = """
/**/perception:
  ros__parameters: {autostart: false, reliabilty: reliable, sync: {slop: 1, slop_s: 1}}
/robot1/sim_camera:
  ros__parameters: {sede: 3, rate_hz: 5, views: 1, width: 64, height: 64}
"""


@pytest.mark.parametrize("module, misspelt, given, sentence", [
    ("perception", {"reliabilty": "qos.image.reliability", "sync.slop": "sync.slop_s"}, ("sync.slop_s", 1.0),
     ("pipeline.decoding.seed", "Seed of the choices.")),
    ("sim_camera", {"sede": "seed"}, ("rate_hz", 5.0), ("frame_id", "Frame of the images' headers."))])
def test_a_node_names_misspelt_parameters_and_takes_whole_numbers(
        peer: Peer, tmp_path: Path, module: str, misspelt: dict[str, str], given: tuple[str, float],
        sentence: tuple[str, str]) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text(PARAMETERS)
    process = Process(module, tmp_path / "node.log", "--params-file", str(file), "-r", "__ns:=/robot1")
    try:
        peer.watch(process)
        node = f"/robot1/{module}"
        values = peer.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=[given[0]])).values
        assert (values[0].type, values[0].double_value) == (ParameterType.PARAMETER_DOUBLE, given[1])
        described = peer.call(DescribeParameters, f"{node}/describe_parameters",
                              DescribeParameters.Request(names=[sentence[0]])).descriptors
        assert described[0].description == sentence[1]
        request = SetParameters.Request(parameters=[Parameter(given[0], value=2).to_parameter_msg()])
        result = peer.call(SetParameters, f"{node}/set_parameters", request).results[0]
        assert result.successful == (module == "perception"), "the camera's are given at its start"
        for name, nearest in misspelt.items():
            assert f"parameter {name} is unknown, did you mean {nearest}?" in process.output()
    finally:
        assert process.stop() == 0, process.output()


def test_qos_is_made_of_parameters() -> None:
    profile = TopicQos("reliable", 4).profile()
    assert profile.reliability == ReliabilityPolicy.RELIABLE and profile.depth == 4
    assert TopicQos().profile().reliability == ReliabilityPolicy.BEST_EFFORT and TopicQos().profile().depth == 1
    with pytest.raises(ConfigError, match="'sometimes'"):
        TopicQos("sometimes")
    with pytest.raises(ConfigError, match="is 0"):
        TopicQos(depth=0)


def test_a_model_that_is_nowhere_is_named(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == tmp_path
    with pytest.raises(ConfigError, match="'no-such-model'"):
        find_model("no-such-model")


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.stem)
def test_deployments_name_nodes_and_parameters_that_exist_and_differ(path: Path) -> None:
    executables = set(re.findall(r"(\w+) = \{NAME\}\.executables", (ROOT / "setup.py").read_text()))
    sections = yaml.safe_load(path.read_text())
    remappings = sections.pop("remappings", {"ros__parameters": {}})["ros__parameters"]
    names = [name.removeprefix("/**/") for name in sections]
    assert set(names) <= executables and set(remappings) <= set(names)
    for name, section in zip(names, sections.values(), strict=True):
        build(NODES[name], section["ros__parameters"])
        defaults = {item.name: item.default for item in leaves(NODES[name])}
        for key, value in flat(section["ros__parameters"]):
            assert key == "model" or value != defaults[key], f"{path.name}: {key} is the default"


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("namespace", ["/", "/robot1"])
def test_a_node_takes_a_deployment_as_its_parameter_file(peer: Peer, tmp_path: Path, namespace: str) -> None:
    process = Process("sim_camera", tmp_path / "camera.log", "--params-file", str(ROOT / "config" / "tabletop.yaml"),
                      "-r", f"__ns:={namespace}")
    try:
        peer.watch(process)
        service = f"{namespace.rstrip('/')}/sim_camera/get_parameters"
        seed, = peer.call(GetParameters, service, GetParameters.Request(names=["seed"])).values
        assert seed.integer_value == 7
    finally:
        assert process.stop() == 0, process.output()
    assert "unknown" not in process.output()

"""The launch file as `ros2 launch` runs it. pip's ROS 2 has no launch: this runs where a distribution is sourced."""
from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
pytest.importorskip("launch_ros", reason="launch_ros is not in pip's ROS 2; it comes with a distribution")
import launch  # noqa: E402
from ament_index_python.packages import PackageNotFoundError, get_package_prefix  # noqa: E402
from isolation import for_children  # noqa: E402
from launch.launch_description_sources import python_launch_file_utilities as launch_files  # noqa: E402
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray  # noqa: E402
from ros_peer import WAIT_S, Peer  # noqa: E402

# What `ros2 launch` does with a launch file; SIGINT ends it.
LAUNCH = """
import signal
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
file, *arguments = sys.argv[1:]
service = LaunchService(noninteractive=True)  # as without a terminal: it is the launch that tells the nodes to end
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(file), launch_arguments=[tuple(item.split(":=")) for item in arguments])]))
sys.exit(service.run())
"""


@pytest.fixture
def launch_file(root: Path) -> Path:
    return root / "launch" / "gpt4roi.launch.py"


class Launched:
    """A launch in a process of its own, its output in a file."""

    def __init__(self, log: Path, file: Path, *arguments: str) -> None:
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen([sys.executable, "-c", LAUNCH, file, *arguments],
                                             env=for_children({"OMP_NUM_THREADS": "1"}), stdout=stream, stderr=stream)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        if self.running:
            self._process.send_signal(signal.SIGINT)
        return self._process.wait(WAIT_S)


@pytest.fixture
def launched(tiny_qwen: Path, tmp_path: Path, launch_file: Path) -> Iterator[Launched]:
    """A Qwen3-VL folder in the place of the deployment's model, and the recorder beside it."""
    try:
        get_package_prefix("ros_gpt4roi")
    except PackageNotFoundError:
        pytest.skip("the package is not installed in a sourced workspace")
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump({
        "/**/sim_camera": {"ros__parameters": {"views": 2, "width": 160, "height": 120}},
        "/**/perception": {"ros__parameters": {"model": "/nowhere", "pipeline": {"vision": {"backend": "torch"}}}},
        "/**/recorder": {"ros__parameters": {"storage": {"folder": str(tmp_path / "recordings")}}},
        "remappings": {"ros__parameters": {"sim_camera": {"image": "eye"}, "perception": {"image": "eye"}}}}))
    launched = Launched(tmp_path / "launch.log", launch_file, f"config:={config}", "namespace:=robot1",
                        f"model:={tiny_qwen}")
    yield launched
    launched.stop()


def end_in_order(launched: Launched) -> None:
    """All nodes end by the first signal, of three that a launch sends."""
    assert launched.stop() == 0
    output = launched.output()
    assert output.count("process has finished cleanly") == 3 and "escalating" not in output, output
    assert "Traceback" not in output, output


@pytest.mark.slow
def test_a_deployment_runs_in_its_namespace_and_ends(peer: Peer, launched: Launched) -> None:
    peer.watch(launched)
    descriptions = peer.collect(RegionDescriptionArray, "/robot1/region_descriptions", 10)
    peer.wait_for(lambda: descriptions, "a description")
    assert peer.node.count_publishers("/robot1/eye") == 1
    end_in_order(launched)


@pytest.mark.slow
def test_a_deployment_ends_while_its_model_is_loaded(peer: Peer, launched: Launched) -> None:
    peer.watch(launched)
    peer.wait_for(lambda: "]: loading " in launched.output(), "the loading")
    end_in_order(launched)


def test_the_launch_file_starts_what_the_deployment_names(launch_file: Path, root: Path) -> None:
    module = launch_files.load_python_launch_file_as_module(str(launch_file))
    context = launch.LaunchContext()  # type: ignore[attr-defined]  # the folder launch/ has its name
    context.launch_configurations["config"] = str(root / "config" / "tabletop.yaml")
    context.launch_configurations.update(namespace="", record="false", model="")
    assert [node.node_executable for node in module.start_nodes(context)] == ["sim_camera", "perception"]
    context.launch_configurations["record"] = "true"
    assert [node.node_executable for node in module.start_nodes(context)] == ["sim_camera", "perception", "recorder"]
    description = launch_files.get_launch_description_from_python_launch_file(str(launch_file))
    names = [argument.name for argument in description.get_launch_arguments()]
    assert names == ["config", "model", "namespace", "record"]


@pytest.mark.parametrize("why", ["", "its things are not there"])
def test_the_simulated_robot_stands_in_the_household_where_that_is_there(
        launch_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    module = launch_files.load_python_launch_file_as_module(str(launch_file))
    program = tmp_path / "lib" / "ros_gpt4roi" / "simulated_world"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' {'tabletop' if why else 'household'} '{why}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "get_package_prefix", lambda package: str(tmp_path))
    monkeypatch.setattr(module, "get_package_share_directory", lambda package: str(launch_file.parents[1]))
    context = launch.LaunchContext()  # type: ignore[attr-defined]
    context.launch_configurations.update(config="", namespace="", record="false", model="")
    *said, camera, perception = module.start_nodes(context)
    assert [camera.node_executable, perception.node_executable] == ["sim_camera", "perception"]
    assert len(said) == bool(why)
    if why:
        assert why in launch.utilities.perform_substitutions(context, said[0].msg)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text, word", [
    ("perception: {parameters: {}}", "section perception: expected ros__parameters"), ("", "section"),
    ("/**/perception: {ros__parameters: {}}\nremappings: {ros__parameters: {camera: {image: eye}}}", "'camera'"),
    ("a: [", "broken.yaml")])
def test_a_bad_deployment_is_told(launch_file: Path, tmp_path: Path, text: str, word: str) -> None:
    module = launch_files.load_python_launch_file_as_module(str(launch_file))
    broken = tmp_path / "broken.yaml"
    broken.write_text(text)
    with pytest.raises(ValueError, match=word):
        module.read_deployment(str(broken))
    with pytest.raises(ValueError, match="nowhere.yaml"):
        module.read_deployment(str(tmp_path / "nowhere.yaml"))

"""Starts a deployment: the nodes that one YAML names, with its parameters and remappings.

    ros2 launch ros_gpt4roi gpt4roi.launch.py                                   # the simulated robot
    ros2 launch ros_gpt4roi gpt4roi.launch.py config:=/path/to/my_robot.yaml    # or the name of one in config/

The YAML has a section a node, `executable: {parameters: {...}, remappings: {...}}`; what it leaves out keeps the
node's own default. Starting stops when any of its nodes ends.
"""
from __future__ import annotations

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = "ros_gpt4roi"
SECTION_KEYS = {"parameters", "remappings"}


def read_deployment(config: str) -> dict[str, dict]:
    """The sections of a deployment's YAML. Raises ValueError that names the file and what was expected."""
    path = Path(config)
    if not path.suffix:
        path = Path(get_package_share_directory(PACKAGE)) / "config" / f"{config}.yaml"
    try:
        deployment = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"deployment {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"deployment {path}: {error}") from error
    if not isinstance(deployment, dict) or not deployment:
        raise ValueError(f"deployment {path}: expected a section for each node")
    for name, section in deployment.items():
        unknown = set(section or {}) - SECTION_KEYS
        if unknown:
            raise ValueError(f"deployment {path}, node {name}: unknown {sorted(unknown)}, "
                             f"expected {sorted(SECTION_KEYS)}")
    return deployment


def start_nodes(context: LaunchContext) -> list[Node]:
    config = LaunchConfiguration("config").perform(context)
    nodes = []
    for executable, section in read_deployment(config).items():
        section = section or {}
        nodes.append(Node(
            package=PACKAGE, executable=executable, output="screen",
            namespace=LaunchConfiguration("namespace"),
            parameters=[section["parameters"]] if section.get("parameters") else [],
            remappings=list((section.get("remappings") or {}).items()),
            on_exit=Shutdown(reason=f"{executable} ended")))
    return nodes


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        DeclareLaunchArgument("config", default_value="tabletop",
                              description="a deployment's YAML, or the name of one in the package's config/"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        OpaqueFunction(function=start_nodes),
    ])

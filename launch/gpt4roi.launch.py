"""Starts a deployment: the nodes that one ROS parameter file has sections for.

    ros2 launch ros_gpt4roi gpt4roi.launch.py                                   # the simulated robot
    ros2 launch ros_gpt4roi gpt4roi.launch.py config:=tabletop                  # in the small world
    ros2 launch ros_gpt4roi gpt4roi.launch.py config:=/path/to/my_robot.yaml    # or the name of one in config/
    ros2 launch ros_gpt4roi gpt4roi.launch.py record:=true                      # and the recorder
    ros2 launch ros_gpt4roi gpt4roi.launch.py model:=Qwen3-VL-2B-Instruct       # in place of the deployment's model

A section is `/**/NODE: {ros__parameters: {...}}`, as `--params-file` takes it, too. The section `remappings` holds
`NODE: {name: topic}`. Everything stops when any of the nodes ends, except the recorder. The simulated robot stands in
the household; where that is not installed, at the tabletop, and the log says why.
"""
from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE = "ros_gpt4roi"


def read_deployment(config: str) -> tuple[Path, dict[str, dict[str, str]]]:
    """The parameter file and, of each node that it has a section for, the remappings.

    Raises:
        ValueError: the file cannot be used; the text names it and what was expected.
    """
    path = Path(config)
    if not path.suffix:
        path = Path(get_package_share_directory(PACKAGE)) / "config" / f"{config}.yaml"
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"deployment {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"deployment {path}: {error}") from error
    if not isinstance(sections, dict) or not sections:
        raise ValueError(f"deployment {path}: expected a section for each node, such as /**/perception")
    contents: dict[str, dict[str, Any]] = {}
    for name, section in sections.items():
        if not isinstance(section, dict) or not isinstance(section.get("ros__parameters"), dict) or len(section) > 1:
            raise ValueError(f"deployment {path}, section {name}: expected ros__parameters with a mapping in it")
        contents[name.rpartition("/")[2]] = section["ros__parameters"]
    remappings = contents.pop("remappings", {})
    nodes = {name: remappings.pop(name, {}) for name in contents if name != "**"}  # `/**` is for all nodes
    if remappings:
        raise ValueError(f"deployment {path}: remappings of {sorted(remappings)}, expected some of {sorted(nodes)}")
    return path, nodes


def simulated_robot(model: str) -> tuple[str, str]:
    """The simulated robot's deployment, by its world's name, and why that is not the household.

    The program runs in the nodes' Python, which sees what is installed for them; this one may be another.
    """
    program = Path(get_package_prefix(PACKAGE)) / "lib" / PACKAGE / "simulated_world"
    found = subprocess.run([program, *(["--model", model] if model else [])], stdout=subprocess.PIPE, text=True,
                           check=True, timeout=60)
    world, _, why = found.stdout.strip().partition("\n")
    return world, why


def start_nodes(context: LaunchContext) -> list[Action]:
    """The nodes of the deployment that the launch argument `config` names, behind what is to be said of it."""
    config, why = LaunchConfiguration("config").perform(context), ""
    model = LaunchConfiguration("model").perform(context)
    if not config:
        config, why = simulated_robot(model)
    path, nodes = read_deployment(config)
    if LaunchConfiguration("record").perform(context) == "true":
        nodes.setdefault("recorder", nodes.get("perception", {}))
    # Behind the file's: of several values, a node takes the last.
    of_node = {"perception": [{"model": ParameterValue(model, value_type=str)}]} if model else {}
    return [*([LogInfo(msg=f"the tabletop takes the household's place: {why}")] if why else []),
            *(Node(package=PACKAGE, executable=executable, output="screen",
                   namespace=LaunchConfiguration("namespace"), parameters=[str(path), *of_node.get(executable, ())],
                   remappings=list(remappings.items()),
                   on_exit=None if executable == "recorder" else Shutdown(reason=f"{executable} ended"))
              for executable, remappings in nodes.items())]


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    return LaunchDescription([
        DeclareLaunchArgument("config", default_value="",
                              description="a ROS parameter file, or the name of one in the package's config/ (the "
                                          "household's, or the tabletop's where that is not installed)"),
        DeclareLaunchArgument("model", default_value="",
                              description="name or folder of the perception node's model (the deployment's)"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        DeclareLaunchArgument("record", default_value="false", choices=["true", "false"],
                              description="start the recorder, with perception's topics where it has no section"),
        OpaqueFunction(function=start_nodes),
    ])

"""Node parameters as dataclasses: declared, read and checked from one description; nothing else states a default."""
from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

Settings = TypeVar("Settings")


class ParameterError(ValueError):
    """A parameter that can not be used. The text names it, its value and what was expected."""


def setting(default: Any, text: str) -> Any:
    """A dataclass field with its default and the description that `ros2 param describe` shows."""
    return field(default=default, metadata={"description": text})


def _leaves(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted name, value, description) of every field of a dataclass tree.

    A field without a description of its own has that of its dataclass, which speaks of all its fields.
    """
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value, item.metadata.get("description") or inspect.getdoc(settings)


def names(defaults: Any) -> frozenset[str]:
    """The names of the parameters that `declare` declares."""
    return frozenset(name for name, _, _ in _leaves(defaults))


def declare(node: Node, defaults: Any) -> None:
    """Declares a parameter for every field of a dataclass tree; nested fields get dotted names."""
    for name, value, text in _leaves(defaults):
        # An empty list says nothing of the type of its elements.
        is_list = isinstance(value, tuple)
        node.declare_parameter(name, list(value) if is_list else value,
                               ParameterDescriptor(description=text, dynamic_typing=is_list))


def read(node: Node, defaults: Settings, prefix: str = "") -> Settings:
    """The dataclass tree with the node's present values. Raises ParameterError where its own checks refuse them."""
    values = {}
    for item in dataclasses.fields(defaults):
        value = getattr(defaults, item.name)
        if dataclasses.is_dataclass(value):
            values[item.name] = read(node, value, f"{prefix}{item.name}.")
        else:
            given = node.get_parameter(f"{prefix}{item.name}").value
            values[item.name] = tuple(given) if isinstance(value, tuple) else given
    try:
        return type(defaults)(**values)
    except ParameterError:
        raise
    except ValueError as error:
        raise ParameterError(f"parameters {prefix}*: {error}" if prefix else str(error)) from error


def require(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raises ParameterError with the value and what was expected where the condition doesn't hold."""
    if not condition:
        raise ParameterError(f"parameter {name} is {value!r}; expected {expected}")


@dataclass(frozen=True)
class TopicQos:
    """How a topic is subscribed: the sensor-data profile with the depth that a rule of newest-wins needs."""

    reliability: str = setting("best_effort", "best_effort or reliable; must suit the publisher")
    depth: int = setting(1, "messages the middleware keeps for the node")

    def __post_init__(self) -> None:
        require(self.reliability in ("best_effort", "reliable"), "qos.*.reliability", self.reliability,
                "best_effort or reliable")
        require(1 <= self.depth <= 1000, "qos.*.depth", self.depth, "1 to 1000")

    def profile(self) -> QoSProfile:
        return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=self.depth, durability=DurabilityPolicy.VOLATILE,
                          reliability=ReliabilityPolicy[self.reliability.upper()])

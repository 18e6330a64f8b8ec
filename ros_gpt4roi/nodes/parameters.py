"""The ROS parameters of a node, declared from a Configuration and read back into one."""
from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from ..configuration import ConfigError, Configuration, Field, build, leaves, nearest, setting

C = TypeVar("C", bound=Configuration)

_LIMITS = {int: (IntegerRange, -2**63, 2**63 - 1), float: (FloatingPointRange, -sys.float_info.max, sys.float_info.max)}


def names(defaults: Configuration) -> frozenset[str]:
    """The names of the parameters that `declare` declares."""
    return frozenset(item.name for item in leaves(defaults))


def declare(node: Node, defaults: Configuration, read_only: bool = False) -> list[str]:
    """Declares a parameter for every field of a configuration tree; nested fields get dotted names.

    A whole number is taken for a parameter that is a double, now and when the parameter is set. A value that does not
    suit is kept as it was given, for `read` to refuse.

    Args:
        node: The node.
        defaults: The tree that states the defaults.
        read_only: The parameters can be given at the start only.

    Returns:
        A sentence about each parameter that was given to the node and is none of its own.
    """
    fields = {item.name: item for item in leaves(defaults)}
    given: Mapping[str, Parameter] = node._parameter_overrides  # rclpy has no public way to them
    # What rclpy declares itself, such as use_sim_time, is declared already.
    unknown = [f"parameter {name} is unknown{nearest(name, fields)}" for name in given
               if name not in fields and not node.has_parameter(name) and not name.startswith("qos_overrides.")]
    for name, item in fields.items():
        value, descriptor = item.default, _descriptor(item, read_only)
        if name in given:
            try:
                value = item.convert(given[name].value)
            except ConfigError:
                value, descriptor.dynamic_typing = given[name].value, True
                descriptor.integer_range = descriptor.floating_point_range = []
        node.declare_parameter(name, _plain(value), descriptor, ignore_override=True)
    node.add_pre_set_parameters_callback(lambda parameters: [_as_double(item, fields) for item in parameters])
    node.add_on_set_parameters_callback(lambda parameters: _check(parameters, fields))
    return unknown


def read(node: Node, kind: type[C]) -> C:
    """The configuration with the node's present values. Raises ConfigError where they do not suit."""
    values: dict[str, Any] = {}
    for item in leaves(kind):
        *sections, name = item.name.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = node.get_parameter(item.name).value
    try:
        return build(kind, values)
    except ConfigError as error:
        raise ConfigError(f"parameter {error}") from error


def _descriptor(item: Field, read_only: bool) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=f"{item.description} [{item.unit}]" if item.unit else item.description,
        additional_constraints=item.range, read_only=read_only or item.fixed,
        dynamic_typing=isinstance(item.default, tuple))  # an empty list says nothing of the type of its elements
    low = item.at_least if item.more_than is None else item.more_than
    if item.type in _LIMITS and (low is not None or item.at_most is not None):
        kind, smallest, largest = _LIMITS[item.type]
        bounds = kind(from_value=item.type(smallest if low is None else low),
                      to_value=item.type(largest if item.at_most is None else item.at_most))
        setattr(descriptor, "integer_range" if item.type is int else "floating_point_range", [bounds])
    return descriptor


def _plain(value: Any) -> Any:
    """As ROS holds it."""
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _as_double(parameter: Parameter, fields: Mapping[str, Field]) -> Parameter:
    wanted = parameter.name in fields and fields[parameter.name].type is float
    if wanted and parameter.type_ == Parameter.Type.INTEGER:
        return Parameter(parameter.name, Parameter.Type.DOUBLE, float(parameter.value))
    return parameter


def _check(parameters: list[Parameter], fields: Mapping[str, Field]) -> SetParametersResult:
    try:
        for parameter in parameters:
            if parameter.name in fields:
                fields[parameter.name].convert(parameter.value)
    except ConfigError as error:
        return SetParametersResult(successful=False, reason=f"parameter {error}")
    return SetParametersResult(successful=True)


@dataclass(frozen=True)
class TopicQos(Configuration):
    """QoS of a topic: by default the sensor-data profile with the depth that a rule of newest-wins needs."""

    reliability: str = setting("best_effort", "Reliability; a reliable subscription needs a reliable publisher.",
                               choices=("best_effort", "reliable"))
    depth: int = setting(1, "Messages that the middleware keeps for the node.", at_least=1, at_most=1000)

    def profile(self) -> QoSProfile:
        """The QoS profile."""
        return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=self.depth, durability=DurabilityPolicy.VOLATILE,
                          reliability=ReliabilityPolicy[self.reliability.upper()])

"""Configuration that is said once: a dataclass's fields state default, range or choices, meaning and unit.

Made of that one statement: the check of every value, wherever it comes from (Python, a YAML file, a ROS parameter),
errors that say what was expected, the descriptors of ROS parameters and the tables of docs/parameters.md.

    @dataclass(frozen=True)
    class Sampling(Configuration):
        temperature: float = setting(0.0, "Randomness of the choice of tokens; 0 is greedy.", at_least=0)
        seed: int = setting(0, "Seed of the choices.", at_least=0)

    read_yaml(Sampling, "sampling.yaml")
"""
from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .regular_file import read_regular

T = TypeVar("T")

_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


class ConfigError(ValueError):
    """Configuration that cannot be used; the message names the field, its value and what was expected."""


@dataclass(frozen=True)
class Setting:
    """What is known of a field beside its type and default.

    Attributes:
        description: One sentence for people.
        at_least: Smallest value.
        at_most: Largest value.
        more_than: Bound that the value must exceed.
        choices: The only values, where they are few.
        unit: Unit of the value.
        fixed: Whether a node takes it at its start only, because others on the network must not change it.
    """

    description: str = ""
    at_least: float | None = None
    at_most: float | None = None
    more_than: float | None = None
    choices: tuple[Any, ...] = ()
    unit: str = ""
    fixed: bool = False

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type is one of the choices and in the range (each element of a tuple is)."""
        if isinstance(value, tuple):
            return all(self.allows(item) for item in value)
        if self.choices:
            return value in self.choices
        return not isinstance(value, (int, float)) or (
            (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)
            and (self.more_than is None or value > self.more_than))

    @property
    def range(self) -> str:
        """The choices or the range in words, such as "0 to 10 seconds"; empty where everything is allowed."""
        if self.choices:
            return _listed([repr(item) if item == "" else str(item) for item in self.choices])
        if self.at_least is not None and self.at_most is not None:
            words = f"{self.at_least} to {self.at_most}"
        else:
            bounds = {"more than": self.more_than, "at least": self.at_least, "at most": self.at_most}
            words = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)
        return f"{words} {self.unit}".strip() if words else ""


def setting(default: Any, description: str, *, at_least: float | None = None, at_most: float | None = None,
            more_than: float | None = None, choices: Iterable[Any] = (), unit: str = "", fixed: bool = False) -> Any:
    """A dataclass field with its default and all that `Setting` holds.

    Args:
        default: The default value, or dataclasses.MISSING for a field that must be given. Mappings are copied.
        description: One sentence for people.
        at_least: Smallest value, of a number or of each number of a tuple.
        at_most: Largest value.
        more_than: Bound that the value must exceed.
        choices: The only values, where they are few.
        unit: Unit of the value.
        fixed: Whether a node takes it at its start only.
    """
    metadata = {"setting": Setting(description, at_least, at_most, more_than, tuple(choices), unit, fixed)}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=functools.partial(copy.deepcopy, default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Configuration:
    """Base of frozen dataclasses whose values are checked, and converted to their fields' types, when one is made.

    Whole numbers are taken for numbers, lists for tuples, a single value for a tuple of one, text for a path and
    mappings for nested configurations. Fields may be of type bool, int, float, str, Path, tuple, dict, another
    Configuration, or a union of these; of several configurations, the mapping's `kind` chooses the one that has it
    among the choices of its own `kind`.
    A class with rules between fields checks them in `__post_init__` after a call of this one's.

    Raises:
        ConfigError: a value is of another type or outside the range that its field states.
    """

    def __post_init__(self) -> None:
        for item in fields_of(type(self)):
            value = _convert(getattr(self, item.name), item.type, item.name, item.setting)
            object.__setattr__(self, item.name, value)


@dataclass(frozen=True)
class Field:
    """A field of a configuration, or of a tree of them under its dotted name.

    Attributes:
        name: Name, such as "decoding.seed".
        type: The resolved type annotation.
        default: The default value; dataclasses.MISSING where there is none.
        setting: What else is known of it.
    """

    name: str
    type: Any
    default: Any
    setting: Setting

    @property
    def type_name(self) -> str:
        """The type in words, such as "a whole number"."""
        return _type_name(self.type)

    def convert(self, value: Any) -> Any:
        """The value as the field holds it. Raises ConfigError where it is of another type or out of range."""
        return _convert(value, self.type, self.name, self.setting)


def fields_of(kind: type[Configuration]) -> tuple[Field, ...]:
    """The fields of a configuration class itself."""
    hints = _hints(kind)
    found = []
    for item in dataclasses.fields(typing.cast(Any, kind)):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        found.append(Field(item.name, hints[item.name], default, item.metadata.get("setting", Setting())))
    return tuple(found)


def leaves(config: Configuration | type[Configuration], prefix: str = "") -> Iterator[Field]:
    """The fields of a whole tree under dotted names.

    Args:
        config: Tree whose values stand for the defaults, or a class.
        prefix: Put before every name.
    """
    kind = config if isinstance(config, type) else type(config)
    for item in fields_of(kind):
        value = item.default if isinstance(config, type) else getattr(config, item.name)
        if isinstance(value, Configuration):
            yield from leaves(value, f"{prefix}{item.name}.")
        else:
            yield dataclasses.replace(item, name=f"{prefix}{item.name}", default=value)


def build(kind: Callable[..., T], values: Any) -> T:
    """Makes a configuration, or calls a function or class with annotated parameters, from a mapping.

    Args:
        kind: A Configuration class, or any callable; the types of its parameters are converted and checked alike.
        values: The mapping, as read from YAML, JSON or ROS parameters.

    Raises:
        ConfigError: no mapping, unknown or missing names, or values that do not suit.
    """
    return kind(**check_arguments(kind, values))


def check_arguments(kind: Callable[..., Any], values: Any) -> dict[str, Any]:
    """What `build` would call `kind` with. Raises ConfigError as it does."""
    parameters = inspect.signature(kind, eval_str=True).parameters
    known = ", ".join(parameters)
    if not isinstance(values, Mapping):
        raise ConfigError(f"is {values!r}, expected a mapping of {known}")
    for name in values:
        if name not in parameters:
            raise ConfigError(f"{name} is unknown{nearest(str(name), parameters)}; expected some of {known}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in values:
            raise ConfigError(f"{name} is missing")
    if isinstance(kind, type) and issubclass(kind, Configuration):
        return dict(values)  # it converts and checks them itself
    return {name: _convert(value, parameters[name].annotation, name, Setting()) for name, value in values.items()}


def read_yaml(kind: Callable[..., T], path: str | Path) -> T:
    """`build` from a YAML or JSON file; an empty file is an empty mapping. Errors name the file, too."""
    try:
        values = yaml.safe_load(read_regular(path))
        return build(kind, {} if values is None else values)
    except (OSError, yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date of month 13, too
        raise ConfigError(f"{path}: {error}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """", did you mean …?" with the known name that is most like an unknown one; empty where none is."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {found[0]}?" if found else ""


def markdown_table(config: Configuration | type[Configuration]) -> str:
    """A table of all fields of a tree: name, default, what is expected, meaning."""
    rows = ["| name | default | expected | meaning |", "| --- | --- | --- | --- |"]
    for item in leaves(config):
        rows.append(" | ".join([f"| `{item.name}`", _shown(item.default), _expected(item.type, item.setting),
                                f"{item.setting.description} |"]))
    return "\n".join(rows) + "\n"


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, (tuple, bool, type(None))):
        value = list(value) if isinstance(value, tuple) else value
        return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"
    return f"`{value!r}`" if value == "" else f"`{value}`".replace("\n", "\\n")


def _convert(value: Any, kind: Any, name: str, known: Setting) -> Any:
    """The value as one of type `kind`; `name` is the field's, for messages."""
    try:
        converted = _typed(value, kind, name, known)
    except TypeError:
        pass
    else:
        if known.allows(converted):
            return converted
    raise ConfigError(f"{name} is {value!r}, expected {_expected(kind, known)}")


def _typed(value: Any, kind: Any, name: str, known: Setting) -> Any:
    """Raises TypeError where the value is none of the type, ConfigError from inside of a nested one."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, arguments, name, known)
    if origin is tuple:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else arguments
        if len(items) != len(kinds):
            raise TypeError
        return tuple(_convert(item, of, f"{name}[{i}]", known) for i, (item, of) in enumerate(zip(items, kinds)))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError
        return dict(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) and not _is_nan(value):
        return value
    if issubclass(kind, Configuration) and isinstance(value, Mapping):
        return _nested(value, kind, name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise TypeError from error
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    raise TypeError


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _nested(value: Mapping[Any, Any], kind: type[Configuration], name: str) -> Configuration:
    try:
        return build(kind, value)
    except ConfigError as error:
        raise ConfigError(f"{name}.{error}") from error


def _one_of(value: Any, kinds: tuple[Any, ...], name: str, known: Setting) -> Any:
    """A value of a union: the configuration that `kind` chooses, else of the first type that takes it."""
    if isinstance(value, Mapping):
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Configuration)]
        choices = {choice: kind for kind in nested for item in fields_of(kind) if item.name == "kind"
                   for choice in item.setting.choices}
        chosen = value.get("kind", next(iter(choices), None))
        if chosen in choices:
            return _nested(value, choices[chosen], name)
        if choices:
            raise ConfigError(f"{name}.kind is {chosen!r}, expected {_listed(choices)}")
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        try:
            return _typed(value, kind, name, known)
        except TypeError:
            continue
    raise TypeError


def _type_name(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        names = dict.fromkeys(_type_name(item) for item in arguments)
        return _listed(sorted(names, key="null".__ne__))  # "null or a list, each a number"
    if origin is tuple:
        count = "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}"
        return f"{count}, each {_type_name(arguments[0])}"
    if kind is type(None):
        return "null"
    return _NAMES.get(kind, "a mapping")


def _expected(kind: Any, known: Setting) -> str:
    if known.choices:
        return known.range
    if known.range:
        return f"{_type_name(kind)}, {known.range}"
    return f"{_type_name(kind)} ({known.unit})" if known.unit else _type_name(kind)


def _listed(words: Iterable[str]) -> str:
    """"a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last

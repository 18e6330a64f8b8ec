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

import contextlib
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
_UNIONS = (typing.Union, types.UnionType)
_UNSUITABLE = (TypeError, OverflowError)  # of a value that is none of a type, such as a whole number beyond all floats
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


class ConfigError(ValueError):
    """Configuration that cannot be used; the message names the field, its value and what was expected."""


@dataclass(frozen=True)
class Field:
    """A field of a configuration, or of a tree of them under its dotted name.

    Attributes:
        name: Name, such as "decoding.seed".
        type: The resolved type annotation.
        default: The default value; dataclasses.MISSING where there is none.
        description: One sentence for people.
        at_least: Smallest value, of a number or of each number of a tuple.
        at_most: Largest value.
        more_than: Bound that the value must exceed.
        choices: The only values, where they are few.
        unit: Unit of the value.
        fixed: Whether a node takes it at its start only, because others on the network must not change it.
    """

    name: str
    type: Any
    default: Any
    description: str = ""
    at_least: float | None = None
    at_most: float | None = None
    more_than: float | None = None
    choices: tuple[Any, ...] = ()
    unit: str = ""
    fixed: bool = False

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

    @property
    def expected(self) -> str:
        """What a value has to be, in words, such as "a whole number, at least 1"."""
        if self.choices:
            return self.range
        if self.range:
            return f"{_type_name(self.type)}, {self.range}"
        return f"{_type_name(self.type)} ({self.unit})" if self.unit else _type_name(self.type)

    def convert(self, value: Any) -> Any:
        """The value as the field holds it. Raises ConfigError where it is of another type or out of range."""
        try:
            converted = self._typed(value)
        except _UNSUITABLE:
            pass
        else:
            if self._allows(converted):
                return converted
        raise ConfigError(f"{self.name} is {value!r}, expected {self.expected}")

    def _allows(self, value: Any) -> bool:
        """Whether a value of the right type is one of the choices and in the range (each element of a tuple is)."""
        if isinstance(value, tuple):
            return all(map(self._allows, value))
        if self.choices:
            return value in self.choices
        return not isinstance(value, (int, float)) or (
            (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)
            and (self.more_than is None or value > self.more_than))

    def _typed(self, value: Any) -> Any:
        """Raises one of _UNSUITABLE where the value is none of the type, ConfigError from inside of a nested one."""
        kind, arguments = self.type, typing.get_args(self.type)
        origin = typing.get_origin(kind) or kind
        if kind is Any:
            return value
        if origin in _UNIONS:
            return self._one_of(value, arguments)
        if origin is tuple:
            items = list(value) if isinstance(value, (list, tuple)) else [value]
            kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else arguments
            if len(items) != len(kinds):
                raise TypeError
            return tuple(dataclasses.replace(self, name=f"{self.name}[{i}]", type=of).convert(item)
                         for i, (item, of) in enumerate(zip(items, kinds)))
        if isinstance(value, Mapping) and issubclass(origin, (Mapping, Configuration)):
            return self._nested(value, kind) if issubclass(origin, Configuration) else dict(value)
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, str):
            return Path(value).expanduser()
        is_nan = isinstance(value, float) and math.isnan(value)
        if is_nan or not isinstance(value, origin) or isinstance(value, bool) and kind is not bool:
            raise TypeError
        return value

    def _one_of(self, value: Any, kinds: tuple[Any, ...]) -> Any:
        """A value of a union: the configuration that `kind` chooses, else of the first type that takes it."""
        if isinstance(value, Mapping):
            choices = {choice: kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Configuration)
                       for item in fields_of(kind) if item.name == "kind" for choice in item.choices}
            chosen = value.get("kind", next(iter(choices), None))
            if chosen in choices:
                return self._nested(value, choices[chosen])
            if choices:
                raise ConfigError(f"{self.name}.kind is {chosen!r}, expected {_listed(choices)}")
        if value is None and type(None) in kinds:
            return None
        for kind in kinds:
            with contextlib.suppress(*_UNSUITABLE):
                return dataclasses.replace(self, type=kind)._typed(value)
        raise TypeError

    def _nested(self, value: Mapping[Any, Any], kind: Callable[..., Any]) -> Any:
        try:
            return build(kind, value)
        except ConfigError as error:
            raise ConfigError(f"{self.name}.{error}") from error


def setting(default: Any, description: str, *, choices: Iterable[Any] = (), **limits: Any) -> Any:
    """A dataclass field with its default and what else a `Field` holds.

    Args:
        default: The default value, or dataclasses.MISSING for a field that must be given. Mappings are copied.
        description: One sentence for people.
        choices: The only values, where they are few.
        **limits: The others by their names, such as at_least and unit.
    """
    metadata = {"setting": Field("", Any, default, description, choices=tuple(choices), **limits)}
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
            object.__setattr__(self, item.name, item.convert(getattr(self, item.name)))


def fields_of(kind: type[Configuration]) -> tuple[Field, ...]:
    """The fields of a configuration class itself."""
    hints = _hints(kind)
    return tuple(dataclasses.replace(item.metadata.get("setting", Field("", Any, item.default)), name=item.name,
                                     type=hints[item.name]) for item in dataclasses.fields(typing.cast(Any, kind)))


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
    checks_itself = isinstance(kind, type) and issubclass(kind, Configuration)
    # A configuration may inherit fields whose types only the module of its base knows; they are not needed here.
    parameters = inspect.signature(kind, eval_str=not checks_itself).parameters
    known = ", ".join(parameters)
    if not isinstance(values, Mapping):
        raise ConfigError(f"is {values!r}, expected a mapping of {known}")
    for name in values:
        if name not in parameters:
            raise ConfigError(f"{name} is unknown{nearest(str(name), parameters)}; expected some of {known}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in values:
            raise ConfigError(f"{name} is missing")
    if checks_itself:
        return dict(values)
    return {name: Field(name, parameters[name].annotation, None).convert(value) for name, value in values.items()}


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
    rows = [f"| `{item.name}` | {_shown(item.default)} | {item.expected} | {item.description} |\n"
            for item in leaves(config)]
    return "".join(["| name | default | expected | meaning |\n", "| --- | --- | --- | --- |\n", *rows])


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, (tuple, bool, type(None))):
        value = list(value) if isinstance(value, tuple) else value
        return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"
    return f"`{value!r}`" if value == "" else f"`{value}`".replace("\n", "\\n")


def _type_name(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        names = dict.fromkeys(_type_name(item) for item in arguments)
        return _listed(sorted(names, key="null".__ne__))  # "null or a list, each a number"
    if origin is tuple:
        count = "a list" if arguments[-1] is Ellipsis else f"a list of {len(arguments)}"
        return f"{count}, each {_type_name(arguments[0])}"
    if kind is type(None):
        return "null"
    return _NAMES.get(kind, "a mapping")


def _listed(words: Iterable[str]) -> str:
    """"a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last

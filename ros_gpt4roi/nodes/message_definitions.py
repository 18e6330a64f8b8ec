"""Definitions of message types, as bags hold them so that any reader understands their messages."""
from __future__ import annotations

import re
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

_PRIMITIVE = frozenset("bool byte char float32 float64 int8 uint8 int16 uint16 int32 uint32 int64 uint64 string "
                       "wstring".split())
_TYPE = re.compile(r"\s*([a-zA-Z][\w/]*)(?:<=\d+)?(?:\[[^\]]*\])?\s+[a-zA-Z]")


def message_definition(name: str) -> str:
    """Gives the definition of a type and those of all types in it, in the format ros2msg of MCAP.

    Args:
        name: Such as "sensor_msgs/msg/Image".

    Returns:
        The definition, then of each type within a line of "=", a line "MSG: package/Name" and its definition.

    Raises:
        LookupError: The package of one is not installed, or comes without .msg files.
    """
    found: dict[str, str] = {}
    wanted = [name.replace("/msg/", "/")]
    while wanted:
        kind = wanted.pop(0)
        if kind in found:
            continue
        package, _, message = kind.partition("/")
        found[kind] = text = _read(package, message)
        for line in text.splitlines():
            field = _TYPE.match(line.partition("#")[0])
            if field and field[1] not in _PRIMITIVE:
                within = field[1].replace("/msg/", "/")
                wanted.append(within if "/" in within else f"{package}/{within}")
    parts = [text if place == 0 else f"MSG: {kind}\n{text}" for place, (kind, text) in enumerate(found.items())]
    return f"\n{'=' * 80}\n".join(parts)


def _read(package: str, message: str) -> str:
    try:
        return (Path(get_package_share_directory(package)) / "msg" / f"{message}.msg").read_text(encoding="utf-8")
    except OSError as error:
        raise LookupError(f"the definition of {package}/{message} cannot be read: {error}") from error

"""Message types of packages that a robot may or may not have; nothing is required of them."""
from __future__ import annotations

import importlib
from types import ModuleType

from rclpy.type_support import check_for_type_support


def optional_messages(package: str, *names: str) -> ModuleType | None:
    """The module of a package's messages, if it is installed and has all these messages, and their libraries load.

    Args:
        package: The package's name.
        *names: Names of messages of it.
    """
    try:
        module = importlib.import_module(f"{package}.msg")
        for name in names:
            check_for_type_support(getattr(module, name))
    except Exception:  # not installed, of another version, or built for another distribution: it is all the same here
        return None
    return module

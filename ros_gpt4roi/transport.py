"""How images get from one process to another: the profile of Fast DDS that nodes and clients share."""

from __future__ import annotations

import os
from pathlib import Path

_TRANSPORT_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE",
                        "FASTDDS_BUILTIN_TRANSPORTS")


def use_large_messages() -> None:
    """Gives Fast DDS shared memory that holds images, unless the environment already says which transports to use.

    Call it before rclpy.init. Without it, a best-effort image over 0.5 MiB is mostly lost between processes. The
    profile would override FASTDDS_BUILTIN_TRANSPORTS, which is set where shared memory can't work, as between
    containers.
    """
    if not any(os.environ.get(name) for name in _TRANSPORT_VARIABLES):
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(Path(__file__).with_name("fastdds.xml"))

"""A ROS environment of one's own: a domain that no other demo or test on this machine uses, and own log files."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

# DDS uses the ports from 7400 + 250 * domain on. From domain 102 on they meet Linux's ephemeral ports (32768 and up),
# which any other program may hold; domain 0 is everybody's default.
_DOMAINS = range(1, 102)


def claim_domain() -> tuple[int, IO[str]]:
    """A ROS domain id that is free among the processes that call this, and the open file that holds it.

    The claim ends when the file is closed, at the latest with the process. Raises RuntimeError where all are taken.
    """
    first = os.getpid() % len(_DOMAINS)
    for domain in [*_DOMAINS[first:], *_DOMAINS[:first]]:
        path = Path(tempfile.gettempdir()) / f"ros_gpt4roi_domain_{domain}_{os.getuid()}.lock"
        try:
            # Anybody may put something of this name into the temporary folder: a link is not followed.
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError:
            continue
        claim = os.fdopen(descriptor, encoding="utf-8")
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            claim.close()
            continue
        return domain, claim
    raise RuntimeError(f"all ROS domains from {_DOMAINS[0]} to {_DOMAINS[-1]} are in use by tests and demos here")


def variables(domain: int, home: Path) -> dict[str, str]:
    """Environment variables that keep ROS traffic on this machine, in `domain`, and log files in `home`."""
    return {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_HOME": str(home),
        "ROS_LOG_DIR": str(home / "log"),
    }


def for_children(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a child that may run another Python, with `extra` set.

    The ROS wheels skip finding their libraries where their guard variable is inherited: a child finds its own.
    """
    environment = {**os.environ, **(extra or {})}
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return environment

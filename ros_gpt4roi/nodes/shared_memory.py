"""Shared memory that Fast DDS processes which were killed have left in /dev/shm."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

# Fast DDS 2 and 3 name a participant's segment so, and the lock file beside it with "_el" behind.
_LOCK_NAME = re.compile(r"fast(rtps|dds)_[0-9a-f]{16}_el")


def remove_abandoned_segments(folder: Path = Path("/dev/shm")) -> int:
    """Remove the segments whose process has died.

    A process that is killed leaves its segment, 17 MB with this package's profile: after three, a container's 64 MB are
    full and images go over UDP. A living process holds the lock of its segment, which it takes before it makes the
    segment, so none of its segments is touched. Ports (`fastrtps_port*`, 56 kB) are left alone: the next process that
    needs one takes it over.

    Args:
        folder: Where POSIX shared memory lies.

    Returns:
        How many segments were removed.
    """
    removed = 0
    for lock in folder.iterdir() if folder.is_dir() else ():
        if not _LOCK_NAME.fullmatch(lock.name):
            continue
        try:
            descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # gone by now, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            removed += 1
        except OSError:  # the lock is held: its process lives; or the segment is another user's
            continue
        finally:
            os.close(descriptor)
    return removed

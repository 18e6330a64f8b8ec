"""Files whose names come from outside: only regular ones are read, and no more of them than fits.

Opening a pipe waits for whoever writes to it, and a device may never end.
"""
from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

JSON_BYTES = 16 << 20


def open_regular(path: str | Path) -> io.BufferedReader:
    """Opens a file for reading.

    Raises:
        OSError: It is missing, cannot be read, or is no regular file.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "no regular file", str(path))


def read_regular(path: str | Path, most: int = JSON_BYTES) -> bytes:
    """A file's content.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError: As of `open_regular`, or it is larger.
    """
    with open_regular(path) as file:
        if len(content := file.read(most + 1)) > most:
            raise OSError(errno.EFBIG, f"larger than {most} bytes", str(path))
        return content


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, hex.

    Raises:
        OSError: As of `open_regular`.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: As of `read_regular`.
        ValueError: It is no JSON.
    """
    try:
        return json.loads(read_regular(path))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_whole(path: str | Path, content: bytes) -> None:
    """Writes a file that is there only when it is whole; whatever interrupts it, the one before stays.

    Raises:
        OSError: It cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)

"""A folder of MCAP files that grows up to a limit, the oldest ones out first."""
from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, NamedTuple, cast

from mcap.writer import CompressionType, Writer

from ros_gpt4roi.configuration import ConfigError, Configuration, setting

_NAME = re.compile(r"recording_\d{8}T\d{12}\.mcap")
_BEGUN = "recording_%Y%m%dT%H%M%S%f.mcap"


@dataclass(frozen=True)
class StorageOptions(Configuration):
    """Where recordings are, and how large they may become."""

    folder: Path = setting(Path("~/.ros/recordings"), "Folder of the MCAP files.")
    max_mib: int = setting(4096, "Most that the recordings in the folder may take, those of earlier starts, too; the "
                                 "oldest file goes first.", at_least=2, unit="MiB")
    file_mib: int = setting(64, "Size from which on another file begins.", at_least=1, unit="MiB")
    min_free_mib: int = setting(512, "Room that is left on the disk for others; where there is less, nothing is "
                                     "recorded.", at_least=0, unit="MiB")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_mib < 2 * self.file_mib:
            raise ConfigError(f"max_mib is {self.max_mib}, expected at least twice file_mib, {self.file_mib}")


class Serialised(NamedTuple):
    """A message as it is written.

    Attributes:
        topic: Such as "/image/compressed".
        type: Such as "sensor_msgs/msg/CompressedImage".
        data: The message as CDR.
        time_ns: When it came, in nanoseconds since 1970.
    """

    topic: str
    type: str
    data: bytes
    time_ns: int


class BagFolder:
    """Writes messages into MCAP files with the definitions of their types.

    Each message is on its way to the disk when `write` returns, in a chunk of its own: a file that was cut is whole up
    to its last message. One thread uses it. The folder is made once, here: where a disk that was mounted there has
    gone, its recordings must not fill the disk below.

    Args:
        options: Where, and how much.
        definitions: Message type → its definition and those of the types in it, as ros2msg has them.
    """

    def __init__(self, options: StorageOptions, definitions: Mapping[str, str]) -> None:
        self._options, self._definitions = options, definitions
        self._file: _File | None = None
        self.removed = 0
        with contextlib.suppress(OSError):  # `write` says so
            options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def path(self) -> Path | None:
        """The file that is written."""
        return self._file.path if self._file is not None else None

    def write(self, message: Serialised) -> None:
        """Appends a message.

        Raises:
            OSError: It is not written: the disk is full, gone or broken. The file then ends with the message before.
        """
        try:
            if self._file is not None:
                self._file.check_there()
            self._check_room(len(message.data))
            if self._file is None:
                self._file = _File(self._options.folder / self._next_name(self._make_room()))
            self._file.write(message, self._definitions[message.type])
        except OSError:
            self._abandon()
            raise
        if self._file.size >= self._options.file_mib * 2**20:
            self.close()

    def close(self) -> None:
        """Ends the file with its index; the next message begins another.

        Raises:
            OSError: The index is not written; all messages are.
        """
        file, self._file = self._file, None
        if file is not None:
            file.finish()

    def _abandon(self) -> None:
        with contextlib.suppress(OSError):  # what it holds can still be read from its beginning on
            self.close()

    def _check_room(self, size: int) -> None:
        found = os.statvfs(self._options.folder)
        free = found.f_bavail * found.f_frsize
        if free < self._options.min_free_mib * 2**20 + size:
            raise OSError(errno.ENOSPC, f"{free / 2**20:.1f} MiB are free, expected {self._options.min_free_mib} MiB "
                                        "(storage.min_free_mib) and the message's own", str(self._options.folder))

    def _make_room(self) -> str:
        """Removes the oldest recordings until another file fits; gives the name of the newest, or nothing."""
        files = sorted(path for path in self._options.folder.iterdir() if _NAME.fullmatch(path.name))
        newest = files[-1].name if files else ""
        sizes = [path.stat().st_size for path in files]
        while files and sum(sizes) > (self._options.max_mib - self._options.file_mib) * 2**20:
            files.pop(0).unlink()
            sizes.pop(0)
            self.removed += 1
        return newest

    def _next_name(self, newest: str) -> str:
        """When the file begins, or where the clock was set back, a moment after the newest: the oldest goes first."""
        name = f"{datetime.now(UTC):{_BEGUN}}"
        if name > newest:
            return name
        try:
            return f"{datetime.strptime(newest, _BEGUN) + timedelta(microseconds=1):{_BEGUN}}"
        except (ValueError, OverflowError):  # somebody else has named it
            return name


class _File:
    """One MCAP file, new, readable by its user alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._whole = self.size = 0  # bytes; up to the last message, and in all
        self._schemas: dict[str, int] = {}
        self._channels: dict[tuple[str, str], int] = {}
        try:
            # Chunks of a message each. Pictures are compressed already.
            self._writer = Writer(cast(IO[bytes], _Stream(self)), chunk_size=1, compression=CompressionType.NONE)
            self._writer.start(profile="ros2", library="ros_gpt4roi")
        except OSError:
            self._truncate()
            os.close(self._descriptor)
            raise
        self._whole = self.size

    def check_there(self) -> None:
        """Raises OSError where the file is not in its place any more: writing to one that was removed succeeds."""
        if not os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self.path))

    def append(self, data: bytes) -> None:
        """Writes all of the data."""
        view = memoryview(data)
        while view:
            count = os.write(self._descriptor, view)
            self.size += count
            view = view[count:]

    def write(self, message: Serialised, definition: str) -> None:
        if message.type not in self._schemas:
            self._schemas[message.type] = self._writer.register_schema(message.type, "ros2msg", definition.encode())
        key = message.topic, message.type
        if key not in self._channels:
            self._channels[key] = self._writer.register_channel(message.topic, "cdr", self._schemas[message.type])
        self._writer.add_message(self._channels[key], message.time_ns, message.data, message.time_ns)
        self._whole = self.size

    def finish(self) -> None:
        try:
            if self.size > self._whole:  # a message that failed
                self._truncate()
            else:
                self._writer.finish()
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def _truncate(self) -> None:
        os.ftruncate(self._descriptor, self._whole)
        if not self._whole:
            self.path.unlink(missing_ok=True)


class _Stream:
    """What the MCAP writer writes to: nothing is held back."""

    def __init__(self, file: _File) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        self._file.append(data)
        return len(data)

    def tell(self) -> int:
        return self._file.size

    def flush(self) -> None:
        pass

"""The engine cache: files that are only ever used when they are exactly what was asked for.

A file is a header (JSON: the key's fields, size and SHA-256 of the plan) with its own SHA-256, then the plan. It is
written under a temporary name and renamed. Nothing is handed out before header, key and check sum have been verified:
a TensorRT plan is code, and a foreign or damaged one must not reach the deserialiser.

A file's name says what it is for (model, GPU class, precision), not which version: what is stale is found by its key,
named in the log and overwritten, so that old versions do not pile up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..regular_file import file_digest, open_regular
from . import EngineError
from .build_process import Progress, ProgressCallback

_log = logging.getLogger(__name__)

_MAGIC = b"RG4RENG2"
_PREFIX = struct.Struct("<8sI32s")  # magic, header's length, header's SHA-256
_LONGEST_HEADER = 1 << 16
_LEFTOVERS = (".build-*", ".export-*", "*.partial")
_LEFTOVER_AGE_S = 24 * 3600.0
SUFFIX = ".engine"
_MARKER = ".ros_gpt4roi_engines"


class CacheError(EngineError):
    """A file that must not be used; the message names it and says why."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides whether a plan fits. gpu and driver are "any" for a plan built ahead of time."""

    onnx: str
    library: str
    version: str
    gpu: str
    capability: str
    driver: str
    shapes: str
    precision: str
    calibration: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all fields."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def difference(self, fields: dict[str, Any]) -> str:
        """In words, how a stored key differs from this one; empty where it does not."""
        mine = dataclasses.asdict(self)
        return ", ".join(f"{name} was {str(fields.get(name))[:60]!r}, is {str(mine[name])[:60]!r}"
                         for name in mine if fields.get(name) != mine[name])


@dataclass(frozen=True, eq=False)
class CachedEngine:
    """A verified plan. header: "key", "size", "sha256" and what was noted when it was built."""

    path: Path
    header: dict[str, Any]
    plan: memoryview

    @property
    def sha256(self) -> str:
        """Check sum of the plan, hex."""
        return str(self.header["sha256"])


def model_entry(folder: Path) -> str:
    """Name under which the cache keeps what belongs to a model folder: its last part and a check value of its path."""
    folder = folder.resolve()
    return f"{plain(folder.name)}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def plain(text: str) -> str:
    """The text as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")


def default_cache_folder() -> Path:
    """~/.cache/ros_gpt4roi/engines, or its place by the XDG convention."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ros_gpt4roi" / "engines"


class EngineCache:
    """A folder of engines, mode 0700.

    Only a folder that carries the cache's marker file is changed. Where another one is named, the cache is made in a
    folder of its own inside it; where that cannot be written, a private temporary folder takes its place, and engines
    last as long as the process.

    Attributes:
        folder: Where the files lie.
        lasting: Whether they outlive the process.
    """

    def __init__(self, folder: Path | None = None):
        try:
            self.folder = _own_folder(default_cache_folder() if folder is None else folder)
            _remove_leftovers(self.folder)
            self.lasting = True
        except (OSError, RuntimeError) as error:  # the last where a user has no home
            self.folder, self.lasting = Path(_process_folder().name), False
            _log.warning("engine cache %s cannot be used (%s): engines are kept in %s until this process ends",
                         folder or "", error, self.folder)

    def path(self, entry: str) -> Path:
        """Where an engine lies."""
        return self.folder / f"{entry}{SUFFIX}"

    def report_path(self, entry: str) -> Path:
        """Where the gate's report lies, beside the engine."""
        return self.folder / f"{entry}.gate.json"

    def load(self, entry: str, key: EngineKey) -> CachedEngine:
        """The engine of an entry. Raises CacheError where it is missing, stale, damaged or not ours."""
        path = self.path(entry)
        engine = verify(path)
        difference = key.difference(engine.header["key"])
        if difference:
            raise CacheError(f"{path}: stale, {difference}")
        return engine

    def store(self, entry: str, key: EngineKey, plan: Path, notes: dict[str, Any]) -> CachedEngine:
        """Puts the plan file into an entry and removes the gate's report of what was there before."""
        header = json.dumps({"key": dataclasses.asdict(key), "digest": key.digest, "size": plan.stat().st_size,
                             "sha256": file_digest(plan), **notes}).encode()
        path = self.path(entry)
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=f".{entry}.", suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as out, plan.open("rb") as source:
                out.write(_PREFIX.pack(_MAGIC, len(header), hashlib.sha256(header).digest()) + header)
                shutil.copyfileobj(source, out, 1 << 22)
                out.flush()
                os.fsync(out.fileno())
            remove(self.report_path(entry))
            if path.is_dir():
                remove(path)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return verify(path)

    @contextlib.contextmanager
    def lock(self, entry: str, timeout_s: float, progress: ProgressCallback | None = None) -> Iterator[bool]:
        """Only one process at a time works on an entry. Yields whether another one held it first.

        Args:
            entry: Of the cache.
            timeout_s: Longest wait.
            progress: Called with who is waited for, and how much of the limit has passed.

        Raises:
            EngineError: The entry is not free within the limit.
        """
        begun, waited = time.monotonic(), False
        # Neither through a link nor waiting for who reads a pipe: anything may lie there.
        descriptor = os.open(self.folder / f".{entry}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK,
                             0o600)
        with os.fdopen(descriptor, "rb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    holder, passed = _holder(file), time.monotonic() - begun
                if not waited:
                    _log.info("%s works on engine %s, waiting at most %.0f s", holder, entry, timeout_s)
                waited = True
                if passed > timeout_s:
                    raise EngineError(f"engine {entry}: {holder} has been at it for more than {timeout_s:.0f} s")
                if progress is not None:
                    progress(Progress(f"waiting for {holder}, which works on engine {entry}", passed / timeout_s))
                time.sleep(0.1)
            yield waited

    def files(self) -> list[Path]:
        """All engine files, verified or not."""
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def graph_folder(self, entry: str) -> Path:
        """Where the exported graph of a model lies."""
        return self.folder / f"{entry}.onnx"

    def graph_folders(self) -> list[Path]:
        """All exported graphs, verified or not."""
        return sorted(self.folder.glob("*.onnx"))


def _own_folder(folder: Path) -> Path:
    """The folder, made where it is missing; one of its own inside it, where it belongs to somebody else's files."""
    if not (folder / _MARKER).is_file() and folder.exists():
        private = stat.S_IMODE(folder.stat().st_mode) == 0o700 and not any(folder.iterdir())
        if not private:
            folder = folder / "ros_gpt4roi_engines"
            if folder.exists() and not (folder / _MARKER).is_file():
                raise FileExistsError(f"{folder} is there and no engine cache")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):  # another process makes it, too
            _make_marked(folder)
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"belongs to user {status.st_uid}, not to {os.geteuid()}")
    (folder / _MARKER).touch(mode=0o600)
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)
    # chmod bits do not tell of read-only mounts and full disks.
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\0")
    return folder


def _make_marked(folder: Path) -> None:
    """Makes a folder that carries the marker from its first moment on."""
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    (new / _MARKER).touch(mode=0o600)
    try:
        new.rename(folder)
    except OSError as error:
        shutil.rmtree(new)
        raise FileExistsError(str(folder)) from error


@functools.cache
def _process_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder that lasts as long as the process, whoever opens a cache in it."""
    return tempfile.TemporaryDirectory(prefix="ros_gpt4roi_engines_")


def _holder(lock: IO[bytes]) -> str:
    """Who holds a lock, in words; the kernel names processes of this container only."""
    status = os.fstat(lock.fileno())
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError, IndexError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == place and int(fields[4]) > 0:
                return f"process {fields[4]}"
    return "another process"


def _remove_leftovers(folder: Path) -> None:
    """What a process that was killed while building left behind; what is younger may still be worked on."""
    for pattern in _LEFTOVERS:
        for path in folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # another process cleans up, too
                if time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S:
                    _log.info("removing %s, left behind by a build that was killed", path)
                    remove(path)


def verify(path: Path) -> CachedEngine:
    """Reads an engine file and checks it against its own header. Raises CacheError."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise CacheError(f"{path}: foreign, others than this user may have written it")
            if status.st_size < _PREFIX.size:
                raise CacheError(f"{path}: truncated, {status.st_size} bytes")
            data = memoryview(file.read())  # not mapped: what is verified is what is used
    except FileNotFoundError:
        raise CacheError(f"{path}: not built yet") from None
    except OSError as error:
        raise CacheError(f"{path}: {error.strerror}") from error
    magic, length, digest = _PREFIX.unpack_from(data)
    if magic != _MAGIC or length > _LONGEST_HEADER:
        raise CacheError(f"{path}: foreign, not an engine file of this program")
    text = bytes(data[_PREFIX.size:_PREFIX.size + length])
    if hashlib.sha256(text).digest() != digest:
        raise CacheError(f"{path}: tampered or damaged, the header's check sum is wrong")
    plan = data[_PREFIX.size + length:]
    try:
        header = json.loads(text)
        size, checksum, _ = header["size"], header["sha256"], {**header["key"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CacheError(f"{path}: foreign, its header is none of this program's ({error!r})") from error
    if len(plan) != size:
        raise CacheError(f"{path}: truncated, {len(plan)} bytes of plan, expected {size}")
    if hashlib.sha256(plan).hexdigest() != checksum:
        raise CacheError(f"{path}: tampered or damaged, the plan's check sum is wrong")
    return CachedEngine(path, header, plan)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

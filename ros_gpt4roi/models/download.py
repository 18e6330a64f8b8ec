"""Downloads a model from the Hugging Face Hub: what of it is asked for, checked, resumed and put in its place.

huggingface_hub speaks with the Hub. Its own functions for whole repositories begin a file anew after an interruption,
and the weights of a model may be one file of gigabytes: so the files are fetched one by one here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2
from huggingface_hub import HfApi, ModelInfo, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from ..printable import printable
from ..regular_file import file_digest, open_regular, write_whole
from .catalogue import COMMIT, SUFFIXES, Entry, ModelsError
from .installed import RECORD_FILE, readable

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TIMEOUT_S = 10.0
_AGENT = "ros_gpt4roi"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        name: Its name, without a folder.
        size: Bytes.
        digest: Hexadecimal digits: its SHA-256 where the Hub stores it as a large file, else the SHA-1 of its git blob.
    """

    name: str
    size: int
    digest: str

    def is_whole(self, path: Path) -> bool:
        """Whether a local file is this one."""
        return path.is_file() and path.stat().st_size == self.size and self.digest_of(path) == self.digest

    def digest_of(self, path: Path) -> str:
        """The digest of a local file, of the kind that this one's is."""
        if len(self.digest) == 64:
            return file_digest(path)
        with open_regular(path) as file:
            blob = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
            while piece := file.read(1 << 20):
                blob.update(piece)
        return blob.hexdigest()

    def part(self, folder: Path) -> Path:
        """Where what has come of it lies until it is whole; a file of other content has another."""
        return folder / f".{self.name}.{self.digest[:16]}.part"


@dataclass(frozen=True)
class Remote:
    """A commit of a repository, and the files of it that a model takes, small ones first."""

    repository: str
    revision: str
    endpoint: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def without_weights(self) -> Remote:
        """The files that say what the model is."""
        return replace(self, files=tuple(file for file in self.files if not file.name.endswith(".safetensors")))


def look_up(entry: Entry, revision: str = "") -> Remote:
    """Ask the Hub for a model's commit and files.

    Args:
        entry: The model.
        revision: The commit, where the entry leaves it open and a download has begun; empty: the newest.

    Raises:
        ModelsError: It cannot be reached, or what it says is not what the entry expects.
    """
    api = HfApi(library_name=_AGENT, token=False)
    wanted = entry.revision or revision
    where = f"{api.endpoint}, {entry.repository}" + (f" at {wanted}" if wanted else "")
    with _told(where):
        info = api.model_info(entry.repository, revision=wanted or None, files_metadata=True, timeout=_TIMEOUT_S,
                              token=False)
    if not info.sha or not COMMIT.fullmatch(info.sha) or wanted not in ("", info.sha):
        raise ModelsError(f"{where}: the commit is {info.sha!r}, expected {wanted or '40 hexadecimal digits'}")
    if (licence := _licence(info)) and licence.casefold() != entry.licence.casefold():
        raise ModelsError(f"{where}: the licence is {printable(licence)!r}, expected {entry.licence}, as it was known; "
                          f"read {entry.page}, and download it by hand if you accept that")
    return Remote(entry.repository, info.sha, api.endpoint, _needed(where, entry, info))


def download(remote: Remote, folder: Path) -> None:
    """Fetch files into a folder; those that are there and right are not fetched again, and a part is gone on with.

    Args:
        remote: What `look_up` found, or a part of it.
        folder: It must be there.

    Raises:
        ModelsError: The Hub cannot be reached, a file is not the one that was announced, or the disk is full.
    """
    for file in remote.files:
        path, part = folder / file.name, file.part(folder)
        if file.is_whole(path):
            continue
        where = f"{remote.endpoint}, {remote.repository}, {file.name}"
        with _told(where):
            _fetch(remote, file, part)
        if (found := file.digest_of(part)) != file.digest:
            part.unlink()
            raise ModelsError(f"{where}: the hash of what came is {found}, expected {file.digest}; it was deleted, "
                              "the same command fetches it anew")
        os.replace(part, path)


def missing_bytes(remote: Remote, folder: Path) -> int:
    """How many bytes of a download are still to come, by the sizes of what a folder holds."""
    def held(file: RemoteFile) -> int:
        sizes = [path.stat().st_size for path in (folder / file.name, file.part(folder)) if path.is_file()]
        return min(file.size, max(sizes, default=0))

    return sum(file.size - held(file) for file in remote.files)


def check_room(remote: Remote, folder: Path) -> None:
    """Compare what is still to come with what is free.

    Args:
        remote: What is downloaded.
        folder: Where to.

    Raises:
        ModelsError: The disk has less.
    """
    needed, free = missing_bytes(remote, folder), shutil.disk_usage(folder).free
    if needed > free:
        raise ModelsError(f"{folder}: {readable(free)} are free on its disk, expected {readable(needed)} for "
                          f"{remote.repository}; free some, or name another place with --to")


def write_record(folder: Path, remote: Remote, licence: str) -> None:
    """Note beside a download where it is from."""
    content = {"repository": remote.repository, "revision": remote.revision, "licence": licence,
               "files": {file.name: {"bytes": file.size, "hash": file.digest} for file in remote.files}}
    write_whole(folder / RECORD_FILE, (json.dumps(content, indent=1) + "\n").encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other downloads out of a folder. Raises ModelsError where one is at it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ModelsError(f"{folder}: another download into it is under way") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _licence(info: ModelInfo) -> str:
    card = info.card_data
    return str(card.get("license") or "") if card is not None else ""


def _needed(where: str, entry: Entry, info: ModelInfo) -> tuple[RemoteFile, ...]:
    """The files of a listing that the entry names. Raises ModelsError where one is missing or not to be trusted."""
    listed = {}
    for item in info.siblings or ():
        path = PurePosixPath(item.rfilename)
        if path.is_absolute() or ".." in path.parts or "\\" in item.rfilename or not item.rfilename.isprintable():
            raise ModelsError(f"{where}: a file is called {printable(item.rfilename)!r}, expected names within the "
                              "repository; nothing of it was downloaded")
        listed[item.rfilename] = item
    files = []
    for pattern in entry.files:
        found = [name for name in listed if "/" not in name and name.endswith(SUFFIXES) and fnmatchcase(name, pattern)]
        if not found:
            raise ModelsError(f"{where}: there is no {pattern}, expected one among {printable(', '.join(listed))}")
        for name in found:
            item = listed[name]
            digest = str(item.lfs.sha256 if item.lfs is not None else item.blob_id)
            size = item.lfs.size if item.lfs is not None else item.size
            if not isinstance(size, int) or size < 0 or not _DIGEST.fullmatch(digest):
                raise ModelsError(f"{where}: {name} has size {size!r} and hash {printable(digest)!r}, expected bytes "
                                  "and a SHA-256 or SHA-1")
            files.append(RemoteFile(name, size, digest))
    return tuple(sorted(set(files), key=lambda file: (file.size, file.name)))


class _Bounded(io.BufferedWriter):
    """A file that takes so many bytes and no more: whoever sends more must not fill the disk."""

    def __init__(self, path: Path, most: int):
        super().__init__(io.FileIO(path, "ab"))
        self._most = most

    def write(self, buffer: Any) -> int:
        if self.tell() + len(buffer) > self._most:
            raise OSError(errno.EFBIG, f"more came than the {self._most} bytes that were announced")
        return super().write(buffer)


def _fetch(remote: Remote, file: RemoteFile, part: Path) -> None:
    have = part.stat().st_size if part.is_file() else 0
    if have > file.size:
        part.unlink()
        have = 0
    url = hf_hub_url(remote.repository, file.name, revision=remote.revision, endpoint=remote.endpoint)
    # No token is read or sent: these repositories are public. Unpacked sizes are those that were announced.
    headers = build_hf_headers(token=False, library_name=_AGENT) | {"Accept-Encoding": "identity"}
    with _Bounded(part, file.size) as out:
        http_get(url, out, resume_size=have, headers=headers, expected_size=file.size, displayed_filename=file.name)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn what goes wrong on the network or the disk into a ModelsError that says what to do."""
    again = "what has come is kept, and the same command goes on with it"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ModelsError(f"{where}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, expected neither: a download needs "
                          "the network") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        # The Hub says 401 of what is not there, too. 408 and 429 are about the moment.
        why = "expected a public repository that has it" if 400 <= status < 500 and status not in (408, 429) else again
        raise ModelsError(f"{where}: the server answers {status} {printable(error.response.reason_phrase)}; {why}"
                          ) from error
    except httpx2.HTTPError as error:
        raise ModelsError(f"{where}: not reached ({type(error).__name__}: {printable(str(error))}), expected a network "
                          f"or a mirror in HF_ENDPOINT; {again}") from error
    except OSError as error:
        raise ModelsError(f"{where}: {printable(error.strerror or str(error))}; {again}") from error
    except (httpx2.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelsError(f"{where}: the answer is not the Hub's ({type(error).__name__}: {printable(str(error))}); if "
                          "HF_ENDPOINT is set, see what it names") from error

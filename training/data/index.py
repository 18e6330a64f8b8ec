"""Annotations parsed once and kept on disk as an index that every process and every worker maps into memory.

An index is a folder of three files: ``entries.bin`` (one compact JSON object after another), ``offsets.npy`` (int64
[N + 1], where each begins) and ``report.json`` (what the scan read, filtered and found malformed). Its name carries a
hash of the annotation files' sizes and times and of the loader's options, so a change of either makes a new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from training.data.record import RecordError
from training.data.report import Report

FORMAT = 2
LOCK_LIMIT_S = 3600.0

log = logging.getLogger(__name__)


class Index:
    """Read access to a built index. Cheap to pickle: a worker maps the files again instead of copying them."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.report = Report(**json.loads((self.folder / "report.json").read_text()))
        self._map()

    def _map(self) -> None:
        self._offsets = np.load(self.folder / "offsets.npy", mmap_mode="r")
        entries = self.folder / "entries.bin"
        # An empty file cannot be mapped.
        self._entries = np.memmap(entries, np.uint8, "r") if entries.stat().st_size else np.zeros(0, np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "report": self.report}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: int) -> dict[str, Any]:
        if not 0 <= position < len(self):
            raise IndexError(f"entry {position} of an index of {len(self)}")
        begin, end = self._offsets[position], self._offsets[position + 1]
        return json.loads(self._entries[begin:end].tobytes())


def open_index(
    cache: Path,
    name: str,
    inputs: Iterable[Path],
    options: dict[str, Any],
    scan: Callable[[Report], Iterator[dict[str, Any]]],
    limit: int,
) -> Index:
    """Open the index of ``inputs`` under ``cache``, building it first where there is none.

    ``scan`` yields one JSON-ready entry per image. One process builds while the others wait for it.
    Raises RecordError where an input is missing or too much of it is malformed.
    """
    stamps = []
    for path in map(Path, inputs):
        if not path.is_file():
            raise RecordError(f"{name}: {path} does not exist")
        stat = path.stat()
        stamps.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    key = json.dumps([FORMAT, name, stamps, options, limit], sort_keys=True, default=str)
    folder = Path(cache) / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder.with_suffix(".lock"), timeout=LOCK_LIMIT_S):
                if not folder.is_dir():
                    _build(folder, name, scan, limit)
        except Timeout:
            raise RecordError(f"{folder}: another process has been building this index for an hour") from None
    return Index(folder)


def _build(folder: Path, name: str, scan: Callable[[Report], Iterator[dict[str, Any]]], limit: int) -> None:
    report = Report(limit)
    started = time.monotonic()
    staging = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        offsets = [0]
        with (staging / "entries.bin").open("wb") as file:
            for entry in scan(report):
                file.write(json.dumps(entry, separators=(",", ":")).encode())
                offsets.append(file.tell())
        report.kept = len(offsets) - 1
        np.save(staging / "offsets.npy", np.asarray(offsets, np.int64))
        (staging / "report.json").write_text(json.dumps(asdict(report), indent=1))
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    log.info("%s: %d of %d read, indexed in %.1f s", name, report.kept, report.read, time.monotonic() - started)

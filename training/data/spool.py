"""Grouping on disk: items arrive in any order and leave group by group, for 16 bytes of memory each."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np


class Spool:
    """Collects JSON-ready items under a key, then yields them by key, keys in order of first appearance."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._offsets, self._owners = array("q", [0]), array("q")
        self._numbers: dict[Hashable, int] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def open(self, key: Hashable) -> None:
        """Make a group, which may stay empty."""
        self._numbers.setdefault(key, len(self._numbers))

    def add(self, key: Hashable, item: Any) -> None:
        self.open(key)
        self._file.write(json.dumps(item).encode())
        self._offsets.append(self._file.tell())
        self._owners.append(self._numbers[key])

    def groups(self) -> Iterator[tuple[Any, list[Any]]]:
        """(key, its items in order of arrival) for every key."""
        owners = np.asarray(self._owners, np.int64)
        order = np.argsort(owners, kind="stable")
        bounds = np.searchsorted(owners[order], np.arange(len(self._numbers) + 1))
        for key, number in self._numbers.items():
            yield key, [self._read(row) for row in order[bounds[number]:bounds[number + 1]]]

    def _read(self, row: int) -> Any:
        self._file.seek(self._offsets[row])
        return json.loads(self._file.read(self._offsets[row + 1] - self._offsets[row]))

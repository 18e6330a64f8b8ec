"""Grouping of more items than memory holds: they arrive in any order and leave group by group."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np


class GroupedItems:
    """Items kept in a temporary file under a key each, at 16 bytes of memory an item. A context manager."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._offsets, self._owners = array("q", [0]), array("q")
        self._numbers: dict[Hashable, int] = {}

    def __enter__(self) -> GroupedItems:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def open_group(self, key: Hashable) -> None:
        """Make a group, which may stay empty."""
        self._numbers.setdefault(key, len(self._numbers))

    def add(self, key: Hashable, item: Any) -> None:
        """Put an item that JSON can hold into the group of a key."""
        self.open_group(key)
        self._file.write(json.dumps(item).encode())
        self._offsets.append(self._file.tell())
        self._owners.append(self._numbers[key])

    def groups(self) -> Iterator[tuple[Any, list[Any]]]:
        """Yield each key, in order of first appearance, with its items in order of arrival."""
        owners = np.asarray(self._owners, np.int64)
        order = np.argsort(owners, kind="stable")
        bounds = np.searchsorted(owners[order], np.arange(len(self._numbers) + 1))
        for key, number in self._numbers.items():
            yield key, [self._read(row) for row in order[bounds[number]:bounds[number + 1]]]

    def _read(self, row: int) -> Any:
        self._file.seek(self._offsets[row])
        return json.loads(self._file.read(self._offsets[row + 1] - self._offsets[row]))

"""A bound on how deeply JSON from outside is nested, kept while it is read: a parser keeps memory for every level."""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

DEPTH = 100
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1


class ShallowJson:
    """A JSON file for a parser that reads it piece by piece.

    Args:
        file: The file.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._depth = 0
        self._begun = b""  # what stands for a string that began in an earlier piece

    def read(self, size: int) -> bytes:
        """Read the next piece.

        Args:
            size: Most bytes of it.

        Raises:
            ValueError: Something in it is nested more than `DEPTH` levels deep.
        """
        piece = self._file.read(size)
        text = _STRING.sub(b"", self._begun + piece)
        text, quote, string = text.partition(b'"')
        escaped = (len(string) - len(string.rstrip(b"\\"))) % 2
        self._begun = quote + b"\\" * escaped
        depths = self._depth + np.cumsum(_STEP[np.frombuffer(text, np.uint8)], dtype=np.int64)
        if depths.max(initial=0) > DEPTH:
            raise ValueError(f"nested more than {DEPTH} levels deep")
        self._depth = int(depths[-1]) if len(depths) else self._depth
        return piece

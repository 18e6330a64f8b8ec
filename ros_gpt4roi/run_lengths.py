"""Run lengths of masks as COCO has them: of pixels outside and inside by turns, the first outside, down the columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def encode(mask: np.ndarray) -> np.ndarray:
    """The run lengths, uint32 [N], of a mask, bool [H, W]."""
    flat = np.concatenate([[False], np.asarray(mask, bool).T.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [flat.size - 1]])).astype(np.uint32)


def check(counts: Sequence[int] | np.ndarray | None, width: int, height: int) -> np.ndarray:
    """Make an array of run lengths.

    Args:
        counts: The lengths.
        width: Of the mask.
        height: Of the mask.

    Returns:
        They, uint32 [N].

    Raises:
        ValueError: They are others than whole numbers from 0 on, or do not fill the mask.
    """
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.size and (runs.dtype.kind not in "iu" or runs.min() < 0):
        raise ValueError(f"mask has counts {str(counts)[:80]}, expected run lengths")
    # One by one first: a sum may be too large for its type.
    total = int(runs.sum(dtype=np.int64)) if not runs.size or runs.max() <= width * height else int(runs.max())
    if total != width * height:
        raise ValueError(f"mask has runs of {total} pixels in all, expected {width} * {height}")
    return runs.astype(np.uint32)


def decode(counts: np.ndarray, width: int, height: int) -> np.ndarray:
    """The mask, bool [H, W], of run lengths that `check` gave."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def decompress(text: str) -> list[int]:
    """Read run lengths that COCO has compressed to text.

    Raises:
        ValueError: The text is none of these.
    """
    # Five bits a character, lowest first, the sixth says that more follow; from the fourth number on, differences to
    # the one two before.
    counts: list[int] = []
    value = shift = 0
    for code in (ord(character) - 48 for character in text):
        if not 0 <= code < 64 or shift > 30:
            raise ValueError(f"mask has counts {text[:80]!r}, expected COCO's compressed run lengths")
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts

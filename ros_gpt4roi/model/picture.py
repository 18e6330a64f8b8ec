"""Where pictures stand in a prompt, for a model with multi-axis rotary positions."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

AXES = 3  # time, row and column


@dataclass(frozen=True, eq=False)
class Picture:
    """Tokens of a prompt that are a picture: the frame, or what of it is replayed behind a region's name.

    Attributes:
        first: Place of its first token in the prompt.
        rows: Rows of its tokens.
        columns: Columns of its tokens.
        deepstack: Features [layers, rows · columns, D] that are added behind each of the first layers; None: none.
    """

    first: int
    rows: int
    columns: int
    deepstack: torch.Tensor | None = None

    @property
    def end(self) -> int:
        """Place behind the last token."""
        return self.first + self.rows * self.columns


class Pictures:
    """The pictures of a prompt.

    A token of text has the same position on all axes. All tokens of a picture share their time, the picture's first
    position, and count rows and columns from there; the text behind goes on after the longer side. Behind the last
    picture a position is one number again, so that a decode step is that of any other model.

    Args:
        pictures: In the order of the prompt.
    """

    def __init__(self, pictures: Sequence[Picture]):
        self._pictures, self.end = tuple(pictures), pictures[-1].end
        # By place: the position on each axis, and whether a picture's token stands there.
        self._positions = np.broadcast_to(np.arange(self.end), (AXES, self.end)).copy()
        self._is_picture = np.zeros(self.end, np.bool_)
        shift = 0
        for number, picture in enumerate(pictures):
            begin, end = picture.first, picture.end
            within = np.arange(end - begin)
            axes = np.stack([np.zeros_like(within), within // picture.columns, within % picture.columns])
            self._positions[:, begin:end] = begin + shift + axes
            self._is_picture[begin:end] = True
            shift += max(picture.rows, picture.columns) - (end - begin)
            following = pictures[number + 1].first if number + 1 < len(pictures) else self.end
            self._positions[:, end:following] += shift
        self._shift = shift

    def positions(self, begin: int, end: int) -> np.ndarray:
        """Positions of the tokens at places `begin` to before `end`.

        Returns:
            int64 [end - begin], or [3, end - begin] where tokens of pictures are among them.
        """
        behind = np.arange(max(begin, self.end), end) + self._shift
        if begin >= self.end:
            return behind
        known = self._positions[:, begin:end]
        if not self._is_picture[begin:end].any():
            known = known[0]
        return np.concatenate([known, np.broadcast_to(behind, (*known.shape[:-1], len(behind)))], -1)

    def features(self, begin: int, end: int) -> list[tuple[int, torch.Tensor]]:
        """What is added behind the first layers to tokens at places `begin` to before `end`.

        Returns:
            For each picture with some there: where among them its first one is, and the features [layers, n, D].
        """
        found = []
        for picture in self._pictures:
            first, last = max(picture.first, begin), min(picture.end, end)
            if picture.deepstack is not None and last > first:
                found.append((first - begin, picture.deepstack[:, first - picture.first:last - picture.first]))
        return found

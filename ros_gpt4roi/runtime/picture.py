"""Where a picture stands in a prompt, for a model with multi-axis rotary positions."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

AXES = 3  # time, row and column


@dataclass(frozen=True, eq=False)
class Picture:
    """The image tokens of a prompt: where they are, and what is added to them behind the first layers.

    A token of text has the same position on all axes. All image tokens share their time, the picture's first position,
    and count rows and columns from there; the text behind goes on after the longer side. From there on a position is
    one number again, so that a decode step is that of any other model.

    Attributes:
        first: Place of the first image token in the prompt.
        rows: Rows of image tokens.
        columns: Columns of image tokens.
        deepstack: Features [layers, rows · columns, D] that are added behind each of the first layers; None: none.
    """

    first: int
    rows: int
    columns: int
    deepstack: torch.Tensor | None = None

    @property
    def end(self) -> int:
        """Place behind the last image token."""
        return self.first + self.rows * self.columns

    def positions(self, begin: int, end: int) -> np.ndarray:
        """Positions of the tokens at places `begin` to before `end`.

        Returns:
            int64 [end - begin], or [3, end - begin] where image tokens are among them.
        """
        places = np.arange(begin, end)
        text = np.where(places < self.end, places, places - self.end + self.first + max(self.rows, self.columns))
        if end <= self.first or begin >= self.end:
            return text
        within = (places - self.first).clip(0, self.rows * self.columns - 1)
        image = self.first + np.stack([np.zeros_like(within), within // self.columns, within % self.columns])
        return np.where((places >= self.first) & (places < self.end), image, text)

    def features(self, begin: int, end: int) -> tuple[int, torch.Tensor | None]:
        """Where the first image token is among those at places `begin` to before `end`, and what is added to them."""
        first, last = max(self.first, begin), min(self.end, end)
        if self.deepstack is None or last <= first:
            return 0, None
        return first - begin, self.deepstack[:, first - self.first:last - self.first]

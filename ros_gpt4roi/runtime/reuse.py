"""Descriptions that may be kept: a tracked region that looks as it did when it was described keeps its text."""
from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

_MAX_TRACKS = 1024


@dataclass(frozen=True, eq=False)
class Described:
    """What was said of a region. embedding: float32, unit length. ids: the text's tokens, a draft for the next."""

    text: str
    confidence: float
    ids: tuple[int, ...]
    embedding: torch.Tensor
    stamp_ns: int


class DescriptionReuse:
    """The last description of every track, by region id.

    distance: a text is kept while the cosine distance (0..2) between the region's embedding and that of the described
    one is under this; 0 keeps nothing. max_age_s: and while the described frame is no older, by the frames' stamps.
    """

    def __init__(self, distance: float, max_age_s: float):
        if not 0 <= distance <= 2 or not max_age_s >= 0:
            raise ValueError(f"reuse distance {distance} and age {max_age_s} s, expected 0..2 and at least 0")
        self.distance, self.max_age_s = distance, max_age_s
        self.looked_up = self.kept = 0
        self._tracks: OrderedDict[str, Described] = OrderedDict()

    def last(self, region_id: str) -> Described | None:
        return self._tracks.get(region_id)

    def keep(self, region_id: str, embedding: torch.Tensor, stamp_ns: int) -> Described | None:
        """The description that still holds for the region, or None. embedding: [K, D]."""
        self.looked_up += 1
        last = self.last(region_id)
        if last is None or not 0 <= stamp_ns - last.stamp_ns <= self.max_age_s * 1e9:
            return None
        if not 1 - float(last.embedding @ unit(embedding)) < self.distance:
            return None
        self.kept += 1
        return last

    def put(self, region_id: str, text: str, confidence: float, ids: tuple[int, ...], embedding: torch.Tensor,
            stamp_ns: int) -> None:
        self._tracks[region_id] = Described(text, confidence, ids, unit(embedding), stamp_ns)
        self._tracks.move_to_end(region_id)
        if len(self._tracks) > _MAX_TRACKS:
            self._tracks.popitem(last=False)

    def clear(self) -> None:
        self._tracks.clear()


def unit(embedding: torch.Tensor) -> torch.Tensor:
    """Flattened, float32, on the CPU, of length 1."""
    flat = embedding.detach().flatten().float().cpu()
    return flat / flat.norm().clamp_min(1e-12)

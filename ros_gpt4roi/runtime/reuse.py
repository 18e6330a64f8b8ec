"""Descriptions that may be kept: a tracked region that looks as it did when it was described keeps its text."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MAX_TRACKS = 1024


@dataclass(frozen=True, eq=False)
class Described:
    """What was said of a region.

    Attributes:
        text: The description.
        confidence: Of the text.
        ids: The text's tokens, a draft for the next.
        embedding: The region's, float32, unit length.
        stamp_ns: Of the frame that was described.
        mentions: Ids of the regions that the text names.
    """

    text: str
    confidence: float
    ids: tuple[int, ...]
    embedding: torch.Tensor
    stamp_ns: int
    mentions: frozenset[str] = frozenset()


class DescriptionReuse:
    """The last description of every track, by region id.

    Args:
        distance: A text is kept while the cosine distance (0..2) between the region's embedding and that of the
            described one is under this; 0 keeps nothing.
        max_age_s: And while the described frame is no older, by the frames' stamps.

    A text that names other regions is kept only together with those, because it may speak of where they are. Neighbours
    that it speaks of without naming their regions ("left of the bowl") are not seen: max_age_s bounds how long such a
    text can be out of date.
    """

    def __init__(self, distance: float, max_age_s: float):
        if not 0 <= distance <= 2 or not max_age_s >= 0:
            raise ValueError(f"reuse distance {distance} and age {max_age_s} s, expected 0..2 and at least 0")
        self.distance, self.max_age_s = distance, max_age_s
        self.looked_up = self.kept = 0
        self._tracks: OrderedDict[str, Described] = OrderedDict()
        self._writer: object = None

    def last(self, region_id: str) -> Described | None:
        """What was said of a region last."""
        return self._tracks.get(region_id)

    def keep(self, region_ids: Sequence[str], embeddings: torch.Tensor, stamp_ns: int,
             writer: object = None) -> list[Described | None]:
        """Find descriptions that still hold.

        Args:
            region_ids: Of a frame's regions.
            embeddings: Of these, [N, K, D].
            stamp_ns: Of the frame.
            writer: What describes regions now. Descriptions that another one wrote are forgotten.

        Returns:
            For each region its description, or None.
        """
        if writer is not self._writer:
            self.clear()
            self._writer = writer
        self.looked_up += len(region_ids)
        kept = {region_id: last for region_id, embedding in zip(region_ids, embeddings)
                if (last := self._alike(region_id, embedding, stamp_ns)) is not None}

        def moved(text: Described) -> bool:
            """Whether a region it names has changed, or was described anew since."""
            return any(name not in kept or kept[name].stamp_ns > text.stamp_ns for name in text.mentions)

        while outdated := [region_id for region_id, text in kept.items() if moved(text)]:
            for region_id in outdated:  # in turn, texts that name these may fall
                del kept[region_id]
        found = [kept.get(region_id) for region_id in region_ids]
        self.kept += sum(text is not None for text in found)
        return found

    def _alike(self, region_id: str, embedding: torch.Tensor, stamp_ns: int) -> Described | None:
        last = self.last(region_id)
        if last is None or not 0 <= stamp_ns - last.stamp_ns <= self.max_age_s * 1e9:
            return None
        # Rounding may take the distance of a vector from itself below 0, and a limit of 0 keeps nothing.
        return last if max(0.0, 1 - float(last.embedding @ unit(embedding))) < self.distance else None

    def put(self, region_id: str, text: str, confidence: float, ids: tuple[int, ...], embedding: torch.Tensor,
            stamp_ns: int, mentions: Sequence[str] = ()) -> None:
        """Remember a description; of many tracks the one described longest ago is forgotten."""
        self._tracks[region_id] = Described(text, confidence, ids, unit(embedding), stamp_ns, frozenset(mentions))
        self._tracks.move_to_end(region_id)
        if len(self._tracks) > _MAX_TRACKS:
            self._tracks.popitem(last=False)

    def clear(self) -> None:
        """Forget all descriptions."""
        self._tracks.clear()


def unit(embedding: torch.Tensor) -> torch.Tensor:
    """Flattened, float32, on the CPU, of length 1."""
    flat = embedding.detach().flatten().float().cpu()
    return flat / flat.norm().clamp_min(1e-12)

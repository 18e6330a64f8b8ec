"""Answers in which a model says places: what it has found becomes regions of the conversation, named by their ids."""
from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch

from ..model.grounding import Corners, Found, FoundThings, Part, read_grounding, read_to_end
from ..model.region_words import GRID
from .assertions import is_plain
from .region_text import RegionText
from .regions import check_box, name_regions
from .request import Conversation, EncodedFrame
from .types import Frame, Region

# Two boxes that overlap by so much, intersection over union, are of one thing: what detectors use to drop duplicates.
_SAME_IOU = 0.7
_POINT_APART = 2 / GRID  # in sides of the picture
_REGION_NAME = re.compile(r"[Rr]egions?\s?\d+")


class FoundRegions:
    """Reads one answer, as `RegionText` does for models that say no places.

    A box that is nearly one of a region which the model was shown is that region. Another one becomes a region of the
    conversation as soon as its JSON object is complete, and its id is that which a drawn box would have.

    Args:
        encoded: The frame that the model sees.
        conversation: What regions join; None: nothing becomes a region, and things are called by their labels.
        most: Most regions that may join it, beside those that it began with.

    Attributes:
        added: The regions that have joined.
        refused: Why others have not; a text for each.
    """

    def __init__(self, encoded: EncodedFrame, conversation: Conversation | None, most: int):
        self._text, self._conversation = encoded.text, conversation
        # With the places that the model was told: the part of their boxes that is in the picture.
        self._known = list(zip(encoded.shown, encoded.boxes.clip(0, 1).tolist()))
        self._height, self._width = encoded.frame.image.shape[:2]
        self._most = most
        self._room = most - (conversation.frame.added if conversation is not None else 0)
        self._regions: list[Region | None] = []  # of each thing that was found, in order
        self.added: list[Region] = []
        self.refused: list[str] = []

    def to_user(self, text: str) -> str:
        """The model's text with ids for places; what was found, as "red mug (region 4)"."""
        said: list[str] = []
        for part, regions in self._parts(text):
            if isinstance(part, str):
                said.append(self._text.to_user(part))
                continue
            words = self._in_words(part, regions)
            said += [" "] * bool(said and re.search(r"\w$", said[-1])) + [words]
        return "".join(said)

    def unfinished(self, text: str) -> int:
        """How many last characters of a model's text may be the beginning of a longer mention, or of a place."""
        return max(len(read_grounding(text, self._room)[1]), self._text.unfinished(text))

    def asserted(self, question: str, answer: str, meant: str = "",
                 complete: bool = True) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The ids of the regions that an answer asserts, and of those that it names as evidence.

        A list of places is what was asked for: all of it is asserted, unless the words around it deny something or
        leave it open. A place within a sentence is read like a region's name there.

        Args:
            question: In the model's words.
            answer: In the model's words.
            meant: The id of the region that "it" and "this" mean in the question; empty where they mean none.
            complete: Whether the answer was written to its end.
        """
        ids, words, prose, listed = list(self._text.ids), [], [], []
        for part, regions in self._parts(answer):
            if isinstance(part, str):
                words.append(part)
                prose.append(part)
                continue
            names = [region.id for region in regions if region is not None]
            ids += [name for name in dict.fromkeys(names) if name not in ids]
            words.append(" " + ", ".join(f"region {ids.index(name) + 1}" for name in names))
            listed += names if part.listed else []
            if part.more:
                self.refused.append(f"{part.more} of the boxes in an answer: its conversation may have {self._most} "
                                    "beside those that it began with")
        asserted, evidence = RegionText(ids).asserted(question, "".join(words), meant, complete)
        if complete and is_plain("".join(prose)):
            asserted = tuple(dict.fromkeys((*asserted, *listed)))
        return asserted, tuple(name for name in evidence if name not in asserted)

    def _parts(self, text: str) -> Iterator[tuple[Part, list[Region | None]]]:
        """The parts of a text, each with the regions of the things in it."""
        count = 0
        for part in read_to_end(text, self._room):
            regions = []
            for found in () if isinstance(part, str) else part.things:
                if count == len(self._regions):
                    self._regions.append(self._region(found))
                regions.append(self._regions[count])
                count += 1
            yield part, regions

    def _region(self, found: Found) -> Region | None:
        if found.corners is None:
            self.refused.append(f"box in an answer: {found.written!r}, expected x1 < x2 and y1 < y2 from 0 to {GRID}")
            return None
        known = self._same(found.corners)
        if known is None and self._conversation is not None:
            known = self._add(self._conversation, found.label, found.corners)
        return known

    def _same(self, corners: Corners) -> Region | None:
        """The region that is at a place already."""
        x1, y1, x2, y2 = corners
        if corners[:2] == corners[2:]:
            return next((region for region, known in self._known if region.is_point
                         and abs(known[0] + known[2] - 2 * x1) <= 2 * _POINT_APART
                         and abs(known[1] + known[3] - 2 * y1) <= 2 * _POINT_APART), None)
        boxes = [(region, known) for region, known in self._known if not region.is_point]
        if not boxes:
            return None
        from torchvision.ops import box_iou  # as `fit_frame` has it: only these models need it

        overlaps = box_iou(torch.tensor([corners]), torch.tensor([known for _, known in boxes]))[0]
        best = int(overlaps.argmax())
        return boxes[best][0] if float(overlaps[best]) >= _SAME_IOU else None

    def _add(self, conversation: Conversation, label: str, corners: Corners) -> Region | None:
        x1, y1, x2, y2 = (corner * side for corner, side in zip(corners, (self._width, self._height) * 2))

        def make(frame: Frame) -> tuple[Region, ...]:
            if frame.added >= self._most:  # drawn boxes have come meanwhile
                return ()
            regions, refused = name_regions(
                [("", (x1, y1, x2, y2), label, 0.0)],
                lambda box: (check_box(box, self._width, self._height, normalised=False), None),
                {region.id for region in frame.regions})
            self.refused += refused
            return regions

        for region in conversation.add_regions(make):
            self.added.append(region)
            self._known.append((region, corners))
            return region
        return None

    def _in_words(self, part: FoundThings, regions: Iterable[Region | None]) -> str:
        """What was found, each thing once."""
        words: dict[str, None] = {}
        for found, region in zip(part.things, regions):
            label = "" if _REGION_NAME.fullmatch(found.label) else self._text.to_user(found.label)
            notes = [f"{name}: {value}" for name, value in found.details]
            if region is not None:
                notes.insert(0, f"region {region.id}")
            elif found.corners is None:
                notes.insert(0, "no usable box")
            head = label or (notes.pop(0) if region is not None else "something")
            words[f"{head} ({', '.join(notes)})" if notes else head] = None
        more = [f"{part.more} more without a region"] * bool(part.more)
        return ", ".join((*words, *more)) or "nothing found"

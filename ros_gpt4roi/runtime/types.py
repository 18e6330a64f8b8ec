"""What goes in and out of the runtime. Plain data: no ROS, no torch."""
from __future__ import annotations

import itertools
import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np

from .masks import Mask

_frame_keys = itertools.count()


class Status(IntEnum):
    """How a question or a description request ended. The values equal the constants of Answer.msg."""

    OK = 0
    CANCELED = 1
    TIMEOUT = 2
    NO_FRAME = 3
    UNKNOWN_REGION = 4
    OVERLOADED = 5
    INVALID = 6
    FAILED = 7


@dataclass(frozen=True)
class Region:
    """A box with an id. `box` is (x1, y1, x2, y2) in pixels of its frame; `score` is the detector's, 0..1.

    A box of no extent (x1 = x2, y1 = y2) is a point: the place somebody clicked. `mask` is what of the box belongs to
    the region; None: all of it.
    """

    id: str
    box: tuple[float, float, float, float]
    label: str = ""
    score: float = 0.0
    mask: Mask | None = None

    @property
    def is_point(self) -> bool:
        """Whether the box has no extent."""
        return self.mask is None and self.box[:2] == self.box[2:]

    def contains(self, x: float, y: float, width: int, height: int) -> bool:
        """Whether a place of its width x height frame, in pixels, is in the region."""
        x1, y1, x2, y2 = self.box
        return x1 <= x <= x2 and y1 <= y <= y2 and (self.mask is None or self.mask.contains(x, y, width, height))


@dataclass(frozen=True, eq=False)
class Frame:
    """A camera image with its regions.

    Attributes:
        image: uint8 RGB [H, W, 3], not written to after it was handed over; or an array-like of that `shape`, which
            `numpy.asarray` turns into one, such as a picture that stays encoded until then.
        stamp_ns: The image's stamp in nanoseconds.
        frame_id: The optical frame of the camera.
        header: The message's own header; the runtime hands it back untouched.
        key: This object's own number, by which what was computed from it is found again; a copy gets another.
        base: The frame that this one has more regions than; what was computed from that holds for this one, too.
    """

    image: np.ndarray
    regions: tuple[Region, ...]
    stamp_ns: int
    frame_id: str
    header: object = None
    base: Frame | None = None
    key: int = field(default_factory=_frame_keys.__next__, init=False)

    @property
    def added(self) -> int:
        """How many regions it has more than its base."""
        return len(self.regions) - len((self.base or self).regions)

    def with_regions(self, added: tuple[Region, ...]) -> Frame:
        """The same frame with more regions behind its own, which keep their places."""
        return replace(self, regions=self.regions + added, base=self.base or self)

    def without_regions(self, ids: Collection[str]) -> Frame:
        """The same frame without regions that `with_regions` added."""
        kept = tuple(region for region in self.regions if region.id not in ids)
        return self.base if self.base is not None and kept == self.base.regions else replace(self, regions=kept)


@dataclass(frozen=True)
class Description:
    """Text about one region. confidence: mean token probability, 0..1. reused: carried over from an earlier frame."""

    region: Region
    text: str
    confidence: float
    reused: bool = False


@dataclass(frozen=True, eq=False)
class FrameDescriptions:
    """The descriptions of a frame, in the order of `frame.regions`, and how long each stage took in seconds.

    status is OK, or says why descriptions are missing (CANCELED, TIMEOUT, INVALID, FAILED), with the reason in `error`.
    omitted: regions that were left out because the frame had more than the model takes (lowest score first to go).
    refused: why boxes of the frame could not be used, or got no description; a text for each.
    pixels: the frame's image as an array, if it was the last one that was decoded; else None.
    model_version: the model that gave them, as `Pipeline.version_of`.
    embeddings: where they were asked for, each region's, by its id: float32, flat, of length 1.
    """

    frame: Frame
    descriptions: tuple[Description, ...]
    timings: dict[str, float] = field(default_factory=dict)
    status: Status = Status.OK
    error: str = ""
    omitted: tuple[Region, ...] = ()
    refused: tuple[str, ...] = ()
    pixels: np.ndarray | None = None
    model_version: str = ""
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to a question; with a status other than OK, `text` is what was generated until then.

    Attributes:
        region_ids: The regions that the answer asserts, in the order of mention.
        evidence_ids: Those that it names besides, in the order of mention.
        frame: The frame it is about, None where there was none.
        confidence: Mean token probability, 0..1.
        model_version: The model that gave it, as `Pipeline.version_of`.
        refused: Why boxes that the model gave became no regions; a text for each.
    """

    status: Status
    text: str
    error: str = ""
    region_ids: tuple[str, ...] = ()
    evidence_ids: tuple[str, ...] = ()
    conversation_id: str = ""
    query_id: str = ""
    frame: Frame | None = None
    confidence: float = 0.0
    model_version: str = ""
    refused: tuple[str, ...] = ()

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions of `region_ids` and `evidence_ids`, in their order."""
        known = {region.id: region for region in self.frame.regions} if self.frame is not None else {}
        return tuple(known[name] for name in (*self.region_ids, *self.evidence_ids) if name in known)

    def as_json(self) -> str:
        """The answer as one JSON object: `answer` (its words), asserted `regions`, `confidence`, `status`, `error`.

        The words are all that a model writes of it, and whatever they are, a JSON string holds them: the object is
        whole where the text was cut, and no tokenizer has to know braces.
        """
        return json.dumps({"answer": self.text, "regions": list(self.region_ids), "confidence": self.confidence,
                           "status": self.status.name, "error": self.error}, ensure_ascii=False, allow_nan=False)

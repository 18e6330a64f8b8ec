"""Training records by region embedding: which of them a region resembles most, and how they look."""
from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..image_file import ImageFileError, encode_image, picture_path, read_header, read_image

INDEX_FILE = "region_index.safetensors"
MOST_REGIONS = 100_000
_MOST_BYTES = 256 << 20  # of embeddings
_FORMAT = "ros_gpt4roi evidence 1"
_TEXT = 300  # characters that are kept
_CHUNK = 4096  # regions that are compared at once
_MOST_PIXELS = 25_000_000
_SIDE, _QUALITY = 160, 80  # of a small picture: pixels of the longer side, and JPEG quality
_LINE = (255, 210, 63)


class EvidenceError(ValueError):
    """An index that is missing, damaged, or of another model; the message names it and says what to do."""


@dataclass(frozen=True)
class TrainingRegion:
    """A region of a training record.

    Attributes:
        file: Path of its picture, from the folder of the records.
        region_id: Its id there.
        box: x1 y1 x2 y2, pixels of the picture.
        name: What it is; may be empty, as the next two.
        description: A sentence about it.
        source: Who says so.
    """

    file: str
    region_id: str
    box: tuple[float, float, float, float]
    name: str = ""
    description: str = ""
    source: str = ""


class EvidenceIndex:
    """The index of a folder of records. Its memory is bounded by the limits of the file.

    Attributes:
        folder: Of the records.
        model: The version of the model whose embeddings they are.
        embeddings: float16 [N, D], each of length 1.
    """

    def __init__(self, folder: str | Path):
        """Read a folder's index.

        Args:
            folder: Of the records.

        Raises:
            EvidenceError: There is none, or it is damaged or too large.
        """
        self.folder = Path(folder)
        path = self.folder / INDEX_FILE
        advice = f"make it by: python -m training.data index {self.folder} --model NAME"
        try:
            if (size := path.stat().st_size) > 2 * _MOST_BYTES:
                raise EvidenceError(f"{path} has {size} bytes, expected at most {2 * _MOST_BYTES}; {advice}")
            with safe_open(path, "numpy") as file:
                known = file.metadata() or {}
                if known.get("format") != _FORMAT:
                    raise EvidenceError(f"{path} is of format {known.get('format')!r:.60}, expected {_FORMAT!r}; "
                                        f"{advice}")
                self.model = known.get("model", "")
                self.embeddings, offsets, texts = (file.get_tensor(name) for name in ("embeddings", "offsets", "texts"))
        except FileNotFoundError as error:
            raise EvidenceError(f"{path} is not there; {advice}") from error
        except (OSError, SafetensorError) as error:
            raise EvidenceError(f"{path} cannot be read: {error}; {advice}") from error
        sound = (self.embeddings.dtype == np.float16 and self.embeddings.ndim == 2 and texts.dtype == np.uint8
                 and texts.ndim == 1 and offsets.shape == (len(self.embeddings) + 1,) and offsets.dtype == np.int64
                 and len(self.embeddings) <= MOST_REGIONS and self.embeddings.nbytes <= _MOST_BYTES
                 and offsets[0] == 0 and offsets[-1] == len(texts) and (np.diff(offsets) >= 0).all())
        if not sound:
            raise EvidenceError(f"{path} is damaged; {advice}")
        self._offsets, self._texts = offsets, texts
        self._places: dict[tuple[str, str], int] = {}  # of the regions, once somebody has asked for one

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, place: int) -> TrainingRegion:
        """The region at a place."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        try:
            values = json.loads(self._texts[self._offsets[place]:self._offsets[place + 1]].tobytes())
            return TrainingRegion(**values | {"box": tuple(map(float, values["box"]))})
        except (ValueError, TypeError, KeyError) as error:
            raise EvidenceError(f"{self.folder / INDEX_FILE} is damaged at region {place}") from error

    def row(self, file: str, region_id: str) -> np.ndarray | None:
        """The embedding of a region, float32 [D]; None where it is not in the index."""
        if not self._places:
            regions = map(self.__getitem__, range(len(self)))
            self._places = {(region.file, region.region_id): place for place, region in enumerate(regions)}
        place = self._places.get((file, region_id))
        return None if place is None else self.embeddings[place].astype(np.float32)

    def nearest(self, embedding: np.ndarray, most: int, but_file: str = "") -> list[tuple[TrainingRegion, float]]:
        """Find the regions that resemble one most.

        Args:
            embedding: float32 [D], of length 1.
            most: How many.
            but_file: A picture whose regions are left out.

        Returns:
            Regions and their cosine distances, the nearest first.

        Raises:
            EvidenceError: The embedding is of another size.
        """
        if embedding.shape != self.embeddings.shape[1:]:
            raise EvidenceError(f"{self.folder / INDEX_FILE} has embeddings of {self.embeddings.shape[1]} numbers, and "
                                f"the region's has {embedding.size}: it is of another model")
        distances = np.concatenate([1 - self.embeddings[first:first + _CHUNK].astype(np.float32) @ embedding
                                    for first in range(0, len(self), _CHUNK)] or [np.zeros(0, np.float32)])
        found: list[tuple[TrainingRegion, float]] = []
        for place in np.argsort(distances, kind="stable"):
            if len(found) == most:
                break
            region = self[int(place)]
            if region.file != but_file:
                found.append((region, max(float(distances[place]), 0.0)))
        return found

    def small_picture(self, region: TrainingRegion) -> bytes:
        """A JPEG of a region and what is around it; empty where its picture cannot be read."""
        try:
            path = picture_path(self.folder, region.file)
            header = read_header(path)
            if header.width * header.height > _MOST_PIXELS:
                return b""
            return _around(read_image(path), region.box)
        except (ImageFileError, ValueError, OSError, cv2.error):
            return b""


def write_index(folder: Path, model: str, embeddings: np.ndarray, regions: list[TrainingRegion]) -> None:
    """Write the index of a folder of records; it is there once it is whole.

    Args:
        folder: Of the records.
        model: The version of the model.
        embeddings: [N, D], each of length 1; `most_regions` says how many may be there.
        regions: What they are of.
    """
    lines = []
    for region in regions:
        short = {name: getattr(region, name)[:_TEXT] for name in ("name", "description", "source")}
        lines.append(json.dumps(asdict(region) | short, ensure_ascii=False).encode())
    offsets = np.cumsum([0, *map(len, lines)], dtype=np.int64)
    unfinished = folder / f"{INDEX_FILE}.unfinished"
    save_file({"embeddings": embeddings.astype(np.float16), "offsets": offsets,
               "texts": np.frombuffer(b"".join(lines), np.uint8)}, unfinished, {"format": _FORMAT, "model": model})
    os.replace(unfinished, folder / INDEX_FILE)


def most_regions(size: int) -> int:
    """How many regions an index may have whose embeddings have ``size`` numbers."""
    return min(MOST_REGIONS, _MOST_BYTES // (2 * size))


def _around(image: np.ndarray, box: tuple[float, float, float, float]) -> bytes:
    height, width = image.shape[:2]
    if not all(map(math.isfinite, box)):
        return b""
    margin = max(box[2] - box[0], box[3] - box[1], 32) / 2
    left, top = (max(int(side - margin), 0) for side in box[:2])
    right, bottom = min(int(box[2] + margin) + 1, width), min(int(box[3] + margin) + 1, height)
    if right <= left or bottom <= top:
        return b""
    scale = min(_SIDE / max(right - left, bottom - top), 4.0)
    part: Any = cv2.resize(image[top:bottom, left:right], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    first, last = ((round((x - left) * scale), round((y - top) * scale)) for x, y in (box[:2], box[2:]))
    cv2.rectangle(part, first, last, _LINE, 2)
    return encode_image(part, quality=_QUALITY)

"""What every data set's loader shares: its options, the filters on boxes and images, and how it hands out records."""

from __future__ import annotations

import dataclasses
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ros_gpt4roi.configuration import ConfigError, Configuration, build, setting
from ros_gpt4roi.image_file import read_header
from training.data.index import open_index
from training.data.record import Filtered, Record, RecordError
from training.data.report import Report

Options = TypeVar("Options")
_COCO_2014 = re.compile(r"^COCO_(?:train|val|test)\d{4}_(?=\d{12}\.jpg$)")


@dataclass(frozen=True)
class Shared(Configuration):
    """Options of the whole data section."""

    cache: Path = setting(dataclasses.MISSING, "Folder for indexes.")
    malformed_limit: int = setting(100, "Items that may be malformed, of each source by itself.", at_least=0)
    points: float = setting(0.0, "Share of the regions that become a point drawn inside them, so that a model also "
                                 "learns what it means to be pointed at something.", at_least=0, at_most=1)


@dataclass(frozen=True)
class BoxFilter(Configuration):
    """The release's filters. Sides of boxes are measured in the network's input, where they decide what can be seen."""

    input_size: int = setting(224, "Side of the network's input.", at_least=1, unit="pixels")
    min_side: float = setting(2.0, "Shortest side of a box, in the network's input.", at_least=0, unit="pixels")
    min_image_side: int = setting(32, "Shortest side of an image.", at_least=1, unit="pixels")

    def box(self, box: Sequence[float], size: tuple[int, int], report: Report) -> list[float]:
        """Clip a box to its image.

        Args:
            box: x1 y1 x2 y2, pixels.
            size: (width, height) of the image.
            report: Counts boxes that reach far outside.

        Returns:
            x1 y1 x2 y2, inside the image.

        Raises:
            Filtered: It is too small, or outside the image.
            ValueError: It is not finite.
        """
        width, height = size
        x1, y1, x2, y2 = (float(value) for value in box)
        if not np.isfinite([x1, y1, x2, y2]).all():
            raise ValueError(f"box {list(box)} is not finite")
        if x2 - x1 < 1 or y2 - y1 < 1:
            normalised = 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            raise Filtered("box inside the first pixel, as if normalised to 0..1; expected pixels" if normalised
                           else "box under 1 pixel")
        beyond = max(-x1, -y1, x2 - width, y2 - height)
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if x2 <= x1 or y2 <= y1:
            raise Filtered("box outside the image")
        if beyond > 1:
            report.note("box clipped that reached more than 1 pixel outside the image")
        if (x2 - x1) * self.input_size < self.min_side * width or (y2 - y1) * self.input_size < self.min_side * height:
            raise Filtered(f"box under {self.min_side:g} pixels of the network's input")
        return [round(value, 3) for value in (x1, y1, x2, y2)]

    def check_image(self, size: tuple[int, int]) -> None:
        """Raises Filtered where an image of this (width, height) is too small."""
        if min(size) < self.min_image_side:
            raise Filtered(f"image under {self.min_image_side} pixels")


@dataclass(frozen=True)
class SourceOptions(Configuration):
    """Options of every data set."""

    annotations: Path = setting(dataclasses.MISSING, "Annotation file.")
    ratio: float = setting(1.0, "Visits an epoch of each image; under 1, of a new random share of them every epoch.",
                           more_than=0)


@dataclass(frozen=True, kw_only=True)
class ImagesOptions(SourceOptions):
    """Options of data sets whose annotation file does not say where the images are."""

    images: tuple[Path, ...] = setting(dataclasses.MISSING, "Folders of the images, looked through in this order.")


@dataclass(frozen=True, kw_only=True)
class BoxedOptions(ImagesOptions):
    """Options of data sets whose annotations are boxes."""

    boxes: BoxFilter = setting(BoxFilter(), "Which boxes and images are large enough.")


class Source(ABC):
    """One data set. Its entries are images; a visit to one yields all the conversations about it.

    A subclass names its kind of `SourceOptions`, scans the annotation files into entries, each with its image's path
    under "image" and (width, height) under "size", and turns an entry into records.
    """

    kind: str
    options_type: type[SourceOptions]

    def __init__(self, options: Any, shared: Shared):
        self.options = options
        read_so = {name: value for name, value in dataclasses.asdict(options).items() if name != "ratio"}
        self.index = open_index(shared.cache, self.kind, self.inputs(), read_so, self.scan, shared.malformed_limit)

    @property
    def report(self) -> Report:
        """Return what indexing the annotation files read, left out and changed."""
        return self.index.report

    @property
    def augments(self) -> bool:
        """Return whether a picture looks a little otherwise at every visit."""
        return False

    def inputs(self) -> list[Path]:
        """The annotation files; a change of any of them makes a new index."""
        return [self.options.annotations]

    def __len__(self) -> int:
        return len(self.index)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of all images, in the file's order."""
        return (self.index[position] for position in range(len(self)))

    def image(self, position: int) -> Path:
        """Return the path of the image at ``position``."""
        return Path(self.index[position]["image"])

    def size(self, position: int) -> tuple[int, int]:
        """Return (width, height) of the image at ``position`` when it was indexed, pixels."""
        return tuple(self.index[position]["size"])

    @abstractmethod
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        """Yield an entry for every usable image, counting in ``report`` what is left out."""

    @abstractmethod
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        """Make the conversations of one visit to the image at ``position``; every choice is drawn from ``rng``."""


def parse_options(options_type: type[Options], values: Mapping[str, Any], where: str) -> Options:
    """Make ``options_type`` from a YAML mapping (see `configuration.build`).

    Raises:
        RecordError: A name is no option, an option is missing, or a value does not suit it.
    """
    try:
        return build(options_type, values)
    except ConfigError as error:
        raise RecordError(f"{where}: {error}") from error


def image_names(name: str) -> list[str]:
    """List the names that an image may have on disk.

    Args:
        name: Its name in an annotation file.

    Returns:
        That name; of "COCO_train2014_000000000009.jpg" also "000000000009.jpg", its name since 2017.
    """
    return list(dict.fromkeys((name, _COCO_2014.sub("", name))))


def find_image(folders: Sequence[Path], name: str) -> str:
    """Find an image by its whole name (see `image_names`).

    Args:
        folders: Looked through in this order.
        name: Its name in an annotation file.

    Returns:
        Its path.

    Raises:
        ValueError: No folder has it.
    """
    for folder in folders:
        for candidate in image_names(name):
            path = Path(folder) / candidate
            if os.path.isfile(path):  # which is False, too, for a name that no file can have
                return str(path)
    raise ValueError(f"image {name[:200]} is not in {', '.join(map(str, folders))}")


def image_size(path: str, declared: tuple[int, int] | None, report: Report) -> tuple[int, int]:
    """Compare an image's size with what its annotations were made for.

    Args:
        path: The image.
        declared: (width, height) in the annotation file; None where it declares none.
        report: Counts images that are turned by their EXIF orientation.

    Returns:
        (width, height) of the upright image, pixels.

    Raises:
        ValueError: It cannot be read, or has another size than declared.
    """
    width, height, orientation = read_header(path)
    size, stored = (width, height), (width, height) if orientation < 5 else (height, width)
    if declared is not None and declared != size:
        message = f"{path} is {width}x{height}, but its boxes were made for {declared[0]}x{declared[1]}"
        if declared == stored:
            message += f": EXIF orientation {orientation} turns it; remove the tag if they are of the unturned image"
        raise ValueError(message)
    if orientation > 1:
        confirmed = declared is not None and stored != size
        report.note("image turned by its EXIF orientation" + ("" if confirmed else ", which no declared size confirms"))
    return size


def boxes_array(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """float32 [N, 4], also where there are none."""
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def sample(rng: np.random.Generator, items: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` of ``items``, in random order."""
    return [items[place] for place in rng.permutation(len(items))[:limit]]

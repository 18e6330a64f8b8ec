"""All data sets of a stage as one sequence of records, in an order that the seed and the epoch fix.

A visit decodes one image and packs every conversation about it into one record. Position p of the sequence belongs to
epoch p // len(mixture), so a sampler that counts on past the end moves to the next epoch, on any number of workers and
after any restart, without telling anybody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch.utils.data import Dataset

from ros_gpt4roi.image_file import read_image
from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.qwen3_vl import Qwen3VLConfig
from training.data.augmentation import vary
from training.data.coco import Coco
from training.data.flickr import Flickr
from training.data.llava import Llava
from training.data.record import REFERENCE, Record, RecordError, Round, check_record
from training.data.records import Records
from training.data.refcoco import RefCoco
from training.data.report import Malformed
from training.data.sample import CheckedSamples, Sample, make_sample
from training.data.source import Shared, Source, SourceOptions, boxes_array, parse_options
from training.data.vcr import Vcr
from training.data.visual_genome import VisualGenome

SOURCES: dict[str, type[Source]] = {
    source.kind: source for source in (Coco, RefCoco, Flickr, VisualGenome, Vcr, Llava, Records)
}
Made = TypeVar("Made")
# Keeps the random streams of orders, of visits, of their points and of their looks apart.
_ORDER, _VISIT, _POINTS, _AUGMENTATION = range(4)


class Visit(NamedTuple):
    """Which image of which part is looked at, in which epoch, and for how many-th time in it (from 0)."""

    part: int
    image: int
    epoch: int = 0
    turn: int = 0


@dataclass(frozen=True)
class Part:
    """A source in a mixture. ratio: visits an epoch per image; under 1 a new random share of the images every epoch."""

    source: Source
    ratio: float = 1.0

    @property
    def visits(self) -> int:
        """Visits an epoch."""
        return round(len(self.source) * self.ratio)


class Mixture:
    """A map-style data set for torch's DataLoader: ``mixture[p]`` is a packed Record with its image decoded.

    An image that cannot be read, or whose records break their format, is counted and logged once, and replaced by the
    next position.

    Args:
        parts: The data sets, each with its share.
        seed: Fixes orders and texts.
        malformed_limit: Images that may be unusable, in one process.
        points: Share of the regions that become points.

    Raises:
        RecordError: There is nothing in it; from reading on, more images than the limit are unusable.
    """

    def __init__(self, parts: Sequence[Part], seed: int, malformed_limit: int, points: float = 0.0):
        self.parts = tuple(parts)
        self.seed = seed
        self.points = points
        self.malformed = Malformed(malformed_limit)
        self._bounds = np.cumsum([0, *(part.visits for part in self.parts)])
        self._order: tuple[int, np.ndarray] | None = None
        if not len(self):
            raise RecordError("the mixture yields no records at all")

    def __len__(self) -> int:
        """Visits an epoch."""
        return int(self._bounds[-1])

    def locate(self, position: int) -> Visit:
        """What stands at a position of the endless sequence."""
        epoch, place = divmod(int(position), len(self))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._shuffle(epoch)
        visit = int(self._order[1][place])
        part = int(np.searchsorted(self._bounds, visit, side="right")) - 1
        image, turn = self._image_of(epoch, part, visit - int(self._bounds[part]))
        return Visit(part, image, epoch, turn)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return self._rng(_ORDER, epoch).permutation(len(self)).astype(np.int64)

    def _image_of(self, epoch: int, part: int, visit: int) -> tuple[int, int]:
        """(image, turn): full rounds over the images first, then a random share of them that changes with the epoch."""
        count = len(self.parts[part].source)
        whole, rest = divmod(visit, count)
        if whole < self.parts[part].visits // count:
            return rest, whole
        # An affine walk is a cheap permutation: every worker computes it for itself, without an array per part.
        rng = self._rng(_ORDER, epoch, part)
        step = int(rng.integers(1, count + 1))
        while np.gcd(step, count) != 1:
            step = step % count + 1
        return (int(rng.integers(count)) + rest * step) % count, whole

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, *key]))

    def __getitem__(self, position: int) -> Record:
        return self.read(position, lambda record: record)

    def read(self, position: int, make: Callable[[Record], Made]) -> Made:
        """Make something of the record at a position, or of the next one of which it can be made.

        Args:
            position: In the endless sequence.
            make: Makes it; ValueError where the record is no good for it.

        Raises:
            RecordError: There is none, or more images than the limit are unusable.
        """
        if position < 0:
            raise IndexError(f"position {position}")
        for attempt in range(2 * len(self)):  # so that every image comes up, wherever in its epoch this begins
            visit = self.locate(position + attempt)
            try:
                return make(self.visit(visit))
            except ValueError as error:
                self.skip(visit, error)
        raise RecordError("no record of the mixture can be read")

    def visit(self, visit: Visit) -> Record:
        """Decode an image and pack its records.

        Args:
            visit: Which image, in which epoch.

        Returns:
            The record, its image uint8 RGB [H, W, 3].

        Raises:
            ValueError: It cannot be made; ImageFileError where the image is why, RecordError where the record is.
        """
        source = self.parts[visit.part].source
        pixels = read_image(source.image(visit.image))
        size, indexed = (pixels.shape[1], pixels.shape[0]), source.size(visit.image)
        if size != indexed:
            raise RecordError(f"{source.image(visit.image)} is {size[0]}x{size[1]} now, but was {indexed[0]}x"
                              f"{indexed[1]} when {source.index.folder} was made; remove that folder to index again")
        records = source.records(visit.image, self._rng(_VISIT, *visit))
        record = dataclasses.replace(pack(records), image=pixels)
        if source.augments:
            record = vary(record, self._rng(_AUGMENTATION, *visit))
        return check_record(draw_points(record, self.points, self._rng(_POINTS, *visit)))

    def skip(self, visit: Visit, error: ValueError) -> None:
        """Count the image of a visit that cannot be made, once however often it is visited.

        Args:
            visit: The visit.
            error: What is wrong with it.

        Raises:
            RecordError: More images than the limit are unusable.
        """
        self.malformed.fail(f"{self.parts[visit.part].source.kind} {visit.image}: {error}", (visit.part, visit.image))


class MixtureDataset(CheckedSamples, Dataset):
    """A mixture as training.data.sample.Sample, for transformers' Trainer, which numbers every epoch from 0."""

    def __init__(self, mixture: Mixture, config: ModelConfig | Qwen3VLConfig):
        self.mixture, self.config, self.epoch = mixture, config, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose visits `[0 … len)` are."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> Sample:
        return self.mixture.read(self.epoch * len(self) + index,
                                 partial(make_sample, config=self.config, check=self.check))


def pack(records: Sequence[Record]) -> Record:
    """One record of all conversations about an image: boxes that are equal become one region, texts follow suit."""
    if len(records) == 1:
        return records[0]
    boxes: list[list[float]] = []
    masks: list[np.ndarray | None] = []
    rounds: list[Round] = []
    for record in records:
        numbers = {}
        for number, box in enumerate(record.boxes.tolist(), 1):
            if box not in boxes:
                boxes.append(box)
                masks.append(record.masks[number - 1] if record.masks else None)
            numbers[number] = boxes.index(box) + 1
        rename = _renamer(numbers)
        rounds += [Round(rename(turn.question), rename(turn.answer), turn.task) for turn in record.rounds]
    first, known = records[0], any(mask is not None for mask in masks)
    return Record(first.image, boxes_array(boxes), tuple(rounds), first.source, tuple(masks) if known else ())


def draw_points(record: Record, share: float, rng: np.random.Generator) -> Record:
    """Replace a random share of a record's regions by a point inside them.

    Args:
        record: The record.
        share: Of the regions, 0 to 1.
        rng: Draws the regions and the points: in the mask, else in the middle half of the box, where people click; in
            the image, where a box reaches beyond it.

    Returns:
        The record with its points.
    """
    assert isinstance(record.image, np.ndarray)
    points, size = {}, record.image.shape[1::-1]
    for place in np.flatnonzero(rng.random(len(record.boxes)) < share).tolist():
        low, high = record.boxes[place].reshape(2, 2).astype(float)
        inside = 0.25 + 0.5 * rng.random(2)
        mask = record.masks[place] if record.masks else None
        if mask is not None:
            cells = np.argwhere(mask >= mask.max() / 2)
            inside = ((cells[rng.integers(len(cells))] + rng.random(2)) / mask.shape)[::-1]
        points[place + 1] = tuple((low + inside * (high - low)).clip(low, high).clip(0, size).tolist())
    return dataclasses.replace(record, points=points)


def _renamer(numbers: Mapping[int, int]) -> Callable[[str], str]:
    return lambda text: REFERENCE.sub(lambda match: f"<{match.group(1)}{numbers[int(match.group(2))]}>", text)


def parse_section(section: Mapping[str, Any]) -> tuple[Shared, list[tuple[type[Source], SourceOptions]]]:
    """Check a YAML section without opening anything.

    Args:
        section: As `open_mixture` takes it.

    Returns:
        The options of all sources, and of each its class and its own options.

    Raises:
        RecordError: An option is unknown, missing or wrong.
    """
    values = dict(section)
    listed = values.pop("sources", None)
    shared = parse_options(Shared, values, "mixture")
    if not listed or not isinstance(listed, (list, tuple)):
        raise RecordError("mixture: sources is missing or empty, expected a list of mappings with type and options")
    sources: list[tuple[type[Source], SourceOptions]] = []
    for number, item in enumerate(listed):
        where = f"sources[{number}]"
        if not isinstance(item, Mapping):
            raise RecordError(f"{where} is {item!r}, expected a mapping with type and options")
        options = dict(item)
        kind = options.pop("type", None)
        if kind not in SOURCES:
            raise RecordError(f"{where}: type is {kind!r}, expected one of {', '.join(SOURCES)}")
        sources.append((SOURCES[kind], parse_options(SOURCES[kind].options_type, options, f"{where} ({kind})")))
    return shared, sources


def open_mixture(section: Mapping[str, Any], seed: int) -> Mixture:
    """Make a mixture of a YAML section.

    Args:
        section: The options of `Shared`, and ``sources``, a list of mappings with ``type`` (a key of `SOURCES`)
            and the options of that type.
        seed: Fixes orders and texts.

    Returns:
        The mixture; its data sets are indexed where they were not yet.

    Raises:
        RecordError: An option is unknown or missing, a file cannot be used, or holds nothing that can.
    """
    shared, sources = parse_section(section)
    parts = []
    for number, (source, options) in enumerate(sources):
        opened = source(options, shared)
        if not len(opened):
            files = ", ".join(map(str, opened.inputs()))
            lines = "\n  ".join((f"read {opened.report.read}", *opened.report.lines()))
            raise RecordError(f"sources[{number}] ({source.kind}): nothing in {files} can be used:\n  {lines}")
        parts.append(Part(opened, options.ratio))
    return Mixture(parts, seed, shared.malformed_limit, shared.points)

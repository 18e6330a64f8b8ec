"""COCO detection for stage 1: the question is a bare region token, the answer its category."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from training.data import templates
from training.data.coco_format import corners, locate_image, read_coco, stream
from training.data.record import Record, RecordError, Round, explain
from training.data.report import Report
from training.data.segmentation import segmentation_region
from training.data.source import BoxFilter, Source, boxes_array, sample
from training.data.texts import plain


@dataclass(frozen=True)
class CocoOptions:
    """annotations: an instances_*.json. images: its folders. max_regions: boxes asked about on one visit.

    masks: give each object the mask of its segmentation; its box is then the mask's.
    """

    annotations: Path
    images: tuple[Path, ...]
    max_regions: int = 100
    masks: bool = False
    boxes: BoxFilter = field(default_factory=BoxFilter)


class Coco(Source):
    """Entry: image, boxes, each box's category by its place in the list of names, and its segmentation or null."""

    kind = "coco"
    options_type = CocoOptions

    @property
    def names(self) -> list[str]:
        """Category names, from the file itself: there are always as many as there are labels."""
        return self.report.metadata["names"]

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        options = self.options
        names = categories(options.annotations)
        report.metadata["names"] = unique = list(dict.fromkeys(names.values()))
        label = {number: unique.index(name) for number, name in names.items()}
        groups = read_coco(
            options.annotations, ("file_name",), ("bbox", "category_id"),
            lambda image: image["id"], report,
        )
        for (image,), annotations in groups:
            located = locate_image(image, options, f"coco {image['id']}", report)
            if not located:
                continue
            path, size = located
            boxes, labels, segmentations = [], [], []
            for annotation in annotations:
                box = usable(annotation, size, options.boxes, report, f"coco {image['id']}")
                if box is None:
                    continue
                if annotation["category_id"] not in label:
                    report.fail(f"coco {image['id']}: annotation {annotation['id']} is of category "
                                f"{annotation['category_id']}, which the file does not list")
                    continue
                segmentation = annotation.get("segmentation") if options.masks else None
                if segmentation:
                    try:
                        segmentation_region(segmentation, size)
                    except ValueError as error:
                        report.fail(f"coco {image['id']}: annotation {annotation['id']}: {error}")
                        continue
                elif options.masks:
                    report.note("object without a segmentation, given as a whole box")
                segmentations.append(segmentation or None)
                boxes.append(box)
                labels.append(label[annotation["category_id"]])
            if boxes:
                yield {"id": image["id"], "image": path, "size": size, "boxes": boxes, "labels": labels,
                       "segmentations": segmentations}
            else:
                report.filter("image without boxes")

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry = self.index[position]
        chosen = sample(rng, range(len(entry["boxes"])), self.options.max_regions)
        task = templates.CATEGORY_TASK.format(names=", ".join(self.names))
        rounds = tuple(
            Round(f"{task if number == 1 else ''}<box{number}>", self.names[entry["labels"][place]], "category")
            for number, place in enumerate(chosen, 1)
        )
        boxes: list[Sequence[float]] = []
        masks: list[np.ndarray | None] = []
        for place in chosen:
            box, mask, segmentation = entry["boxes"][place], None, entry["segmentations"][place]
            if segmentation:
                box, mask, _ = segmentation_region(segmentation, self.size(position))
            boxes.append(box)
            masks.append(mask)
        found = tuple(masks) if self.options.masks else ()
        return [Record(entry["image"], boxes_array(boxes), rounds, f"coco {entry['id']}", found)]


def categories(path: Path) -> dict[Any, str]:
    """Read the categories of a COCO file.

    Args:
        path: The file.

    Returns:
        Category id → name, in the file's order. Two ids have one name where an exporter put a root above all classes
        (supercategory "none") that is called like one of them.

    Raises:
        RecordError: There are none, one is malformed, or an id or a name is there twice.
    """
    listed = list(stream(path, "categories.item"))
    parents = {category.get("supercategory") for category in listed if isinstance(category, dict)}
    names: dict[Any, str] = {}
    roots: set[str] = set()
    for category in listed:
        try:
            number, name = category["id"], plain(category["name"], "name")
            known = number in names
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{path}: category {str(category)[:200]}: {explain(error)}") from None
        root = category.get("supercategory") in (None, "none") and name in parents
        if known or (name in names.values() and not root and name not in roots):
            raise RecordError(f"{path}: category {number} {name!r} is there twice")
        roots.update([name] if root else [])
        names[number] = name
    if not names:
        raise RecordError(f"{path}: no categories")
    return names


def usable(
    annotation: dict[str, Any], size: tuple[int, int], boxes: BoxFilter, report: Report, where: str
) -> list[float] | None:
    """The annotation's box, clipped to the image, or None where it is filtered or malformed (both are counted)."""
    if annotation["skip"]:
        report.filter(f"{annotation['skip']} annotation")
        return None
    if annotation.get("area", 1) <= 0:
        report.filter("annotation without area")
        return None
    try:
        return boxes.box(corners(annotation), size, report)
    except ValueError as error:
        report.fail(f"{where}: {error}")
        return None

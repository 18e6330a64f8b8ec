"""COCO detection for stage 1: the question is a bare region token, the answer its category."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from training.data import templates
from training.data.coco_format import read_images, stream, usable_box
from training.data.record import Record, RecordError, Round, explain
from training.data.report import Report
from training.data.segmentation import segmentation_region
from training.data.source import BoxedOptions, Source, boxes_array, sample
from training.data.texts import plain


@dataclass(frozen=True, kw_only=True)
class CocoOptions(BoxedOptions):
    """Options of COCO; its annotations are an instances_*.json."""

    max_regions: int = setting(100, "Boxes asked about on one visit.", at_least=1)
    masks: bool = setting(False, "Give each object the mask of its segmentation; its box is then the mask's.")


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
        for image in read_images("coco", options, ("file_name",), ("bbox", "category_id"), report):
            objects = []
            for annotation in image.annotations:
                with report.item(f"{image.where}: annotation {annotation['id']}"):
                    box = usable_box(annotation, image.size, options.boxes, report)
                    if annotation["category_id"] not in label:
                        raise ValueError(f"is of category {annotation['category_id']}, which the file does not list")
                    segmentation = annotation.get("segmentation") if options.masks else None
                    if segmentation:
                        segmentation_region(segmentation, image.size)
                    elif options.masks:
                        report.note("object without a segmentation, given as a whole box")
                    objects.append((box, label[annotation["category_id"]], segmentation or None))
            if objects:
                boxes, labels, segmentations = zip(*objects)
                yield {"id": image.images[0]["id"], "image": image.path, "size": image.size, "boxes": boxes,
                       "labels": labels, "segmentations": segmentations}
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

"""COCO detection for stage 1: the question is a bare region token, the answer its category."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training.data import templates
from training.data.coco_format import corners, locate_image, read_coco, stream
from training.data.record import Record, RecordError, Round, explain
from training.data.report import Report
from training.data.source import BoxFilter, Source, boxes_array, sample
from training.data.texts import plain


@dataclass(frozen=True)
class CocoOptions:
    """annotations: an instances_*.json. images: its folders. max_regions: boxes asked about on one visit."""

    annotations: Path
    images: tuple[Path, ...]
    max_regions: int = 100
    boxes: BoxFilter = field(default_factory=BoxFilter)


class Coco(Source):
    """Entry: image, boxes, and each box's category by its place in the list of names."""

    kind = "coco"
    options_type = CocoOptions

    @property
    def names(self) -> list[str]:
        """Category names, from the file itself: there are always as many as there are labels."""
        return self.report.metadata["names"]

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
            boxes, labels = [], []
            for annotation in annotations:
                box = usable(annotation, size, options.boxes, report, f"coco {image['id']}")
                if box is None:
                    continue
                if annotation["category_id"] not in label:
                    report.fail(f"coco {image['id']}: annotation {annotation['id']} is of category "
                                f"{annotation['category_id']}, which the file does not list")
                    continue
                boxes.append(box)
                labels.append(label[annotation["category_id"]])
            if boxes:
                yield {"id": image["id"], "image": path, "size": size, "boxes": boxes, "labels": labels}
            else:
                report.filter("image without boxes")

    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry = self.index[position]
        chosen = sample(rng, range(len(entry["boxes"])), self.options.max_regions)
        task = templates.CATEGORY_TASK.format(names=", ".join(self.names))
        rounds = tuple(
            Round(f"{task if number == 1 else ''}<box{number}>", self.names[entry["labels"][place]], "category")
            for number, place in enumerate(chosen, 1)
        )
        boxes = boxes_array([entry["boxes"][place] for place in chosen])
        return [Record(entry["image"], boxes, rounds, f"coco {entry['id']}")]


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

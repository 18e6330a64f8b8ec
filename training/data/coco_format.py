"""Streaming reader of the COCO layout: "images" and "annotations" lists in one JSON file, joined by image id.

COCO, the MDETR files (RefCOCO, Flickr30k) and GRiT's Visual Genome file all have it. The file is never held in memory:
annotations are grouped by image on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ijson

from training.data.record import RecordError
from training.data.report import Report
from training.data.source import find_image
from training.data.grouping import GroupedItems

Item = dict[str, Any]
# What fields hold that are used before anybody looks at them; the others are checked where they are read.
_KINDS: dict[str, tuple[type, ...]] = {
    "id": (int, str), "image_id": (int, str), "category_id": (int, str), "area": (int, float), "file_name": (str,),
    "coco_url": (str,)}


def stream(path: Path, prefix: str) -> Iterator[Any]:
    """The elements of one list of a JSON file, e.g. prefix "annotations.item". Raises RecordError on broken JSON."""
    with Path(path).open("rb") as file:
        try:
            yield from ijson.items(file, prefix, use_float=True)
        except ijson.JSONError as error:
            raise RecordError(f"{path}: not valid JSON: {error}") from error


def read_coco(
    path: Path,
    image_fields: Sequence[str],
    annotation_fields: Sequence[str],
    group: Callable[[Item], Any],
    report: Report,
) -> Iterator[tuple[list[Item], list[Item]]]:
    """Yield (images, their annotations) for each group of images, in the file's order.

    ``group`` maps an image to what it is grouped by: its id, or its file where the file holds one image per sentence.
    Of an annotation the named fields are kept, its id, and under "skip" why it is to be left out, if so. An item
    without one of the fields or with another kind of value, or an annotation of an unknown image, is malformed.
    """
    groups: dict[Any, list[Item]] = {}
    key_of: dict[Any, Any] = {}
    broken: set[Any] = set()
    with GroupedItems() as grouped:
        for image in stream(path, "images.item"):
            report.read += 1
            item = _pick(image, ("id", *image_fields), f"{path}: image", report)
            if item is None:
                if isinstance(image, dict) and isinstance(image.get("id"), _KINDS["id"]):
                    broken.add(image["id"])
                continue
            if item["id"] in key_of:
                report.fail(f"{path}: image {item['id']} is there twice")
                continue
            key = key_of[item["id"]] = group(item)
            groups.setdefault(key, []).append(item)
            grouped.open_group(key)
        for annotation in stream(path, "annotations.item"):
            item = _pick(annotation, ("image_id", *annotation_fields), f"{path}: annotation", report)
            if item is None or item["image_id"] in broken:
                continue
            if item["image_id"] not in key_of:
                report.fail(f"{path}: annotation {annotation.get('id')} is of unknown image {item['image_id']}")
                continue
            item["id"] = annotation.get("id")
            item["skip"] = "ignored" if annotation.get("ignore") else "crowd" if annotation.get("iscrowd") else ""
            grouped.add(key_of[item["image_id"]], item)
        for key, annotations in grouped.groups():
            yield groups[key], annotations


class Sentences(NamedTuple):
    """An image of a file with one entry a sentence. where: its name for messages. size: (width, height), pixels.

    entries: its sentences, with the field "caption". annotations: of all of them.
    """

    where: str
    path: str
    size: tuple[int, int]
    entries: list[Item]
    annotations: list[Item]


def read_sentences(name: str, options: Any, annotation_fields: Sequence[str], report: Report) -> Iterator[Sentences]:
    """The images of a file in the MDETR format that are there and large enough; the others are counted.

    name: of the data set. options: with the fields annotations, images (folders) and boxes (a BoxFilter).
    """
    groups = read_coco(options.annotations, ("file_name", "width", "height", "caption"), annotation_fields,
                       lambda image: image["file_name"], report)
    for entries, annotations in groups:
        where = f"{name} {entries[0]['file_name']}"
        try:
            path, size = find_image(options.images, entries[0]["file_name"]), size_of(entries[0])
        except ValueError as error:
            report.fail(f"{where}: {error}")
            continue
        if options.boxes.image(size, report):
            yield Sentences(where, path, size, entries, annotations)


def _pick(item: Item, fields: Sequence[str], what: str, report: Report) -> Item | None:
    """The ``fields`` of ``item``, or None where one is missing or of another kind."""
    if not isinstance(item, dict):
        report.fail(f"{what} is {str(item)[:80]}, expected an object")
        return None
    missing = [name for name in fields if name not in item]
    if missing:
        report.fail(f"{what} {item.get('id')} has no {', '.join(missing)}")
        return None
    wrong = [name for name in fields if not isinstance(item[name], _KINDS.get(name, (object,)))]
    if wrong:
        report.fail(f"{what} {str(item.get('id'))[:80]}: {wrong[0]} is {str(item[wrong[0]])[:80]!r}")
        return None
    return {name: item[name] for name in fields}


def corners(annotation: Item) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 of an annotation's bbox (x y w h). Raises ValueError where it isn't four numbers."""
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, (int, float)) for value in bbox):
        raise ValueError(f"annotation {annotation.get('id')}: bbox is {bbox!r}, expected four numbers")
    x, y, w, h = bbox
    return x, y, x + w, y + h


def size_of(image: Item) -> tuple[int, int]:
    """(width, height) of an image entry; Flickr's MDETR file writes them as strings. Raises ValueError."""
    try:
        return int(image["width"]), int(image["height"])
    except (TypeError, ValueError):
        raise ValueError(f"image {image['id']}: size {image['width']!r} x {image['height']!r} is no number") from None

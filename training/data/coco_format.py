"""Streaming reader of the COCO layout: "images" and "annotations" lists in one JSON file, joined by image id.

COCO, the MDETR files (RefCOCO, Flickr30k) and GRiT's Visual Genome file all have it. The file is never held in memory:
annotations are grouped by image on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ijson

from training.data.grouping import GroupedItems
from training.data.record import RecordError
from training.data.report import Report
from training.data.source import find_image, image_size

Item = dict[str, Any]
# What fields hold that are used before anybody looks at them; the others are checked where they are read.
_KINDS: dict[str, tuple[type, ...]] = {
    "id": (int, str), "image_id": (int, str), "category_id": (int, str), "area": (int, float), "file_name": (str,),
    "coco_url": (str,)}

# Kept where they are there.
_OPTIONAL = ("width", "height", "area", "segmentation")


def stream(path: Path, prefix: str) -> Iterator[Any]:
    """Read a list of a JSON file without holding the file in memory.

    Args:
        path: The file.
        prefix: Which list, as ijson writes it: "annotations.item".

    Yields:
        Its elements.

    Raises:
        RecordError: It is not valid JSON.
    """
    with Path(path).open("rb") as file:
        try:
            yield from ijson.items(file, prefix, use_float=True)
        except (ijson.JSONError, ValueError, OverflowError) as error:
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
    """Read a file in the MDETR format.

    Args:
        name: Of the data set, for messages.
        options: With the fields annotations, images (folders) and boxes (a BoxFilter).
        annotation_fields: What an annotation must have.
        report: Counts the images that are not yielded.

    Yields:
        The images that are there and large enough.
    """
    groups = read_coco(options.annotations, ("file_name", "caption"), annotation_fields,
                       lambda image: image["file_name"], report)
    for entries, annotations in groups:
        where = f"{name} {entries[0]['file_name']}"
        located = locate_image(entries[0], options, where, report)
        if located:
            yield Sentences(where, *located, entries, annotations)


def locate_image(image: Item, options: Any, where: str, report: Report) -> tuple[str, tuple[int, int]] | None:
    """Find an image entry's file and compare the sizes of both.

    Args:
        image: The entry, with "file_name" and perhaps "width" and "height".
        options: With the fields images (folders) and boxes (a BoxFilter).
        where: What messages call it.
        report: Counts it where it is malformed or filtered.

    Returns:
        Path and (width, height) in pixels; None where the image cannot be used.
    """
    try:
        path = find_image(options.images, image["file_name"])
        size = image_size(path, declared_size(image), report)
    except ValueError as error:
        report.fail(f"{where}: {error}")
        return None
    return (path, size) if options.boxes.image(size, report) else None


def _pick(item: Item, fields: Sequence[str], what: str, report: Report) -> Item | None:
    """The ``fields`` of ``item``, or None where one is missing or of another kind."""
    if not isinstance(item, dict):
        report.fail(f"{what} is {str(item)[:80]}, expected an object")
        return None
    missing = [name for name in fields if item.get(name) is None]
    if missing:
        report.fail(f"{what} {item.get('id')} has no {', '.join(missing)}")
        return None
    found = {name: item[name] for name in (*fields, *_OPTIONAL) if item.get(name) is not None}
    wrong = [name for name, value in found.items() if not isinstance(value, _KINDS.get(name, (object,)))]
    if wrong:
        report.fail(f"{what} {str(item.get('id'))[:80]}: {wrong[0]} is {str(item[wrong[0]])[:80]!r}")
        return None
    return found


def corners(annotation: Item) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 of an annotation's bbox (x y w h). Raises ValueError where it isn't four numbers."""
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, (int, float)) for value in bbox):
        raise ValueError(f"annotation {annotation.get('id')}: bbox is {bbox!r}, expected four numbers")
    x, y, w, h = bbox
    return x, y, x + w, y + h


def declared_size(image: Item) -> tuple[int, int] | None:
    """Read the size of an image entry; Flickr's MDETR file writes it as strings.

    Args:
        image: The entry.

    Returns:
        (width, height) in pixels; None where the entry has none.

    Raises:
        ValueError: They are no numbers.
    """
    width, height = image.get("width"), image.get("height")
    if width is None or height is None:
        return None
    try:
        return int(width), int(height)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"width {width!r} and height {height!r} are no numbers") from None

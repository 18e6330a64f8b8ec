"""Streaming reader of the COCO layout: "images" and "annotations" lists in one JSON file, joined by image id.

COCO, the MDETR files (RefCOCO, Flickr30k) and GRiT's Visual Genome file all have it. The file is never held in memory:
annotations are grouped by image on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.data.grouping import GroupedItems
from training.data.record import Filtered, RecordError
from training.data.report import Report
from training.data.shallow_json import ShallowJson
from training.data.source import BoxFilter, find_image, image_size
from training.errors import training_packages

with training_packages():
    import ijson

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
        RecordError: It is not valid JSON, or nested too deeply.
    """
    with Path(path).open("rb") as file:
        try:
            yield from ijson.items(ShallowJson(file), prefix, use_float=True)
        except (ijson.JSONError, ValueError, OverflowError) as error:
            raise RecordError(f"{path}: not valid JSON: {error}") from error


def read_coco(path: Path, image_fields: Sequence[str], annotation_fields: Sequence[str], report: Report,
              by: str = "id") -> Iterator[tuple[list[Item], list[Item]]]:
    """Yield (images, their annotations) for each group of images, in the file's order.

    ``by`` is what images are grouped by: "id", or "file_name" where the file holds one image per sentence.
    Of an annotation the named fields are kept, its id, and under "skip" why it is to be left out, if so. An item
    without one of the fields or with another kind of value, or an annotation of an unknown image, is malformed.
    """
    groups: dict[Any, list[Item]] = {}
    key_of: dict[Any, Any] = {}
    listed: set[Any] = set()  # those that are malformed, too: their annotations are not so as well
    with GroupedItems() as grouped:
        for image in stream(path, "images.item"):
            report.read += 1
            if isinstance(image, dict) and isinstance(image.get("id"), _KINDS["id"]):
                listed.add(image["id"])
            with report.item(str(path)):
                item = pick(image, ("id", *image_fields), "image")
                if item["id"] in key_of:
                    raise ValueError(f"image {item['id']} is there twice")
                key = key_of[item["id"]] = item[by]
                groups.setdefault(key, []).append(item)
                grouped.open_group(key)
        for annotation in stream(path, "annotations.item"):
            with report.item(str(path)):
                item = pick(annotation, ("image_id", *annotation_fields), "annotation")
                if item["image_id"] not in listed:
                    raise ValueError(f"annotation {annotation.get('id')} is of unknown image {item['image_id']}")
                item["id"] = annotation.get("id")
                item["skip"] = "ignored" if annotation.get("ignore") else "crowd" if annotation.get("iscrowd") else ""
                if item["image_id"] in key_of:
                    grouped.add(key_of[item["image_id"]], item)
        for key, annotations in grouped.groups():
            yield groups[key], annotations


class AnnotatedImage(NamedTuple):
    """A usable image of an annotation file.

    Attributes:
        where: What messages call it.
        path: Its file.
        size: (width, height), pixels.
        images: Its entries among the file's "images": one, or one a sentence.
        annotations: Those of all these entries.
    """

    where: str
    path: str
    size: tuple[int, int]
    images: list[Item]
    annotations: list[Item]


def read_images(name: str, options: Any, image_fields: Sequence[str], annotation_fields: Sequence[str],
                report: Report, by: str = "id") -> Iterator[AnnotatedImage]:
    """Read a file in the COCO layout (see `read_coco`).

    Args:
        name: Of the data set, for messages.
        options: A `BoxedOptions`.
        image_fields: What an image must have.
        annotation_fields: What an annotation must have.
        report: Counts what is not yielded.
        by: The field by which entries of one image are known.

    Yields:
        The images that are there and large enough.
    """
    groups = read_coco(options.annotations, image_fields, annotation_fields, report, by)
    return locate_images(name, options, groups, report, by)


def locate_images(name: str, options: Any, groups: Iterable[tuple[list[Item], list[Item]]], report: Report,
                  by: str = "id") -> Iterator[AnnotatedImage]:
    """Find the files of images and compare the sizes that are declared; see `read_images`."""
    for images, annotations in groups:
        where, found = f"{name} {images[0][by]}", None
        with report.item(where):
            path = find_image(options.images, images[0]["file_name"])
            size = image_size(path, declared_size(images[0]), report)
            options.boxes.check_image(size)
            found = AnnotatedImage(where, path, size, images, annotations)
        if found:
            yield found


def usable_box(annotation: Item, size: tuple[int, int], boxes: BoxFilter, report: Report) -> list[float]:
    """Read an annotation's box.

    Args:
        annotation: With "bbox" (x y w h, pixels), "skip" and perhaps "area".
        size: (width, height) of the image, pixels.
        boxes: Which boxes are used.
        report: Counts boxes that had to be clipped.

    Returns:
        x1 y1 x2 y2 in pixels, inside the image.

    Raises:
        Filtered: It is left out on purpose.
        ValueError: It is malformed.
    """
    if annotation["skip"]:
        raise Filtered(f"{annotation['skip']} annotation")
    if annotation.get("area", 1) <= 0:
        raise Filtered("annotation without area")
    bbox = annotation["bbox"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, (int, float)) for value in bbox):
        raise ValueError(f"bbox is {bbox!r}, expected four numbers")
    x, y, w, h = bbox
    return boxes.box((x, y, x + w, y + h), size, report)


def pick(item: Any, fields: Sequence[str], what: str, id_field: str = "id") -> Item:
    """Keep the named fields of an item, and those of `_OPTIONAL` that it has.

    Args:
        item: An element of an annotation file.
        fields: What it must have.
        what: What messages call it.
        id_field: The field by which they tell it from others.

    Raises:
        ValueError: A field is missing or of another kind.
    """
    if not isinstance(item, dict):
        raise ValueError(f"{what} is {str(item)[:80]}, expected an object")
    name = f"{what} {str(item.get(id_field))[:80]}"
    missing = [field for field in fields if item.get(field) is None]
    if missing:
        raise ValueError(f"{name} has no {', '.join(missing)}")
    found = {field: item[field] for field in (*fields, *_OPTIONAL) if item.get(field) is not None}
    wrong = [field for field, value in found.items() if not isinstance(value, _KINDS.get(field, (object,)))]
    if wrong:
        raise ValueError(f"{name}: {wrong[0]} is {str(item[wrong[0]])[:80]!r}")
    return found


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

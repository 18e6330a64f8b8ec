"""Records to and from a COCO file of instances, which annotation tools and detectors' trainings read and write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.coco import categories
from training.data.coco_format import declared_size, read_coco
from training.data.exchange.pictures import copy_picture, mask_pixels
from training.data.record import Filtered
from training.data.record_file import (
    FILE,
    PictureRecord,
    RecordWriter,
    RegionRecord,
    from_json,
    parts_of,
    read_records,
    to_json,
)
from training.data.report import Report
from training.data.segmentation import segmentation_region
from training.data.source import find_image, image_size


def export_coco(folder: Path, out: Path, report: Report) -> None:
    """Write the named regions of a folder's records as a COCO file; the pictures stay where they are.

    Descriptions, attributes and sources go along in fields of their own, which COCO's readers pass over; conversations
    and judgements have no place there.

    Args:
        folder: With records.jsonl; `file_name` of each image is its path from there.
        out: The file.
        report: Counts what is written and what is left out.

    Raises:
        RecordError: The records cannot be read.
    """
    names: dict[str, int] = {}
    for record in read_records(folder / FILE, Report(0)):
        for region in record.regions:
            if region.name:
                names.setdefault(region.name, len(names) + 1)
    unfinished = out.with_name(out.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write('{"categories": ' + json.dumps([{"id": number, "name": name} for name, number in names.items()],
                                                  ensure_ascii=False))
        for part, items in (("images", _images(folder)), ("annotations", _annotations(folder, names, report))):
            file.write(f', "{part}": [')
            for place, item in enumerate(items):
                file.write((",\n" if place else "\n") + json.dumps(item, ensure_ascii=False))
            file.write("]")
        file.write("}\n")
    unfinished.replace(out)


def _images(folder: Path) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(read_records(folder / FILE, Report(0)), 1):
        yield {"id": number, "file_name": record.file, "width": record.width, "height": record.height}


def _annotations(folder: Path, names: dict[str, int], report: Report) -> Iterator[dict[str, Any]]:
    count = 0
    for number, record in enumerate(read_records(folder / FILE, report), 1):
        report.kept += 1
        for _ in record.conversations:
            report.filter("conversation, which COCO has no place for")
        for region in record.regions:
            item = None
            with report.item(f"{record.file}: region {region.id}"):
                item = _annotation(region, record, names)
            if item is not None:
                count += 1
                report.count("regions")
                if region.judgements:
                    report.note("region whose judgements COCO has no place for")
                yield {"id": count, "image_id": number, **item}


def _annotation(region: RegionRecord, record: PictureRecord, names: dict[str, int]) -> dict[str, Any]:
    if not region.name:
        raise Filtered("region without a name")
    x1, y1, x2, y2 = region.box
    item: dict[str, Any] = {"category_id": names[region.name], "bbox": [x1, y1, x2 - x1, y2 - y1],
                            "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "region_id": region.id}
    if region.mask is not None:
        item["segmentation"] = region.mask
        item["area"] = float(mask_pixels(region.mask, (record.width, record.height)).sum())
    said = {"caption": region.description, "attributes": region.attributes, "source": region.source,
            "score": region.confidence}
    return item | {name: value for name, value in said.items() if value not in ("", {}, None)}


def import_coco(annotations: Path, images: Path, out: Path, report: Report) -> None:
    """Make a folder of pictures and records of a COCO file.

    Args:
        annotations: The file.
        images: Folder of its pictures, which are copied.
        out: Folder to make.
        report: Counts what is read and what is left out.

    Raises:
        RecordError: The file cannot be read, or the folder has records already.
    """
    names = categories(annotations)
    with RecordWriter(out) as writer:
        for (image, *_), found in read_coco(annotations, ("file_name",), ("bbox", "category_id"), report):
            where = f"image {image['id']}"
            with report.item(where):
                path = find_image([images], image["file_name"])
                size = image_size(path, declared_size(image), report)
                regions: list[RegionRecord] = []
                for item in found:
                    with report.item(f"annotation {item['id']}"):
                        regions.append(_region(item, str(len(regions) + 1), names, size))
                file = copy_picture(writer, path, report.kept)
                record = from_json(to_json(PictureRecord(file, *size, tuple(regions), origin={
                    "coco": image["file_name"]})), parts_of(report, where))
                writer.write(record)
                report.kept += 1
                report.count("regions", len(record.regions))


def _region(item: dict[str, Any], name: str, names: dict[Any, str], size: tuple[int, int]) -> RegionRecord:
    if item["skip"]:
        raise Filtered(f"{item['skip']} annotation")
    box = item["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(
            isinstance(side, (int, float)) and math.isfinite(side) for side in box) or min(box[2:]) <= 0:
        raise ValueError(f"bbox is {str(box)[:80]}, expected x, y, width and height")
    if item["category_id"] not in names:
        raise ValueError(f"category {str(item['category_id'])[:80]!r} is unknown")
    x, y, width, height = map(float, box)
    mask = item.get("segmentation") or None
    if mask is not None:
        segmentation_region(mask, size)
    return RegionRecord(name, (x, y, x + width, y + height), mask, names[item["category_id"]], source="coco")

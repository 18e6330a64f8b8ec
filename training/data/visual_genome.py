"""Visual Genome's region descriptions: region_descriptions.json, or the COCO-style file that GRiT prepared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from training.data import templates
from training.data.coco import usable
from training.data.coco_format import locate_image, read_coco, stream
from training.data.record import Record, RecordError, Round
from training.data.report import Report
from training.data.source import BoxFilter, Source, boxes_array, sample
from training.data.texts import plain


@dataclass(frozen=True)
class VisualGenomeOptions:
    """annotations: either file. images: VG_100K and VG_100K_2. max_regions: regions asked about on one visit."""

    annotations: Path
    images: tuple[Path, ...]
    max_regions: int = 15
    boxes: BoxFilter = field(default_factory=BoxFilter)


class VisualGenome(Source):
    """Entry: image and its [box, phrase] pairs."""

    kind = "visual_genome"
    options_type = VisualGenomeOptions

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        for image, annotations in self._groups(report):
            where = f"visual genome {image['id']}"
            located = locate_image(image, self.options, where, report)
            if not located:
                continue
            path, size = located
            pairs = []
            for annotation in annotations:
                try:
                    phrase = plain(annotation["caption"], f"the phrase of region {annotation['id']}")
                except ValueError as error:
                    report.fail(f"{where}: {error}")
                    continue
                box = usable(annotation, size, self.options.boxes, report, where)
                if box is not None:
                    pairs.append([box, phrase])
            if pairs:
                yield {"id": image["id"], "image": path, "size": size, "pairs": pairs}
            else:
                report.filter("image without regions")

    def _groups(self, report: Report) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        path = self.options.annotations
        with path.open("rb") as file:
            start = file.read(64).lstrip()[:1]
        if start == b"{":
            fields = ("file_name",), ("bbox", "caption")
            for (image,), annotations in read_coco(path, *fields, lambda item: item["id"], report):
                yield image, annotations
        elif start == b"[":
            for item in stream(path, "item"):
                report.read += 1
                group = _from_regions(item, report)
                if group:
                    yield group
        else:
            raise RecordError(f"{path}: neither region_descriptions.json nor a COCO-style file")

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry = self.index[position]
        boxes: list[list[float]] = []
        rounds = []
        for box, phrase in sample(rng, entry["pairs"], self.options.max_regions):
            if box not in boxes:
                boxes.append(box)
            name = f"<region{boxes.index(box) + 1}>"
            rounds.append(Round(templates.pick(rng, templates.DESCRIBE_ONE, regions=name), phrase, "description"))
        return [Record(entry["image"], boxes_array(boxes), tuple(rounds), f"visual genome {entry['id']}")]


def _from_regions(item: Any, report: Report) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """One image of region_descriptions.json in the terms of the COCO layout; None where it is malformed."""
    if not isinstance(item, dict) or "id" not in item or not isinstance(item.get("regions"), list):
        report.fail(f"visual genome: {str(item)[:80]} has no id or no list of regions")
        return None
    annotations = []
    for region in item["regions"]:
        if not isinstance(region, dict):
            report.fail(f"visual genome {item['id']}: a region is {str(region)[:80]}, expected an object")
            continue
        missing = [name for name in ("phrase", "x", "y", "width", "height") if name not in region]
        if missing:
            report.fail(f"visual genome {item['id']}: region {region.get('region_id')} has no {', '.join(missing)}")
            continue
        annotations.append({
            "id": region.get("region_id"), "caption": region["phrase"], "skip": "",
            "bbox": [region["x"], region["y"], region["width"], region["height"]],
        })
    return {"id": item["id"], "file_name": f"{item['id']}.jpg"}, annotations

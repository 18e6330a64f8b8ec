"""Visual Genome's region descriptions: region_descriptions.json, or the COCO-style file that GRiT prepared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from training.data import templates
from training.data.coco_format import Item, locate_images, pick, read_coco, stream, usable_box
from training.data.record import Record, RecordError, Round
from training.data.report import Report
from training.data.source import BoxedOptions, Source, boxes_array, sample
from training.data.texts import plain


@dataclass(frozen=True, kw_only=True)
class VisualGenomeOptions(BoxedOptions):
    """Options of Visual Genome; its annotations are either file, its images VG_100K and VG_100K_2."""

    max_regions: int = setting(15, "Regions asked about on one visit.", at_least=1)


class VisualGenome(Source):
    """Entry: image and its [box, phrase] pairs."""

    kind = "visual_genome"
    options_type = VisualGenomeOptions

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        for image in locate_images("visual genome", self.options, self._groups(report), report):
            pairs = []
            for annotation in image.annotations:
                with report.item(f"{image.where}: region {annotation['id']}"):
                    phrase = plain(annotation["caption"], "phrase")
                    pairs.append([usable_box(annotation, image.size, self.options.boxes, report), phrase])
            if pairs:
                yield {"id": image.images[0]["id"], "image": image.path, "size": image.size, "pairs": pairs}
            else:
                report.filter("image without regions")

    def _groups(self, report: Report) -> Iterator[tuple[list[Item], list[Item]]]:
        path = self.options.annotations
        with path.open("rb") as file:
            start = file.read(64).lstrip()[:1]
        if start == b"{":
            yield from read_coco(path, ("file_name",), ("bbox", "caption"), report)
        elif start == b"[":
            for item in stream(path, "item"):
                report.read += 1
                if not isinstance(item, dict) or "id" not in item or not isinstance(item.get("regions"), list):
                    report.fail(f"visual genome: {str(item)[:80]} has no id or no list of regions")
                    continue
                image = {"id": item["id"], "file_name": f"{item['id']}.jpg"}
                yield [image], list(_annotations(item, report))
        else:
            raise RecordError(f"{path}: neither region_descriptions.json nor a COCO-style file")

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry, records = self.index[position], []
        for box, phrase in sample(rng, entry["pairs"], self.options.max_regions):
            question = templates.pick(rng, templates.DESCRIBE_ONE, regions="<region1>")
            records.append(Record(entry["image"], boxes_array([box]), (Round(question, phrase, "description"),),
                                  f"visual genome {entry['id']}"))
        return records


def _annotations(item: Item, report: Report) -> Iterator[Item]:
    """The regions of an image of region_descriptions.json in the terms of the COCO layout."""
    for region in item["regions"]:
        with report.item(f"visual genome {item['id']}"):
            phrase, *bbox = pick(region, ("phrase", "x", "y", "width", "height"), "region", "region_id").values()
            yield {"id": region.get("region_id"), "caption": phrase, "skip": "", "bbox": bbox}

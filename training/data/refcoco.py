"""RefCOCO, RefCOCO+ and RefCOCOg in the MDETR format: one image entry per sentence.

All sentences about an image make one visit. Stage 1 asks for a short expression with a bare region token (RefCOCO: with
positions, RefCOCO+: without), stage 2 for a detailed description of a named region (RefCOCOg).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from training.data import templates
from training.data.coco_format import read_images, usable_box
from training.data.record import Filtered, Record, Round
from training.data.report import Report
from training.data.source import BoxedOptions, Source, boxes_array, sample
from training.data.texts import plain

TASKS = {"refcoco": templates.EXPRESSION_TASK, "refcoco+": templates.APPEARANCE_TASK, "refcocog": ""}


@dataclass(frozen=True, kw_only=True)
class RefCocoOptions(BoxedOptions):
    """Options of RefCOCO; its annotations are a finetune_refcoco*_*.json."""

    dataset: str = setting(dataclasses.MISSING, "Which of them, which decides the question.", choices=TASKS)
    min_words: int = setting(3, "Shorter expressions (\"left\", \"guy\") are left out, as in the release.", at_least=1,
                             unit="words")
    max_regions: int = setting(15, "Expressions asked for on one visit.", at_least=1)


class RefCoco(Source):
    """Entry: image and its [box, sentence] pairs."""

    kind = "refcoco"
    options_type = RefCocoOptions

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        options = self.options
        fields = ("file_name", "caption"), ("bbox",)
        for image in read_images(options.dataset, options, *fields, report, by="file_name"):
            sentences = {}
            for entry in image.images:
                with report.item(f"{image.where}: entry {entry['id']}"):
                    text = plain(entry["caption"], "caption")
                    if len(text.split()) < options.min_words:
                        raise Filtered(f"expression under {options.min_words} words")
                    sentences[entry["id"]] = text
            pairs = []
            for annotation in image.annotations:
                if annotation["image_id"] in sentences:
                    with report.item(f"{image.where}: annotation {annotation['id']}"):
                        box = usable_box(annotation, image.size, options.boxes, report)
                        pairs.append([box, sentences[annotation["image_id"]]])
            if pairs:
                yield {"image": image.path, "size": image.size, "pairs": pairs}
            else:
                report.filter("image without expressions")

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry, records = self.index[position], list[Record]()
        task = TASKS[self.options.dataset]
        for box, text in sample(rng, entry["pairs"], self.options.max_regions):
            if task:
                question = f"{'' if records else task}<box1>"
            else:
                question = templates.pick(rng, templates.DESCRIBE_ONE, regions="<region1>")
            turn = Round(question, text, "expression" if task else "description")
            records.append(Record(entry["image"], boxes_array([box]), (turn,),
                                  f"{self.options.dataset} {entry['image']}"))
        return records

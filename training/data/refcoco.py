"""RefCOCO, RefCOCO+ and RefCOCOg in the MDETR format: one image entry per sentence.

All sentences about an image make one visit. Stage 1 asks for a short expression with a bare region token (RefCOCO: with
positions, RefCOCO+: without), stage 2 for a detailed description of a named region (RefCOCOg).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from training.data import templates
from training.data.coco import usable
from training.data.coco_format import read_sentences
from training.data.record import Record, RecordError, Round
from training.data.report import Report
from training.data.source import BoxFilter, Source, boxes_array, sample
from training.data.texts import plain

TASKS = {"refcoco": templates.EXPRESSION_TASK, "refcoco+": templates.APPEARANCE_TASK, "refcocog": ""}


@dataclass(frozen=True)
class RefCocoOptions:
    """annotations: a finetune_refcoco*_*.json. dataset: refcoco, refcoco+ or refcocog, which decides the question.

    min_words: shorter expressions ("left", "guy") are left out, as in the release.
    """

    annotations: Path
    images: tuple[Path, ...]
    dataset: str
    min_words: int = 3
    max_regions: int = 15
    boxes: BoxFilter = field(default_factory=BoxFilter)

    def __post_init__(self) -> None:
        if self.dataset not in TASKS:
            raise RecordError(f"refcoco: dataset is {self.dataset!r}, expected one of {', '.join(TASKS)}")


class RefCoco(Source):
    """Entry: image and its [box, sentence] pairs."""

    kind = "refcoco"
    options_type = RefCocoOptions

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        options = self.options
        for where, path, size, entries, annotations in read_sentences(options.dataset, options, ("bbox",), report):
            sentences = self._sentences(entries, where, report)
            pairs = []
            for annotation in annotations:
                if annotation["image_id"] not in sentences:
                    continue
                box = usable(annotation, size, options.boxes, report, where)
                if box is not None:
                    pairs.append([box, sentences[annotation["image_id"]]])
            if pairs:
                yield {"image": path, "size": size, "pairs": pairs}
            else:
                report.filter("image without expressions")

    def _sentences(self, entries: list[dict[str, Any]], where: str, report: Report) -> dict[Any, str]:
        sentences = {}
        for image in entries:
            try:
                text = plain(image["caption"], "caption")
            except ValueError as error:
                report.fail(f"{where}, entry {image['id']}: {error}")
                continue
            if len(text.split()) < self.options.min_words:
                report.filter(f"expression under {self.options.min_words} words")
                continue
            sentences[image["id"]] = text
        return sentences

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry = self.index[position]
        task = TASKS[self.options.dataset]
        boxes: list[list[float]] = []
        rounds: list[Round] = []
        for box, text in sample(rng, entry["pairs"], self.options.max_regions):
            if box not in boxes:
                boxes.append(box)
            number = boxes.index(box) + 1
            if task:
                question = f"{task if not rounds else ''}<box{number}>"
            else:
                question = templates.pick(rng, templates.DESCRIBE_ONE, regions=f"<region{number}>")
            rounds.append(Round(question, text, "expression" if task else "description"))
        return [Record(entry["image"], boxes_array(boxes), tuple(rounds), f"{self.options.dataset} {entry['image']}")]

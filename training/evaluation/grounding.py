"""Grounding: of the marked regions, which one does an expression mean?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from training.data.record import Record, Round
from training.data.refcoco import RefCoco, RefCocoOptions
from training.data.source import Shared, boxes_array
from training.data.templates import region_list
from training.evaluation.base import Benchmark, Item, Scores, per_cent

QUESTION = "{regions} are marked in the image. Which of them is this: {expression}? Answer with its name only."
_REGION = re.compile(r"\bregion\s*(\d+)|^\W*(\d+)\W*$", re.IGNORECASE)


def region_said(text: str) -> int | None:
    """The region (1-based) that ``text`` names, None where it names none or several."""
    found = {int(a or b) for a, b in _REGION.findall(text)}
    return found.pop() if len(found) == 1 else None


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.prod(sides.clip(min=0)))
    return both / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def region_scores(right: Sequence[Any] | np.ndarray, texts: Sequence[str]) -> Scores:
    """Accuracy, and the share that names no region, per cent. right: which texts are."""
    unnamed = [region_said(text) is None for text in texts]
    return {"accuracy": per_cent(right), "no region named": per_cent(unnamed)}, np.asarray(right, float)


class RefCocoGrounding(Benchmark):
    """RefCOCO's expressions, with all annotated objects of the image as candidates."""

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path, dataset: str = "refcoco"):
        self.name = f"{dataset}_grounding"
        self.protocol = (f"{dataset}, candidates are the objects of the image that any expression means, at least two; "
                         "right where the named one has IoU ≥ 0.5 with the truth, per cent")
        options = RefCocoOptions(annotations, images=images, dataset=dataset, min_words=1)
        self.source = RefCoco(options, Shared(cache))

    @override
    def items(self) -> Iterator[Item]:
        for entry in self.source.entries():
            boxes = [list(box) for box in dict.fromkeys(tuple(box) for box, _ in entry["pairs"])]
            if len(boxes) < 2:
                continue
            regions = region_list(range(1, len(boxes) + 1))
            for box, expression in entry["pairs"]:
                number = boxes.index(box) + 1
                turn = Round(QUESTION.format(regions=regions, expression=expression), f"<region{number}>", "grounding")
                record = Record(entry["image"], boxes_array(boxes), (turn,), f"{self.name} {entry['image']}")
                yield Item(record, (str(number),), number)

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        right = []
        for item, text in zip(items, texts, strict=True):
            number, boxes = region_said(text), item.record.boxes
            right.append(number is not None and 1 <= number <= len(boxes)
                         and iou(boxes[number - 1], boxes[item.truth - 1]) >= 0.5)
        return region_scores(right, texts)

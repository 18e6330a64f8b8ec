"""Grounding: of the marked regions, which one does an expression mean?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from training.data.record import Record, Round
from training.data.refcoco import RefCoco, RefCocoOptions
from training.data.source import Shared, boxes_array
from training.data.templates import region_list
from training.evaluation.base import Benchmark, Item, Scores

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


def grounding_scores(items: Sequence[Item], texts: Sequence[str]) -> tuple[dict[str, float | None], np.ndarray]:
    """Accuracy (right region, or one that overlaps it with IoU ≥ 0.5), and the share that names no region, per cent.

    An item's first reference is the right region's number.
    """
    right = []
    for item, text in zip(items, texts, strict=True):
        number, boxes = region_said(text), item.record.boxes
        right.append(number is not None and 1 <= number <= len(boxes)
                     and iou(boxes[number - 1], boxes[int(item.references[0]) - 1]) >= 0.5)
    scores = np.asarray(right, float)
    unnamed = [region_said(text) is None for text in texts]
    return {"accuracy": 100 * float(scores.mean()), "no region named": 100 * float(np.mean(unnamed))}, scores


class RefCocoGrounding(Benchmark):
    """RefCOCO's expressions, with all annotated objects of the image as candidates."""

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path, dataset: str = "refcoco"):
        self.name = f"{dataset}_grounding"
        self.protocol = (f"{dataset}, candidates are the objects of the image that any expression means, at least two; "
                         "right where the named one has IoU ≥ 0.5 with the truth, per cent")
        self.source = RefCoco(RefCocoOptions(annotations, images, dataset, min_words=1), Shared(cache))

    @override
    def items(self) -> Iterator[Item]:
        for place in range(len(self.source)):
            entry = self.source.index[place]
            boxes = [list(box) for box in dict.fromkeys(tuple(box) for box, _ in entry["pairs"])]
            if len(boxes) < 2:
                continue
            for box, expression in entry["pairs"]:
                number = boxes.index(box) + 1
                regions = region_list(range(1, len(boxes) + 1))
                turn = Round(QUESTION.format(regions=regions, expression=expression), f"<region{number}>", "grounding")
                record = Record(entry["image"], boxes_array(boxes), (turn,), f"{self.name} {entry['image']}")
                yield Item(record, (str(number),))

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        return grounding_scores(items, texts)

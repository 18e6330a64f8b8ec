"""COCO classification with ground-truth boxes: is the said word the box's category?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from training.data import templates
from training.data.coco import Coco, CocoOptions
from training.data.record import Record, Round
from training.data.source import Shared, boxes_array
from training.evaluation.base import Benchmark, Item, Scores, per_cent
from training.evaluation.semantic import clean


def named(text: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that ``text`` says: as a whole, else the only one, or the longest, that occurs in it.

    "a dining table" says "dining table"; "dog or cat" says neither.
    """
    said = clean(text)
    exact = [name for name in names if clean(name) == said]
    if exact:
        return exact[0]
    padded = f" {said} "
    found = [name for name in names if f" {clean(name)} " in padded]
    # "hot dog" holds "dog", which was not said.
    longest = [name for name in found if not any(name != other and clean(name) in clean(other) for other in found)]
    return longest[0] if len(longest) == 1 else None


def class_scores(truth: Sequence[str], said: Sequence[str | None]) -> tuple[dict[str, float | None], np.ndarray]:
    """Accuracy over boxes and the mean of every class's accuracy, per cent; and which are right."""
    right = np.asarray([a == b for a, b in zip(truth, said, strict=True)], float)
    classes: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(truth, right):
        classes[name].append(value)
    return {
        "accuracy": per_cent(right), "unnamed": per_cent([name is None for name in said]),
        "mean class accuracy": per_cent([np.mean(values) for values in classes.values()]),
    }, right


class CocoClassification(Benchmark):
    """Every box of COCO's validation images by itself, asked as in stage 1."""

    name = "coco_classification"
    protocol = ("COCO val2017, ground-truth boxes without crowds, the category asked for as in stage 1; right where "
                "the answer names exactly the category, per cent of boxes and mean over classes")

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path):
        self.source = Coco(CocoOptions(annotations, images=images), Shared(cache))

    @override
    def items(self) -> Iterator[Item]:
        names = self.source.names
        question = templates.CATEGORY_TASK.format(names=", ".join(names)) + "<box1>"
        for entry in self.source.entries():
            for box, label in zip(entry["boxes"], entry["labels"], strict=True):
                turn = Round(question, names[label], "category")
                yield Item(Record(entry["image"], boxes_array([box]), (turn,), f"coco {entry['id']}"), (names[label],))

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        said = [named(text, self.source.names) for text in texts]
        return class_scores([item.references[0] for item in items], said)

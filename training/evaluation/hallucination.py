"""Yes/no questions about what is and is not in the image (POPE): how often a model says yes to what is not there."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from training.data.coco import Coco, CocoOptions
from training.data.record import Record, RecordError, Round
from training.data.source import Shared, boxes_array, find_image
from training.data.templates import with_article
from training.data.texts import plain
from training.evaluation.base import Benchmark, Item, Scores, per_cent

SAMPLINGS = ("random", "popular", "adversarial")
PER_IMAGE = 3


def yes_or_no(text: str) -> bool | None:
    """Whether ``text`` says yes: by its first sentence, a "no" or "not" in which makes it a no; None for neither."""
    words = re.findall(r"[a-z']+", text.split(".")[0].lower())
    if any(word in ("no", "not") or word.endswith("n't") for word in words):
        return False
    return True if "yes" in words else None


def yes_no_scores(truth: Sequence[bool], said: Sequence[bool | None]) -> tuple[dict[str, float | None], np.ndarray]:
    """Accuracy, precision, recall and F1 of "yes", share of yes, and hallucination rate, per cent.

    The hallucination rate is the share of absent things that were said to be there. An answer that is neither counts
    as wrong, and as no "yes".
    """
    there, yes = np.asarray(truth, bool), np.asarray([answer is True for answer in said])
    right = np.asarray([a == b for a, b in zip(truth, said, strict=True)], float)

    def share(part: np.ndarray, whole: np.ndarray) -> float | None:
        return 100 * float(part.sum() / whole.sum()) if whole.any() else None

    precision, recall = share(there & yes, yes), share(there & yes, there)
    f1 = None
    if precision is not None and recall is not None:
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "accuracy": per_cent(right), "precision": precision, "recall": recall, "F1": f1,
        "yes": per_cent(yes), "hallucination rate": share(~there & yes, ~there),
    }, right


class _YesNo(Benchmark):
    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        truth = [item.references[0] == "yes" for item in items]
        return yes_no_scores(truth, [yes_or_no(text) for text in texts])


class Pope(_YesNo):
    """A POPE file: a JSON line a question, {"image", "text", "label"}."""

    name = "pope"
    protocol = "POPE questions on COCO val2014; accuracy, precision, recall and F1 of yes, share of yes, per cent"

    def __init__(self, annotations: Path, images: tuple[Path, ...]):
        self.annotations, self.images = annotations, images

    @override
    def items(self) -> Iterator[Item]:
        with self.annotations.open("rb") as file:
            for number, line in enumerate(file, 1):
                with self.report.item(f"{self.annotations}:{number}"):
                    item = json.loads(line)
                    if item["label"] not in ("yes", "no"):
                        raise ValueError(f"label is {item['label']!r}, expected yes or no")
                    path, text = find_image(self.images, item["image"]), plain(item["text"], "text")
                    yield _item(path, text, item["label"], self.name)


class CocoPresence(_YesNo):
    """POPE's way of asking, made from COCO boxes: per image three things that are there and three that are not.

    What is not there is drawn at random, or is what COCO shows most often ("popular"), or what most often comes
    together with what is there ("adversarial").
    """

    protocol = ("COCO val2017, three present and three absent categories an image ({sampling} absent ones); accuracy, "
                "precision, recall and F1 of yes, per cent")

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path, sampling: str = "random",
                 seed: int = 0):
        if sampling not in SAMPLINGS:
            raise RecordError(f"sampling is {sampling!r}, expected one of {', '.join(SAMPLINGS)}")
        self.name = f"coco_presence_{sampling}"
        self.protocol = self.protocol.format(sampling=sampling)
        self.source = Coco(CocoOptions(annotations, images=images), Shared(cache))
        self.sampling, self.seed = sampling, seed

    @override
    def items(self) -> Iterator[Item]:
        names = self.source.names
        shown = [sorted(set(entry["labels"])) for entry in self.source.entries()]
        often = Counter(label for labels in shown for label in labels)
        together = np.zeros((len(names), len(names)), np.int64)
        for labels in shown:
            together[np.ix_(labels, labels)] += 1
        for place, labels in enumerate(shown):
            rng = np.random.default_rng([self.seed, place])
            absent = [label for label in range(len(names)) if label not in labels]
            if self.sampling == "random":
                absent = rng.permutation(absent).tolist()
            elif self.sampling == "popular":
                absent.sort(key=lambda label: -often[label])
            else:
                absent.sort(key=(-together[labels].sum(0)).__getitem__)
            present = rng.permutation(labels).tolist()
            count = min(PER_IMAGE, len(present), len(absent))
            path = str(self.source.image(place))
            for label, answer in [*((p, "yes") for p in present[:count]), *((a, "no") for a in absent[:count])]:
                yield _item(path, f"Is there {with_article(names[label])} in the image?", answer, self.name)


def _item(path: str, question: str, answer: str, name: str) -> Item:
    return Item(Record(path, boxes_array([]), (Round(question, answer, "yes_no"),), f"{name} {path}"), (answer,))

"""Multiple choice: VCR's Q→A, QA→R and Q→AR, and Visual-7W's pointing questions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from training.data import templates
from training.data.coco_format import stream
from training.data.record import Record, Round
from training.data.source import Shared, boxes_array, find_image
from training.data.texts import plain
from training.data.vcr import CHOICES, Vcr, VcrOptions
from training.evaluation.base import Benchmark, Item, Scores, per_cent

_BRACKETED = re.compile(r"\(([A-D])\)")
_LEADING = re.compile(r"^\W*([A-D])(?:[).:,]|\s*$)")
_POINT = "{regions} are four areas of the image. {question} Reply with the letter of the right area only.\n{options}"


def chosen(text: str, options: Sequence[str]) -> int | None:
    """Place of the option that ``text`` names: "(C)", "C.", "The answer is (C)", or the option's own words.

    None where it names none, or more than one.
    """
    said = _bare(text)
    places = [place for place, option in enumerate(options) if _bare(option) == said]
    if len(places) == 1:
        return places[0]
    for pattern in (_BRACKETED, _LEADING):
        letters = set(pattern.findall(text))
        if letters:
            return templates.LETTERS.index(letters.pop()) if len(letters) == 1 else None
    return None


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def pair_scores(right: np.ndarray) -> Scores:
    """VCR's three accuracies, per cent, of items that alternate: a question's answer, then its rationale."""
    # A limit may cut a pair; its answer then has no rationale to be counted with.
    answers, rationales = right[0::2], right[1::2]
    both = answers[:len(rationales)] * rationales
    return {"Q→A": per_cent(answers), "QA→R": per_cent(rationales), "Q→AR": per_cent(both)}, right


class VcrChoice(Benchmark):
    """Q→A and QA→R are asked apart; Q→AR counts a question whose answer and rationale are both right.

    Items alternate: a question's answer, then its rationale.
    """

    name = "vcr"
    protocol = ("VCR validation, four choices with letters; Q→A: the answer; QA→R: the rationale, given the right "
                "answer; Q→AR: both right. Accuracy in per cent")

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path):
        self.answers, self.rationales = (
            Vcr(VcrOptions(annotations, images=images, form=form), Shared(cache)) for form in CHOICES)

    @override
    def items(self) -> Iterator[Item]:
        for place in range(len(self.answers)):
            for pair in zip(self.answers.choices(place), self.rationales.choices(place), strict=True):
                for choice in pair:
                    yield Item(choice.record, (choice.record.rounds[-1].answer,), choice)

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        right = [chosen(text, item.truth.options) == item.truth.label for item, text in zip(items, texts)]
        return pair_scores(np.asarray(right, float))


class Visual7W(Benchmark):
    """Pointing questions: four boxes, one of them the answer, in an order that the question's id fixes."""

    name = "visual7w"
    protocol = "Visual-7W pointing, test split: which of four boxes answers the question; accuracy in per cent"

    def __init__(self, annotations: Path, images: tuple[Path, ...], split: str = "test"):
        self.annotations, self.images, self.split = annotations, images, split

    @override
    def items(self) -> Iterator[Item]:
        boxes: dict[int, list[float]] = {}
        for box in stream(self.annotations, "boxes.item"):
            with self.report.item(f"{self.annotations}: a box"):
                boxes[box["box_id"]] = [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
        for image in stream(self.annotations, "images.item"):
            with self.report.item(f"{self.annotations}: an image"):
                for pair in image["qa_pairs"] if image["split"] == self.split else ():
                    with self.report.item(f"visual7w {pair['qa_id']}"):
                        yield self._item(image, pair, boxes)

    def _item(self, image: dict, pair: dict, boxes: dict[int, list[float]]) -> Item:
        candidates = [pair["answer"], *pair["multiple_choices"]]
        if len(candidates) != len(templates.LETTERS):
            raise ValueError(f"{len(candidates)} candidates, expected four")
        order = np.random.default_rng(pair["qa_id"]).permutation(len(candidates))
        label = order.tolist().index(0)
        listing = templates.options_text([f"<region{number}>" for number in range(1, 5)])
        text = _POINT.format(regions=templates.region_list(range(1, 5)),
                             question=plain(pair["question"], "question"), options=listing)
        array = boxes_array([boxes[candidates[place]] for place in order])
        answer = f"({templates.LETTERS[label]})"
        record = Record(find_image(self.images, image["filename"]), array, (Round(text, answer, "pointing"),),
                        f"visual7w {pair['qa_id']}")
        return Item(record, (answer,), label)

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        options = [f"region {number}" for number in range(1, 5)]
        right = np.asarray([chosen(text, options) == item.truth for item, text in zip(items, texts)], float)
        return {"accuracy": per_cent(right)}, right

"""Multiple choice: VCR's Q→A, QA→R and Q→AR, and Visual-7W's pointing questions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from training.data import templates
from training.data.coco_format import stream
from training.data.record import Record, RecordError, Round, explain
from training.data.source import Shared, boxes_array, find_image
from training.data.texts import plain
from training.data.vcr import Choice, Vcr, VcrOptions
from training.evaluation.base import Benchmark, Item, Scores

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


class VcrChoice(Benchmark):
    """Q→A and QA→R are asked apart; Q→AR counts a question whose answer and rationale are both right.

    Items alternate: a question's answer, then its rationale.
    """

    name = "vcr"
    protocol = ("VCR validation, four choices with letters; Q→A: the answer; QA→R: the rationale, given the right "
                "answer; Q→AR: both right. Accuracy in per cent")

    def __init__(self, annotations: Path, images: tuple[Path, ...], cache: Path):
        self.answers, self.rationales = (
            Vcr(VcrOptions(annotations, images, form), Shared(cache)) for form in ("answer", "rationale")
        )
        self._choices: list[Choice] = []

    @override
    def items(self) -> Iterator[Item]:
        self._choices = []
        for place in range(len(self.answers)):
            for pair in zip(self.answers.choices(place), self.rationales.choices(place), strict=True):
                for choice in pair:
                    self._choices.append(choice)
                    yield Item(choice.record, (choice.record.rounds[-1].answer,))

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        right = np.asarray([chosen(text, choice.options) == choice.label for text, choice in zip(texts, self._choices)])
        # A limit may cut a pair; its answer then has no rationale to be counted with.
        answers, rationales = right[0::2], right[1::2]
        both = answers[:len(rationales)] & rationales
        return {
            "Q→A": _per_cent(answers), "QA→R": _per_cent(rationales), "Q→AR": _per_cent(both),
        }, right.astype(float)


class Visual7W(Benchmark):
    """Pointing questions: four boxes, one of them the answer, in an order that the question's id fixes."""

    name = "visual7w"
    protocol = "Visual-7W pointing, test split: which of four boxes answers the question; accuracy in per cent"

    def __init__(self, annotations: Path, images: tuple[Path, ...], split: str = "test"):
        self.annotations, self.images, self.split = Path(annotations), images, split
        self._labels: list[int] = []

    @override
    def items(self) -> Iterator[Item]:
        self._labels = []
        try:
            boxes = {
                box["box_id"]: [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]
                for box in stream(self.annotations, "boxes.item")
            }
            pairs = [(image, pair) for image in stream(self.annotations, "images.item")
                     if image["split"] == self.split for pair in image["qa_pairs"]]
        except (KeyError, TypeError) as error:
            raise RecordError(f"{self.annotations}: an entry {explain(error)}") from error
        for image, pair in pairs:
            yield self._item(image, pair, boxes)

    def _item(self, image: dict, pair: dict, boxes: dict[int, list[float]]) -> Item:
        where = f"visual7w {pair.get('qa_id')}"
        try:
            candidates = [pair["answer"], *pair["multiple_choices"]]
            if len(candidates) != len(templates.LETTERS):
                raise ValueError(f"{len(candidates)} candidates, expected four")
            order = np.random.default_rng(pair["qa_id"]).permutation(len(candidates))
            label = order.tolist().index(0)
            listing = templates.options_text([f"<region{number}>" for number in range(1, 5)])
            text = _POINT.format(regions=templates.region_list(range(1, 5)),
                                 question=plain(pair["question"], "question"), options=listing)
            array = boxes_array([boxes[candidates[place]] for place in order])
            path = find_image(self.images, image["filename"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{where}: {explain(error)}") from error
        answer = f"({templates.LETTERS[label]})"
        self._labels.append(label)
        return Item(Record(path, array, (Round(text, answer, "pointing"),), where), (answer,))

    @override
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        options = [f"region {number}" for number in range(1, 5)]
        right = np.asarray([chosen(text, options) == label for text, label in zip(texts, self._labels)])
        return {"accuracy": _per_cent(right)}, right.astype(float)


def _per_cent(right: np.ndarray) -> float | None:
    return 100 * float(right.mean()) if len(right) else None

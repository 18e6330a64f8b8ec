"""LLaVA-Instruct-150K with boxes from a detector, and yes/no questions about what is and what is not in the image.

Half of the visits introduce the detected regions ("<region1> may feature a dog"), half only show the image. Everything
added to a conversation is made afresh for each visit from the seed and the epoch, so nothing accumulates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from training.data import templates
from training.data.coco_format import stream
from training.data.detections import Detections, load_class_names, load_detections
from training.data.grouping import GroupedItems
from training.data.record import Filtered, Record, RecordError, Round
from training.data.report import Report
from training.data.source import ImagesOptions, Source, boxes_array, find_image, image_names, image_size, sample
from training.data.texts import plain, readable

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}


@dataclass(frozen=True, kw_only=True)
class LlavaOptions(ImagesOptions):
    """Options of LLaVA-Instruct; its annotations are llava_instruct_150k.json.

    The detections that are used have score and min_side; where none has, the best are used.
    """

    detections: Path = setting(dataclasses.MISSING, "Results of a detector for the same images, .json or .npz.")
    class_names: Path | None = setting(None, "Names of the detector's classes where its results have none: a name a "
                                             "line, or the categories of a COCO or LVIS file.")
    score: float = setting(0.3, "Score that a detection exceeds.", at_least=0, at_most=1)
    min_side: float = setting(0.02, "Length that both sides of a detection exceed.", at_least=0, at_most=1,
                              unit="of the image's sides")
    max_regions: int = setting(100, "Most detections of an image.", at_least=1)
    fallback_regions: int = setting(10, "Detections that are used where none has score and sides.", at_least=0)
    box_share: float = setting(0.5, "Share of the visits that introduce regions.", at_least=0, at_most=1)
    per_visit: int = setting(3, "Conversations about one image that make one visit; an image with more makes several.",
                             at_least=1)


class Llava(Source):
    """Entry: image, conversations, and the detections used: normalised boxes and their labels."""

    kind = "llava"
    options_type = LlavaOptions

    @property
    def names(self) -> list[str]:
        """The detector's class names as people write them."""
        return self.report.metadata["names"]

    @override
    def inputs(self) -> list[Path]:
        options = self.options
        return [path for path in (options.annotations, options.detections, options.class_names) if path is not None]

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        options = self.options
        detections = load_detections(options.detections)
        if options.class_names is not None:
            detections = detections.named(load_class_names(options.class_names))
        if not detections.class_names:
            raise RecordError(f"{options.detections} has no class names; give class_names")
        try:
            report.metadata["names"] = [readable(plain(name, "class name")) for name in detections.class_names]
        except ValueError as error:
            raise RecordError(f"{options.class_names or options.detections}: {error}") from error
        places = {name: place for place, name in enumerate(detections.filenames)}
        with GroupedItems() as grouped:
            for number, item in enumerate(stream(options.annotations, "item")):
                report.read += 1
                with report.item(f"llava {item.get('id', number) if isinstance(item, dict) else number}"):
                    if isinstance(item, dict) and item.get("image") is None:
                        raise Filtered("conversation without an image")
                    rounds = conversation(item)
                    image = find_image(options.images, item["image"])
                    size = image_size(image, None, report)
                    place = next((places[name] for name in image_names(item["image"]) if name in places), None)
                    if place is None:
                        raise Filtered("conversation without detector results")
                    grouped.add((image, size, place), rounds)
            for (image, size, place), conversations in grouped.groups():
                boxes, labels = self._choose(detections, place)
                for begin in range(0, len(conversations), options.per_visit):
                    chosen = conversations[begin:begin + options.per_visit]
                    yield {"image": image, "size": size, "conversations": chosen, "boxes": boxes, "labels": labels}

    def _choose(self, detections: Detections, place: int) -> tuple[list[Any], list[int]]:
        options, rows = self.options, detections.rows(place)
        boxes, labels = detections.boxes[rows], detections.labels[rows]
        order = np.argsort(-boxes[:, 4], kind="stable")
        boxes, labels = boxes[order], labels[order]
        boxes[:, :4] = boxes[:, :4].clip(0, 1)
        sides = boxes[:, 2:4] - boxes[:, :2]
        good = (boxes[:, 4] > options.score) & (sides > options.min_side).all(1)
        chosen = np.flatnonzero(good)[:options.max_regions]
        if not len(chosen):
            chosen = np.flatnonzero((sides > 0).all(1))[:options.fallback_regions]
        return boxes[chosen, :4].round(5).tolist(), labels[chosen].tolist()

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry = self.index[position]
        labels = entry["labels"]
        order = sample(rng, entry["conversations"], len(entry["conversations"]))
        rounds = [Round(question, answer, "conversation") for rounds in order for question, answer in rounds]
        boxes = np.zeros((0, 4), np.float32)
        if labels and rng.random() < self.options.box_share:
            boxes = boxes_array(entry["boxes"]) * np.asarray(entry["size"] * 2, np.float32)
            features = ", ".join(
                f"<region{number}> may feature {templates.with_article(self.names[label])}"
                for number, label in enumerate(labels, 1)
            )
            first = rounds[0]
            rounds[0] = Round(f"In the image, {features}.\n{first.question}", first.answer, first.task)
        rounds += yes_no(rng, self.names, sorted(set(labels)))
        return [Record(entry["image"], boxes, tuple(rounds), f"llava {entry['image']}")]


def yes_no(rng: np.random.Generator, names: list[str], seen: list[int]) -> list[Round]:
    """A question about a class that was detected and one about a class that was not, in random order.

    Where nothing (or everything) was detected, only the other question is there.
    """
    unseen = sorted(set(range(len(names))) - set(seen))
    rounds = []
    for pool, wording in ((seen, templates.THERE_IS), (unseen, templates.THERE_IS_NOT)):
        if pool:
            bare = names[int(rng.choice(pool))]
            name = templates.with_article(bare)
            question = templates.pick(rng, templates.IS_THERE, name=name)
            rounds.append(Round(question, templates.pick(rng, wording, name=name, bare=bare), "yes_no"))
    return [rounds[place] for place in rng.permutation(len(rounds))]


def conversation(item: dict[str, Any]) -> list[tuple[str, str]]:
    """Read the conversation of one item.

    Args:
        item: An object of the file.

    Returns:
        [(question, answer), …], `<image>` taken out.

    Raises:
        ValueError: The turns do not alternate, or are no texts.
        KeyError: A field is missing.
    """
    if not isinstance(item, dict):
        raise ValueError(f"{str(item)[:80]}, expected an object")
    turns = item["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"conversations is {str(turns)[:80]}, expected a list of objects")
    if not turns or len(turns) % 2:
        raise ValueError(f"{len(turns)} turns, expected pairs of question and answer")
    rounds = []
    for asked, answered in zip(turns[::2], turns[1::2], strict=True):
        if (ROLES.get(asked["from"]), ROLES.get(answered["from"])) != ("human", "gpt"):
            raise ValueError(f"turns from {asked['from']!r} and {answered['from']!r}, expected human and gpt")
        # Line breaks are part of these answers, so they are kept.
        question = asked["value"].replace("<image>", "").strip() if isinstance(asked["value"], str) else asked["value"]
        plain(question, "question")
        plain(answered["value"], "answer")
        rounds.append((question, answered["value"].strip()))
    return rounds

"""Flickr30k Entities in the MDETR format: a caption that mentions every box, then which words belong to which box.

A phrase may have several boxes and a box several phrases; all of both are kept. Works with the merged and the separate
ground truth alike. Heights and widths are strings in these files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from training.data import templates
from training.data.coco_format import AnnotatedImage, Item, read_images, usable_box
from training.data.record import Filtered, Record, Round
from training.data.report import Report
from training.data.source import BoxedOptions, Source, boxes_array, sample
from training.data.texts import plain


@dataclass(frozen=True, kw_only=True)
class FlickrOptions(BoxedOptions):
    """Options of Flickr30k; its annotations are a final_flickr_*GT_*.json."""

    max_regions: int = setting(150, "Boxes that a caption may have before it is left out.", at_least=1)
    captions: int = setting(5, "Conversations (of an image's five captions) on one visit.", at_least=1)


class Flickr(Source):
    """Entry: image and its captions, each with boxes and, for each box, its phrases."""

    kind = "flickr"
    options_type = FlickrOptions

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        options = self.options
        fields = ("file_name", "caption"), ("bbox", "tokens_positive")
        for image in read_images("flickr", options, *fields, report, by="file_name"):
            captions = []
            for entry in image.images:
                with report.item(f"{image.where}: entry {entry['id']}"):
                    plain(entry["caption"], "caption")
                    own = [item for item in image.annotations if item["image_id"] == entry["id"]]
                    boxes = self._boxes(entry["caption"], own, image, report)
                    if not boxes:
                        raise Filtered("caption without boxes")
                    if len(boxes) > options.max_regions:
                        raise Filtered(f"caption of more than {options.max_regions} boxes")
                    captions.append({"text": " ".join(entry["caption"].split()), "boxes": boxes})
            if captions:
                yield {"image": image.path, "size": image.size, "captions": captions}

    def _boxes(self, caption: str, annotations: list[Item], image: AnnotatedImage, report: Report) -> list[list[Any]]:
        """[box, phrases] for every box of a caption; a box that several annotations name collects their phrases."""
        phrases_of: dict[tuple[float, ...], list[str]] = {}
        for annotation in annotations:
            with report.item(f"{image.where}: annotation {annotation['id']}"):
                box = usable_box(annotation, image.size, self.options.boxes, report)
                found = spans(caption, annotation["tokens_positive"])
                phrases = phrases_of.setdefault(tuple(box), [])
                phrases += [phrase for phrase in found if phrase not in phrases]
        return [[list(box), phrases] for box, phrases in phrases_of.items()]

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry = self.index[position]
        records = []
        for caption in sample(rng, entry["captions"], self.options.captions):
            boxes = sample(rng, caption["boxes"], len(caption["boxes"]))
            numbers = list(range(1, len(boxes) + 1))
            wording = templates.DESCRIBE_MANY if len(boxes) > 1 else templates.DESCRIBE_ONE
            question = templates.pick(rng, wording, regions=templates.region_list(numbers))
            rounds = [Round(question, caption["text"], "caption")]
            for number in sample(rng, numbers, len(numbers)):
                question = templates.pick(rng, templates.WHICH_PHRASE, regions=f"<region{number}>")
                rounds.append(Round(question, ", ".join(boxes[number - 1][1]), "phrase"))
            array = boxes_array([box for box, _ in boxes])
            records.append(Record(entry["image"], array, tuple(rounds), f"flickr {entry['image']}"))
        return records


def spans(caption: str, positions: Any) -> list[str]:
    """The phrases at character ``positions`` [[begin, end], …]. Raises ValueError where one is outside the caption."""
    if not isinstance(positions, list) or not positions:
        raise ValueError(f"tokens_positive is {positions!r}, expected [[begin, end], …]")
    phrases = []
    for span in positions:
        whole = isinstance(span, list) and len(span) == 2 and all(isinstance(end, int) for end in span)
        if not whole or not 0 <= span[0] < span[1] <= len(caption):
            raise ValueError(f"tokens_positive {span!r} is not inside the caption of {len(caption)} characters")
        phrases.append(plain(caption[span[0]:span[1]], f"the phrase at {span}"))
    return phrases

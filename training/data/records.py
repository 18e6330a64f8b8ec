"""Pictures of one's own: the file records.jsonl beside them (see training.data.record_file)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from ros_gpt4roi.configuration import setting
from training.data import templates
from training.data.record import Filtered, Record, Round
from training.data.record_file import MENTION, Conversation, RegionRecord, picture_path, read_records, rejected
from training.data.report import Report
from training.data.segmentation import segmentation_region
from training.data.source import BoxFilter, Source, SourceOptions, boxes_array, image_size, sample
from training.data.texts import plain


@dataclass(frozen=True, kw_only=True)
class RecordsOptions(SourceOptions):
    """Options of pictures of one's own; their annotations are a records.jsonl, and the pictures lie beside it."""

    form: str = setting(dataclasses.MISSING, "names asks for the name of a bare region token, as stage 1 does; texts "
                        "asks for names, attributes and descriptions in words and holds the conversations, as stage 2 "
                        "does; conversations are these alone.", choices=("names", "texts", "conversations"))
    context: bool = setting(False, "Show also the regions about which nothing is said, all in random order, as far as "
                                   "there is room among max_regions.")
    sources: tuple[str, ...] = setting((), "Whose regions and conversations are used, such as person; none named: all.")
    min_confidence: float = setting(0.0, "Confidence below which regions and conversations are left out, where one is "
                                         "given.", at_least=0, at_most=1)
    max_regions: int = setting(15, "Regions asked about on one visit.", at_least=1)
    masks: bool = setting(False, "Give each region its mask, where it has one; its box is then the mask's.")
    augment: bool = setting(False, "Mirror and zoom pictures, move the edges of boxes and change the brightness a "
                                   "little, otherwise at every visit; what speaks of left or right is not mirrored.")
    boxes: BoxFilter = setting(BoxFilter(), "Which boxes and images are large enough.")


class Records(Source):
    """Entry: image, regions, each with its box, mask or null and (task, name of an attribute, text) of what is known.

    Conversations: their rounds, and the places of the regions that they speak of, by id.
    """

    kind = "records"
    options_type = RecordsOptions

    @property
    @override
    def augments(self) -> bool:
        return self.options.augment

    @override
    def scan(self, report: Report) -> Iterator[dict[str, Any]]:
        options = self.options
        for record in read_records(options.annotations, report):
            entry = None
            with report.item(f"record of {record.file[:200]}"):
                path = str(picture_path(options.annotations.parent, record.file))
                size = image_size(path, (record.width, record.height), report)
                options.boxes.check_image(size)
                regions: dict[str, dict[str, Any]] = {}
                for region in record.regions:
                    with report.item(f"{record.file}: region {region.id}"):
                        regions[region.id] = self._region(region, size, report)
                conversations = []
                for number, conversation in enumerate(record.conversations if options.form != "names" else (), 1):
                    with report.item(f"{record.file}: conversation {number}"):
                        conversations.append(self._conversation(conversation, list(regions), report))
                if not conversations and not any(region["texts"] for region in regions.values()):
                    raise Filtered("picture about which nothing is said")
                entry = {"id": record.file, "image": path, "size": size, "regions": list(regions.values()),
                         "conversations": conversations}
            if entry is not None:
                yield entry

    def _region(self, region: RegionRecord, size: tuple[int, int], report: Report) -> dict[str, Any]:
        """A region that conversations may speak of; without texts where its own are not to be used."""
        box, mask = self.options.boxes.box(region.box, size, report), None
        if self.options.masks and region.mask is not None:
            segmentation_region(region.mask, size)
            mask = region.mask
        elif self.options.masks:
            report.note("region without a mask, given as a whole box")
        known = [("name", "", region.name)] if self.options.form != "conversations" else []
        if self.options.form == "texts":
            known += [("attribute", plain(name, "name of an attribute"), value)
                      for name, value in region.attributes.items()]
            if rejected(region.judgements):
                report.filter("description that a person called wrong")
            else:
                known.append(("description", "", region.description))
        texts = [(task, name, plain(text, task)) for task, name, text in known if text]
        if texts and (reason := self._unused(region)):
            report.filter(f"texts of a region {reason}")
            texts = []
        for task, _, _ in texts:
            report.count(f"{task}s of regions")
        return {"box": box, "mask": mask, "texts": texts}

    def _conversation(self, conversation: Conversation, ids: list[str], report: Report) -> dict[str, Any]:
        if rejected(conversation.judgements):
            raise Filtered("conversation that a person called wrong")
        if reason := self._unused(conversation):
            raise Filtered(f"conversation {reason}")
        named = check_conversation(conversation, ids)
        report.count("conversations")
        return {"rounds": conversation.rounds, "regions": {name: ids.index(name) for name in named}}

    def _unused(self, item: RegionRecord | Conversation) -> str:
        """Why the texts of a region or conversation are left out; empty where they are not."""
        if self.options.sources and item.source not in self.options.sources:
            return f"of source {item.source!r}"
        if item.confidence is not None and item.confidence < self.options.min_confidence:
            return "of low confidence"
        return ""

    @override
    def records(self, position: int, rng: np.random.Generator) -> list[Record]:
        entry, options = self.index[position], self.options
        regions, conversations = entry["regions"], entry["conversations"]
        described = [place for place, region in enumerate(regions) if region["texts"]]
        asked = sample(rng, described, options.max_regions)
        conversations = sample(rng, conversations, len(conversations))
        chosen = list(dict.fromkeys(
            [*asked, *(place for talk in conversations for place in sorted(talk["regions"].values()))]))
        if options.context:
            others = [place for place in range(len(regions)) if place not in chosen]
            chosen += sample(rng, others, max(0, options.max_regions - len(chosen)))
            chosen = sample(rng, chosen, len(chosen))
        rounds: list[Round] = []
        for place in asked:
            texts = regions[place]["texts"]
            rounds.append(self._round(chosen.index(place) + 1, texts[int(rng.integers(len(texts)))], rng, not rounds))
        for conversation in conversations:
            numbers = {name: chosen.index(place) + 1 for name, place in conversation["regions"].items()}
            rounds += [Round(_placed(question, numbers), _placed(answer, numbers), "conversation")
                       for question, answer in conversation["rounds"]]
        boxes, masks = [], []
        for place in chosen:
            box, mask = regions[place]["box"], None
            if regions[place]["mask"] is not None:
                box, mask, _ = segmentation_region(regions[place]["mask"], self.size(position))
            boxes.append(box)
            masks.append(mask)
        return [Record(entry["image"], boxes_array(boxes), tuple(rounds), f"records {entry['id']}",
                       tuple(masks) if options.masks else ())]

    def _round(self, number: int, known: tuple[str, str, str], rng: np.random.Generator, first: bool) -> Round:
        task, attribute, text = known
        if self.options.form == "names":
            return Round(f"{templates.NAME_TASK if first else ''}<box{number}>", text, "category")
        named = f"<region{number}>"
        if task == "attribute":
            return Round(templates.pick(rng, templates.ATTRIBUTE_OF_ONE, name=attribute, regions=named), text, task)
        wordings = templates.NAME_ONE if task == "name" else templates.DESCRIBE_ONE
        return Round(templates.pick(rng, wordings, regions=named),
                     templates.with_article(text) if task == "name" else text, task)


def check_conversation(conversation: Conversation, ids: Collection[str]) -> set[str]:
    """Refuse a conversation that cannot be learned from.

    Args:
        conversation: The conversation.
        ids: Of the regions that it may speak of.

    Returns:
        The ids of those that it speaks of.

    Raises:
        ValueError: It speaks of another, or holds a marker that only the prompt builder may write.
    """
    texts = [text for turn in conversation.rounds for text in turn]
    for text in texts:
        plain(text, "question or answer")
    named = {match[1] for text in texts for match in MENTION.finditer(text)}
    if unknown := sorted(named.difference(ids)):
        raise ValueError(f"speaks of region {unknown[0]!r}, which is not there or cannot be used")
    return named


def _placed(text: str, numbers: dict[str, int]) -> str:
    """A text of the file with its regions by their places."""
    return MENTION.sub(lambda match: f"<region{numbers[match[1]]}>", text)

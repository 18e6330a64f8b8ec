"""What a bag says of one frame → regions and conversations of a record."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import cv2
import numpy as np

from ros_gpt4roi.runtime.region_text import RegionText, UnknownRegionError
from ros_gpt4roi.runtime.regions import check_box
from training.data.bags.notes import Note, Notes
from training.data.record import REFERENCE
from training.data.record_file import MOST, Conversation, Judgement, RegionRecord, contradict
from training.data.report import Report
from training.data.segmentation import decode_mask, encode_mask, segmentation_region

_ARTICLE = re.compile(r"^(?:an?|the) ", re.IGNORECASE)
_UNWANTED = re.compile(r"[<>\s]+")


class FrameRegions:
    """The regions of one frame, gathered from several notes.

    Args:
        size: (width, height) of the frame, pixels.
        where: What messages call the frame.
        report: Counts what cannot be used and what contradicts itself.
    """

    def __init__(self, size: tuple[int, int], where: str, report: Report):
        self.regions: dict[str, RegionRecord] = {}
        self._size, self._where, self._report = size, where, report

    def add_boxes(self, note: Note) -> None:
        """Add a detector's boxes; ids that are there twice are told apart ("cup", "cup 2")."""
        for place, found in enumerate(note["regions"], 1):
            name, number = region_id(found["id"]) or str(place), 1
            while (unique := name if number == 1 else f"{name} {number}") in self.regions:
                number += 1
            self._add(unique, found, note["source"], found["score"])

    def add_descriptions(self, note: Note) -> None:
        """Add the model's descriptions to their regions, which are added where no detector's note has them."""
        for place, found in enumerate(note["regions"], 1):
            name = region_id(found["id"]) or str(place)
            if name not in self.regions:
                self._add(name, found, "model", found["confidence"])
            if name in self.regions and found["text"].strip():
                self.regions[name] = dataclasses.replace(
                    self.regions[name], description=plain_text(found["text"]), source="model",
                    confidence=found["confidence"])

    def judge(self, corrections: list[Note]) -> None:
        """Apply what people said about descriptions, the newest last: it decides, and all of it is kept."""
        judged: dict[str, list[Note]] = {}
        for note in sorted(corrections, key=lambda note: note["time"]):
            for place, found in enumerate(note["regions"], 1):
                name = region_id(found["id"]) or str(place)
                if name not in self.regions:
                    self._add(name, found, "person", None)
                if name in self.regions:
                    judged.setdefault(name, []).append(note)
        for name, notes in judged.items():
            self.regions[name] = _judged(self.regions[name], judgements_of(notes, self._report))

    def _add(self, name: str, found: Note, source: str, confidence: float | None) -> None:
        with self._report.item(f"{self._where}: region {name}"):
            x1, y1, x2, y2 = check_box(tuple(found["box"]), *self._size, points=False)
            width, height = self._size
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
            mask = None
            if found.get("mask"):
                with self._report.item(f"{self._where}: mask of region {name}"):
                    mask = _frame_mask(found["mask"], self._size)
            self.regions[name] = RegionRecord(name, box, mask, plain_text(found["name"]), source=source,
                                              confidence=confidence)


def _frame_mask(mask: Any, size: tuple[int, int]) -> Any:
    """A mask in the frame's resolution; a node's may have another."""
    if isinstance(mask, dict) and mask["size"] != [size[1], size[0]]:
        cells = decode_mask(mask).astype(np.uint8)
        mask = encode_mask(cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST))
    segmentation_region(mask, size)
    return mask


def _judged(region: RegionRecord, judgements: tuple[Judgement, ...]) -> RegionRecord:
    newest = judgements[-1]
    region = dataclasses.replace(region, judgements=judgements)
    if newest.wrong and not newest.right:
        return region  # readers leave the description out; a person sees what was said
    text = (newest.right if newest.wrong else newest.said) or region.description
    bare = _ARTICLE.sub("", text)
    # What the detector called it is not what the person said. One word of theirs is a name, more are a description.
    if newest.wrong and bare and " " not in bare:
        name = bare
    else:
        name = region.name if region.name and region.name.lower() in text.lower() else ""
    return dataclasses.replace(region, name=name, description=text, source="person",
                               confidence=1.0)


def frame_conversations(found: dict[str, list[Note]], regions: dict[str, RegionRecord], notes: Notes,
                        report: Report) -> list[Conversation]:
    """Make the conversations about a frame.

    Args:
        found: Its notes, by their kind.
        regions: Its regions, by id.
        notes: Knows the questions.
        report: Counts answers without a question, and contradictions.

    Returns:
        The conversations, as people corrected them. One ends with the first answer that was corrected, because what
        followed spoke of a wrong answer; of one that was called wrong, without saying what is right, the rounds before
        are a conversation of their own.
    """
    text = RegionText(list(regions))
    judged: dict[str, list[Note]] = {}
    for note in sorted((note for note in found.get("correction", ()) if note["kind"] == "answer"),
                       key=lambda note: note["time"]):
        judged.setdefault(note["query"] or f"{note['question']}\n{note['said']}", []).append(note)
    groups: dict[str, list[tuple[Note, str]]] = {}
    for answer in found.get("answer", ()):
        corrections = judged.get(answer["query"], ())
        question = notes.question(answer["query"]) or next(
            (note["question"] for note in corrections if note["question"]), "")
        if not question.strip() or not answer["text"].strip():
            report.filter("answer whose question was not recorded, or without a text")
            continue
        groups.setdefault(answer["conversation"] or answer["query"], []).append((answer, question))
    conversations: list[Conversation] = []
    for answers in groups.values():
        rounds: list[tuple[str, str]] = []
        confidences: list[float] = []
        for place, (answer, question) in enumerate(answers, 1):
            corrections = judged.pop(answer["query"], [])
            newest = corrections[-1] if corrections else None
            said = (with_mentions(question, text), with_mentions(answer["text"], text))
            if newest is None or not newest["wrong"]:
                rounds.append(said)
                confidences += [] if answer["confidence"] is None else [answer["confidence"]]
                if newest is None:
                    continue
            elif rounds and not newest["right"]:
                conversations.append(_conversation(rounds, "model", confidences))
            judgements = judgements_of(corrections, report)
            if not newest["wrong"]:
                conversations.append(Conversation(tuple(rounds), "person", 1.0, judgements))
                rounds, confidences = list(rounds), []
                continue
            source = "person" if newest["right"] else "model"
            right = with_mentions(newest["right"], text) if newest["right"] else said[1]
            conversations.append(Conversation((*rounds, (said[0], right)), source,
                                              1.0 if newest["right"] else answer["confidence"], judgements))
            report.count("rounds behind a corrected answer, left out", len(answers) - place)
            rounds = []
            break
        if rounds and not any(done.rounds == tuple(rounds) for done in conversations):
            conversations.append(_conversation(rounds, "model", confidences))
    for corrections in judged.values():  # of answers that were not recorded
        newest = corrections[-1]
        right = newest["right"] if newest["wrong"] else newest["said"]
        if newest["question"].strip() and right.strip():
            conversations.append(Conversation(
                ((with_mentions(newest["question"], text), with_mentions(right, text)),), "person", 1.0,
                judgements_of(corrections, report)))
    return conversations


def _conversation(rounds: list[tuple[str, str]], source: str, confidences: list[float]) -> Conversation:
    return Conversation(tuple(rounds), source, min(confidences, default=None))


def judgements_of(corrections: list[Note], report: Report) -> tuple[Judgement, ...]:
    """Make judgements of corrections of the same text, the newest last, as many of the newest as a record holds.

    Args:
        corrections: In the order of their times.
        report: Counts contradictions, in which the newest decides.
    """
    found = tuple(Judgement(plain_text(note["said"]), plain_text(note["right"]), note["wrong"], note["who"].strip(),
                            note["time"]) for note in corrections[-MOST:])
    if contradict(found):
        report.note("contradicting corrections, of which the newest decides")
    report.count(f"corrections of the same text before its newest {MOST}", len(corrections) - len(found))
    return found


def region_id(name: str) -> str:
    """An id as records.jsonl can hold it; empty where nothing is left of it."""
    return _UNWANTED.sub(" ", name).strip()[:100].strip()


def plain_text(text: str) -> str:
    """A text without markers that only the prompt builder may write."""
    return re.sub(r"[<>]", "", text).strip()


def with_mentions(text: str, regions: RegionText) -> str:
    """A text with the regions that it speaks of as ``<region ID>``; as it is, where it names one that is not there."""
    text = plain_text(text)
    try:
        marked = regions.to_model(text) if re.search("region", text, re.IGNORECASE) else text
    except UnknownRegionError:
        return text
    return REFERENCE.sub(lambda match: f"<region {regions.ids[int(match[2]) - 1]}>", marked)

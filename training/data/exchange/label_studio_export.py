"""Records to tasks of Label Studio, with the labelling interface that shows them.

Both sides of the exchange agree on the names of the interface's controls: boxes, masks, descriptions and conversations
have one each, and so has every attribute.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from training.data.exchange.brush import encode_brush
from training.data.exchange.pictures import mask_pixels
from training.data.record_file import FILE, Conversation, PictureRecord, RegionRecord, read_records
from training.data.report import Report

IMAGE, BOX, MASK, DESCRIPTION, CONVERSATIONS = "image", "box", "mask", "description", "conversations"
LOCAL_FILES = "/data/local-files/?d="
_MOST_CHOICES = 50  # values of an attribute; one that has more is written as text


@dataclass
class _Labels:
    """What the controls offer, in the order in which it was found."""

    names: dict[str, None] = field(default_factory=dict)
    attributes: dict[str, dict[str, None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reserved = {IMAGE, BOX, MASK, DESCRIPTION, CONVERSATIONS}

    def add(self, region: RegionRecord) -> None:
        if region.name and region.name.isprintable():
            self.names[region.name] = None
        for name, value in region.attributes.items():
            if self.usable(name, value) and len(self.attributes.setdefault(name, {})) <= _MOST_CHOICES:
                self.attributes[name][value] = None

    def usable(self, name: str, value: str) -> bool:
        return name not in self._reserved and bool(value) and f"{name}{value}".isprintable()

    def chosen(self, attribute: str) -> bool:
        return len(self.attributes[attribute]) <= _MOST_CHOICES

    def interface(self) -> bytes:
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true")
        for tag, name in (("RectangleLabels", BOX), ("BrushLabels", MASK)):
            control = ElementTree.SubElement(view, tag, name=name, toName=IMAGE)
            for label in self.names:
                ElementTree.SubElement(control, "Label", value=label)
        texts = {"perRegion": "true", "editable": "true", "maxSubmissions": "1", "displayMode": "region-list"}
        for name, values in {DESCRIPTION: {}, **self.attributes}.items():
            ElementTree.SubElement(view, "Header", value=name)
            if name == DESCRIPTION or not self.chosen(name):
                ElementTree.SubElement(view, "TextArea", {"name": name, "toName": IMAGE, **texts})
                continue
            control = ElementTree.SubElement(view, "Choices", name=name, toName=IMAGE, perRegion="true")
            for value in values:
                ElementTree.SubElement(control, "Choice", value=value)
        ElementTree.SubElement(view, "Header", value="Conversations: lines of Q: and A:")
        ElementTree.SubElement(view, "TextArea", name=CONVERSATIONS, toName=IMAGE, editable="true", rows="4")
        ElementTree.indent(view)
        return ElementTree.tostring(view, encoding="utf-8")


def export_label_studio(folder: Path, out: Path, report: Report) -> None:
    """Write the records of a folder as tasks; the pictures stay where they are.

    What people said of a whole picture becomes its annotation, all else a prediction, which Label Studio shows for
    people to correct. Beside the file, the labelling interface is written to NAME_interface.xml.

    Args:
        folder: With records.jsonl. Label Studio serves its pictures where LOCAL_FILES_DOCUMENT_ROOT is this folder.
        out: The file.
        report: Counts what is written and what is left out.

    Raises:
        RecordError: The records cannot be read.
    """
    labels = _Labels()
    for record in read_records(folder / FILE, Report(0)):
        for region in record.regions:
            labels.add(region)
    unfinished = out.with_name(out.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        for record in read_records(folder / FILE, report):
            task = json.dumps(_task(record, labels, report), ensure_ascii=False)
            file.write((",\n" if report.kept else "[\n") + task)
            report.kept += 1
        file.write("\n]\n" if report.kept else "[]\n")
    out.with_name(f"{out.stem}_interface.xml").write_bytes(labels.interface())
    unfinished.replace(out)


def _task(record: PictureRecord, labels: _Labels, report: Report) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for region in record.regions:
        with report.item(f"{record.file}: region {region.id}"):
            results += _region(region, record, labels, report)
            report.count("regions")
    said = []
    for number, conversation in enumerate(record.conversations, 1):
        with report.item(f"{record.file}: conversation {number}"):
            said.append(_conversation(conversation))
            report.count("conversations")
            if conversation.judgements:
                report.note("conversation whose judgements Label Studio has no place for")
    if said:
        results.append({"id": CONVERSATIONS, "from_name": CONVERSATIONS, "to_name": IMAGE, "type": "textarea",
                        "value": {"text": said}})
        sources = {conversation.source for conversation in record.conversations}
        if len(sources) == 1 and (source := sources.pop()):
            results[-1]["meta"] = {"source": source}
    data: dict[str, Any] = {IMAGE: LOCAL_FILES + quote(record.file)}
    if record.origin:
        data["origin"] = record.origin
    if record.review:
        data["review"] = ", ".join(record.review)
    task: dict[str, Any] = {"data": data, "annotations": [], "predictions": []}
    parts: list[RegionRecord | Conversation] = [*record.regions, *record.conversations]
    if results and all(part.source == "person" for part in parts):
        task["annotations"] = [{"result": results}]
    elif results:
        sure = [part.confidence for part in parts if part.confidence is not None]
        task["predictions"] = [{"model_version": "records", "result": results,
                                "score": sum(sure) / len(sure) if sure else 0.0}]
    return task


def _region(region: RegionRecord, record: PictureRecord, labels: _Labels, report: Report) -> list[dict[str, Any]]:
    size = record.width, record.height
    x1, y1, x2, y2 = np.clip(region.box, 0, (*size, *size)).tolist()  # Label Studio takes 0 to 100 per cent alone
    if x1 >= x2 or y1 >= y2:
        raise ValueError(f"box {list(region.box)} is empty or outside of the picture of {size[0]}x{size[1]}")
    if region.name and region.name not in labels.names:
        raise ValueError(f"name {region.name[:80]!r} has characters that cannot be printed")
    place = {"x": x1 / size[0] * 100, "y": y1 / size[1] * 100, "width": (x2 - x1) / size[0] * 100,
             "height": (y2 - y1) / size[1] * 100, "rotation": 0}
    about = {"to_name": IMAGE, "original_width": size[0], "original_height": size[1], "image_rotation": 0}
    shared = {"id": region.id, **about}
    name = [region.name] if region.name else []
    box: dict[str, Any] = {**shared, "from_name": BOX, "type": "rectanglelabels",
                           "value": {**place, "rectanglelabels": name}}
    if region.source:
        box["meta"] = {"source": region.source}
    if region.confidence is not None:
        box["score"] = region.confidence
    found = [box]
    if region.mask is not None:
        rle = encode_brush(mask_pixels(region.mask, size))
        found.append({**about, "id": f"{region.id}/mask", "parentID": region.id, "from_name": MASK,
                      "type": "brushlabels", "value": {"format": "rle", "rle": rle, "brushlabels": name}})
    if region.description:
        found.append({**shared, "from_name": DESCRIPTION, "type": "textarea",
                      "value": {**place, "text": [region.description]}})
    for attribute, value in region.attributes.items():
        if not labels.usable(attribute, value):
            report.filter("attribute whose name is one of a control, or that is empty or cannot be printed")
            continue
        kind, key = ("choices", "choices") if labels.chosen(attribute) else ("textarea", "text")
        found.append({**shared, "from_name": attribute, "type": kind, "value": {**place, key: [value]}})
    if region.judgements:
        report.note("region whose judgements Label Studio has no place for")
    return found


def _conversation(conversation: Conversation) -> str:
    """Its rounds as lines that begin with Q: and A:."""
    lines = []
    for turn in conversation.rounds:
        for letter, text in zip("QA", turn):
            if any(line.startswith(("Q:", "A:")) for line in text.split("\n")[1:]):
                raise ValueError("a line of a text begins with Q: or A:")
            lines.append(f"{letter}: {text}")
    return "\n".join(lines)

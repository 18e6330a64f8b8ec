"""From bags to a folder of pictures with records.jsonl.

A bag is read twice: first for what is said of its frames (see training.data.bags.notes), then for the frames. Memory
does not grow with the bag.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
from PIL import Image
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as ImageMessage

from ros_gpt4roi.image_file import encode_image, read_header
from ros_gpt4roi.image_messages import MessageImage
from training.data.bags.messages import MessageTypes, read_bag
from training.data.bags.notes import Notes, header_stamp, stamp_text
from training.data.bags.regions import FrameRegions, frame_conversations
from training.data.record import Filtered, RecordError
from training.data.record_file import PictureRecord, RecordWriter, RegionRecord, from_json, parts_of, to_json
from training.data.report import Report

UNMATCHED = "unmatched_corrections.jsonl"
_REMEMBERED = 256  # pictures that a new one is compared with
_SAME_PLACE = 0.8  # IoU from which boxes of two frames are at the same place


@dataclass(frozen=True)
class BagOptions:
    """How bags are read.

    Attributes:
        image_topic: Where the frames are; empty: the topic whose frames have most of what is said.
        slop_s: How far the stamp of boxes may be from their frame's, in seconds.
        similar_bits: Of the 64 bits of two pictures' hashes, how many may differ for the second to be left out.
    """

    image_topic: str = ""
    slop_s: float = 0.05
    similar_bits: int = 4


def convert_bags(bags: list[Path], folder: Path, options: BagOptions, report: Report) -> None:
    """Write the frames of bags and what is said of them.

    Args:
        bags: Folders of bags, or their files.
        folder: Where to; made where it is missing. Corrections of frames that are not there are in `UNMATCHED`.
        options: How bags are read.
        report: Counts what is written and what is left out.

    Raises:
        RecordError: ``folder`` has records already, or no bag has a frame that can be used.
    """
    with RecordWriter(folder) as writer, _private(folder / UNMATCHED).open("w", encoding="utf-8") as unmatched:
        for bag in bags:
            types = MessageTypes()
            with report.item(str(bag)), Notes(bag, types, report, options.image_topic, options.slop_s) as notes:
                _Frames(bag, notes, types, writer, options, report).convert()
                for note in notes.unused_corrections():
                    report.note(f"correction of a frame that is not there, kept in {UNMATCHED}")
                    unmatched.write(json.dumps({"bag": bag.name} | note, ensure_ascii=False) + "\n")
        if not report.kept:
            raise RecordError("no frame of these bags can be used")


def _private(path: Path) -> Path:
    path.touch(mode=0o600)
    return path


class _Frames:
    """The second pass over a bag."""

    def __init__(self, bag: Path, notes: Notes, types: MessageTypes, writer: RecordWriter, options: BagOptions,
                 report: Report):
        self._bag, self._notes, self._types, self._writer = bag, notes, types, writer
        self._options, self._report = options, report
        self._seen: deque[tuple[Any, tuple[RegionRecord, ...]]] = deque(maxlen=_REMEMBERED)
        self._last_stamp = -1

    def convert(self) -> None:
        for topic, data in read_bag(self._bag, Report(10**9), lambda topic: topic.name == self._notes.topic):
            with self._report.item(f"{self._bag.name}: {topic.name}"):
                stamp = header_stamp(data)
                if stamp == self._last_stamp:
                    raise Filtered("second frame of the same stamp")
                self._last_stamp = stamp
                found = self._notes.of_frame(stamp, self._report)
                if self._notes.count and not found:
                    raise Filtered("frame of which nothing is said")
                record = self._convert(self._types.read(topic, data), stamp, found)
                self._writer.write(record)
                self._notes.use(stamp)
                self._report.kept += 1

    def _convert(self, message: Any, stamp: int, found: dict[str, Any]) -> PictureRecord:
        report, where = self._report, f"{self._bag.name}: frame {stamp_text(stamp)}"
        encoded = not hasattr(message, "step")
        pixels = np.asarray(MessageImage(_ros_message(message, encoded)))
        size = pixels.shape[1], pixels.shape[0]
        regions = FrameRegions(size, where, report)
        for note in found.get("boxes", ()):
            regions.add_boxes(note)
        for note in found.get("description", ()):
            regions.add_descriptions(note)
        regions.judge([note for note in found.get("correction", ()) if note["kind"] == "description"])
        kept = tuple(regions.regions.values())
        conversations = frame_conversations(found, regions.regions, self._notes, report)
        self._check_new(pixels, kept, bool(conversations or found.get("correction")))
        content = bytes(message.data) if encoded else b""
        if not content or read_header(content).orientation != 1:  # pictures on disk are turned, frames are not
            content = encode_image(pixels)
        suffix = "png" if content.startswith(b"\x89PNG") else "jpg"
        file = self._writer.add_picture(f"{report.kept:06d}.{suffix}", content)
        record = PictureRecord(file, *size, kept, tuple(conversations), {
            "bag": self._bag.name, "topic": self._notes.topic, "frame_id": str(message.header.frame_id),
            "stamp": stamp_text(stamp)})
        # As its readers take it: a bag's texts may be longer than they do.
        record = from_json(to_json(record), parts_of(report, where))
        report.count("regions", len(record.regions))
        report.count("regions with a description", sum(bool(region.description) for region in record.regions))
        report.count("regions judged by people", sum(bool(region.judgements) for region in record.regions))
        report.count("conversations", len(record.conversations))
        return record

    def _check_new(self, pixels: np.ndarray, regions: tuple[RegionRecord, ...], spoken_of: bool) -> None:
        """Raises Filtered for a picture that is nearly one of the last, unless people asked or said something of it."""
        small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
        code = imagehash.phash(Image.fromarray(small))
        near = any(code - other <= self._options.similar_bits and _same_regions(regions, others)
                   for other, others in self._seen)
        if near and not spoken_of:
            raise Filtered("frame that is nearly the same as one before, with the same regions")
        self._seen.append((code, regions))


def _ros_message(message: Any, encoded: bool) -> ImageMessage | CompressedImage:
    """The same as a message of ROS, which is what the node's own checks read."""
    if encoded:
        made: Any = CompressedImage(format=str(message.format))
    else:
        made = ImageMessage(width=int(message.width), height=int(message.height), step=int(message.step),
                            encoding=str(message.encoding), is_bigendian=int(message.is_bigendian))
    made.data.frombytes(np.ascontiguousarray(message.data))
    return made


def _same_regions(regions: tuple[RegionRecord, ...], others: tuple[RegionRecord, ...]) -> bool:
    return len(regions) == len(others) and all(
        one.name == other.name and _iou(one.box, other.box) >= _SAME_PLACE for one, other in zip(regions, others))


def _iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(across, 0.0) * max(down, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)

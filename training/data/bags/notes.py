"""What a bag says of its frames: boxes, descriptions, answers and corrections, kept on disk until the frames are read.

Every note carries the stamp of the frame that it speaks of. Corrections come seconds after their frame, so a bag is
read twice: once for the notes and the stamps of all frames, then for the frames.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.bags.messages import MessageTypes, Topic, read_bag
from training.data.record import Filtered, RecordError
from training.data.report import Report

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_OURS = "ros_gpt4roi_interfaces/msg/"
_QUERY = f"{_OURS}Query"
_BOXES = ("vision_msgs/msg/Detection2DArray", "yolo_msgs/msg/DetectionArray")
_NOTES = (*_BOXES, *(f"{_OURS}{name}" for name in ("RegionDescriptionArray", "Answer", "Query", "Correction")))
# What this package's node draws and publishes itself.
_OUTPUTS = ("annotated_image", "described_detections")
_MOST_BYTES = 8 << 20  # of a note
_MOST_REGIONS = 1000  # of a frame, as records.jsonl has it

Note = dict[str, Any]


class Notes:
    """The notes of one bag, in a temporary file. A context manager.

    Args:
        bag: The bag; read whole.
        types: Reads its messages.
        report: Counts what cannot be read.
        image_topic: Where the frames are; empty: the topic whose frames have most of the notes, or most frames.
        slop_s: How far the stamp of boxes may be from their frame's, in seconds; other notes carry it exactly.

    Raises:
        RecordError: There is no such bag, or it has no such topic or no frames.
    """

    def __init__(self, bag: Path, types: MessageTypes, report: Report, image_topic: str = "", slop_s: float = 0.05):
        self._file = tempfile.NamedTemporaryFile(suffix=".sqlite")
        self._base = sqlite3.connect(self._file.name)
        self._base.executescript("""
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE frames (topic TEXT, stamp INTEGER, again INTEGER DEFAULT 0, PRIMARY KEY (topic, stamp))
                WITHOUT ROWID;
            CREATE TABLE notes (id INTEGER PRIMARY KEY, kind TEXT, stamp INTEGER, frame INTEGER, used INTEGER DEFAULT 0,
                                json TEXT);
            CREATE TABLE questions (id TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID;""")
        self._read(bag, types, report)
        self._base.execute("CREATE INDEX by_stamp ON notes (stamp)")
        self.topic = self._choose_topic(bag, image_topic)
        self._match(int(slop_s * 1e9))
        self._tell_of_other_clocks(int(slop_s * 1e9), report)
        self.count = int(self._value("SELECT count(*) FROM notes WHERE frame IS NOT NULL"))
        for kind, missing in self._base.execute("SELECT kind, count(*) FROM notes WHERE frame IS NULL AND "
                                                "kind != 'correction' GROUP BY kind"):
            reason = f"{kind} of a frame that was not recorded"
            report.filtered[reason] = report.filtered.get(reason, 0) + missing

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._file.close()

    def _value(self, query: str, *values: Any) -> Any:
        row = self._base.execute(query, values).fetchone()
        return row[0] if row else None

    def _read(self, bag: Path, types: MessageTypes, report: Report) -> None:
        def wanted(topic: Topic) -> bool:
            ours = any(f"/{name}" in topic.name for name in _OUTPUTS)
            return topic.type in (*IMAGES, *_NOTES) and not ours

        last: dict[str, int] = {}
        for topic, data in read_bag(bag, report, wanted):
            report.read += 1
            with report.item(f"{bag.name}: {topic.name}"):
                stamp = 0 if topic.type == _QUERY else header_stamp(data)  # a question need not name its frame
                if topic.type in IMAGES:
                    if last.get(topic.name) != stamp:  # else the same frame, published twice
                        self._base.execute("INSERT INTO frames (topic, stamp) VALUES (?, ?) "
                                           "ON CONFLICT DO UPDATE SET again = 1", (topic.name, stamp))
                    last[topic.name] = stamp
                    continue
                if len(data) > _MOST_BYTES:
                    raise ValueError(f"a message has {len(data)} bytes, expected at most {_MOST_BYTES}")
                message = types.read(topic, data)
                if topic.type == _QUERY:
                    self._base.execute("INSERT OR IGNORE INTO questions VALUES (?, ?)",
                                       (str(message.query_id), str(message.text)))
                    continue
                kind, note = _note(topic, message, report)
                self._base.execute("INSERT INTO notes (kind, stamp, json) VALUES (?, ?, ?)",
                                   (kind, stamp, json.dumps(note)))

    def _choose_topic(self, bag: Path, named: str) -> str:
        topics = dict(self._base.execute(
            "SELECT topic, count(*) + 1000000 * (SELECT count(*) FROM notes JOIN frames AS f ON f.stamp = notes.stamp "
            "WHERE f.topic = frames.topic) FROM frames WHERE topic NOT LIKE '%depth%' GROUP BY topic"))
        if named:
            if not self._value("SELECT count(*) FROM frames WHERE topic = ?", named):
                raise RecordError(f"{bag} has no frames on {named}; those that it has are on "
                                  f"{', '.join(sorted(topics)) or 'no topic'}")
            return named
        if not topics:
            raise RecordError(f"{bag} has no frames: no Image or CompressedImage on any topic")
        # Of a picture that is there twice, the compressed one was what the camera or the recorder made.
        return max(topics, key=lambda topic: (topics[topic], topic.endswith("/compressed"), topic))

    def _match(self, slop: int) -> None:
        """Finds the frame of each note: of the same stamp; of boxes without one, the nearest within the slop."""
        # SQLite takes the other columns of min's row.
        nearest = ("SELECT found FROM (SELECT stamp AS found, min(abs(stamp - notes.stamp)) FROM frames WHERE "
                   "topic = :topic AND stamp BETWEEN notes.stamp - :slop AND notes.stamp + :slop)")
        values = {"topic": self.topic, "slop": slop}
        self._base.execute("UPDATE notes SET frame = stamp WHERE EXISTS "
                           "(SELECT 1 FROM frames WHERE topic = :topic AND stamp = notes.stamp)", values)
        self._base.execute(f"UPDATE notes SET frame = ({nearest}) WHERE frame IS NULL AND kind = 'boxes'", values)
        self._base.execute("CREATE INDEX by_frame ON notes (frame)")

    def _tell_of_other_clocks(self, slop: int, report: Report) -> None:
        """Counts boxes that none of the frames can have: a machine without the others' time, or simulated time."""
        first, last = self._base.execute("SELECT min(stamp), max(stamp) FROM frames WHERE topic = ?",
                                         (self.topic,)).fetchone()
        for begin, count in self._base.execute(
                "SELECT min(stamp), count(*) FROM notes WHERE kind = 'boxes' HAVING max(stamp) < ? OR min(stamp) > ?",
                (first - slop, last + slop)):
            report.count(f"boxes that have another clock than the frames, by {(begin - first) / 1e9:+.3f} s at first",
                         count)

    def of_frame(self, stamp: int, report: Report) -> dict[str, list[Note]]:
        """Give the notes of a frame.

        Args:
            stamp: The frame's, nanoseconds.
            report: Counts boxes beside those that are nearest to the frame.

        Returns:
            Kind ("boxes", "description", "answer", "correction") → its notes in the bag's order; of boxes one alone.

        Raises:
            Filtered: Another frame has the same stamp, so nobody knows which of them is meant.
        """
        if self._value("SELECT again FROM frames WHERE topic = ? AND stamp = ?", self.topic, stamp):
            raise Filtered("frame whose stamp another one has: the clock was set back")
        found: dict[str, list[Note]] = {}
        for kind, text in self._base.execute("SELECT kind, json FROM notes WHERE frame = ? "
                                             "ORDER BY abs(stamp - frame), id", (stamp,)):
            if kind == "boxes" and kind in found:
                report.filter("boxes of a frame that has others nearer to its stamp")
                continue
            found.setdefault(kind, []).append(json.loads(text))
        return found

    def question(self, query_id: str) -> str:
        """Give the question that a query asked; empty where it was not recorded."""
        return str(self._value("SELECT text FROM questions WHERE id = ?", query_id) or "")

    def use(self, stamp: int) -> None:
        """Remember that the notes of a frame went into a record."""
        self._base.execute("UPDATE notes SET used = 1 WHERE frame = ?", (stamp,))

    def unused_corrections(self) -> Iterator[Note]:
        """Yield the corrections that went into no record, each with the stamp of its frame."""
        for stamp, text in self._base.execute("SELECT stamp, json FROM notes WHERE kind = 'correction' AND used = 0"):
            yield {"stamp": stamp_text(stamp)} | json.loads(text)


def header_stamp(data: bytes) -> int:
    """Read the stamp of a serialised message that begins with a header, nanoseconds.

    Raises:
        ValueError: It is too short, or its stamp is zero.
    """
    if len(data) < 12:
        raise ValueError(f"a message has {len(data)} bytes, expected a header")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1:2] == b"\x01" else ">iI", data, 4)
    if not seconds and not nanoseconds:
        raise Filtered("message without a stamp")
    return int(seconds) * 10**9 + int(nanoseconds)


def stamp_text(stamp: int) -> str:
    """Write a stamp in seconds, to the nanosecond."""
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"


def _note(topic: Topic, message: Any, report: Report) -> tuple[str, Note]:
    if topic.type == _BOXES[0]:
        return "boxes", {"source": topic.name, "regions": _first(
            [_detection(found) for found in message.detections[:_MOST_REGIONS]], message.detections, report)}
    if topic.type == _BOXES[1]:
        return "boxes", {"source": topic.name, "regions": _first(
            [_yolo(found) for found in message.detections[:_MOST_REGIONS]], message.detections, report)}
    if topic.type.endswith("RegionDescriptionArray"):
        described = [_region(found.region) | {"text": str(found.text), "confidence": _fraction(found.confidence)}
                     for found in message.descriptions[:_MOST_REGIONS]]
        return "description", {"regions": _first(described, message.descriptions, report)}
    if topic.type.endswith("Answer"):
        if message.status != 0:
            raise Filtered("answer that was refused or cut")
        return "answer", {"query": str(message.query_id), "conversation": str(message.conversation_id),
                          "text": str(message.text), "confidence": _fraction(message.confidence)}
    return "correction", {
        "kind": "answer" if message.kind == 1 else "description",
        "regions": [_region(found) for found in message.regions[:_MOST_REGIONS]],
        "query": str(message.query_id), "question": str(message.question), "said": str(message.said),
        "right": str(message.right).strip(), "wrong": message.verdict == 2, "who": str(message.who),
        "time": message.time.sec + message.time.nanosec / 1e9}


def _first(regions: list[Note], all_of_them: Any, report: Report) -> list[Note]:
    report.count("regions of a frame beyond the first 1000", len(all_of_them) - len(regions))
    return regions


def _detection(found: Any) -> Note:
    name, score = "", 0.0
    for place, result in enumerate(found.results):
        likely = result.hypothesis.score if math.isfinite(result.hypothesis.score) else 0.0
        if place == 0 or likely > score:
            name, score = str(result.hypothesis.class_id), float(likely)
    return {"id": str(found.id), "name": name, "score": _fraction(score) if found.results else None,
            "box": _box(found.bbox.center, found.bbox.size_x, found.bbox.size_y)}


def _yolo(found: Any) -> Note:
    outline = [value for point in found.mask.data for value in (float(point.x), float(point.y))]
    return {"id": str(found.id), "name": str(found.class_name), "score": _fraction(found.score),
            "box": _box(found.bbox.center, found.bbox.size.x, found.bbox.size.y),
            "mask": [outline] if len(outline) >= 6 else None}


def _region(found: Any) -> Note:
    # Bags of earlier versions have no masks.
    mask = getattr(found, "mask", None)
    value: Any = None
    if mask is not None and len(mask.polygons):
        value = [[float(side) for point in polygon.points for side in (point.x, point.y)] for polygon in mask.polygons]
    elif mask is not None and len(mask.counts):
        value = {"size": [int(mask.height), int(mask.width)], "counts": [int(count) for count in mask.counts]}
    return {"id": str(found.id), "name": str(found.label), "score": _fraction(found.score) if found.label else None,
            "box": _box(found.bbox.center, found.bbox.size_x, found.bbox.size_y), "mask": value}


def _box(center: Any, width: float, height: float) -> list[float]:
    """The upright box around a box that may be turned; no numbers where it is none."""
    if not math.isfinite(center.theta):
        return [math.nan] * 4
    cosine, sine = abs(math.cos(center.theta)), abs(math.sin(center.theta))
    across, down = width * cosine + height * sine, width * sine + height * cosine
    x, y = center.position.x, center.position.y
    return [float(value) for value in (x - across / 2, y - down / 2, x + across / 2, y + down / 2)]


def _fraction(value: float) -> float | None:
    return float(value) if 0 <= value <= 1 else None

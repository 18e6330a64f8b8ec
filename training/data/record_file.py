"""records.jsonl, the file of one's own pictures: read and written here alone. docs/your_data.md describes it.

Each line is a picture that lies in the file's folder, with its regions and the conversations about it. Files of any
length are read and written line by line.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from ros_gpt4roi.image_file import picture_path as picture_path
from ros_gpt4roi.regular_file import open_regular
from training.data.record import Filtered, RecordError, explain
from training.data.report import Report

FILE = "records.jsonl"
MENTION = re.compile(r"<region ([^<>]{1,100})>")
_HALF = re.compile("[\ud800-\udfff]")  # of a character

_LINE_BYTES = 8 << 20  # with the masks of some hundred regions
MOST = 1000  # of anything that is listed
FARTHEST = 1e6  # pixels of a box, from the picture's corner
_TEXT = 20_000  # characters

Json = dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """What a person said about a text: the message Correction of ros_gpt4roi_interfaces.

    Attributes:
        said: The text that was judged.
        right: What would have been right; empty where the text was, or where the person did not say.
        wrong: Whether it was wrong.
        who: The person's name; may be empty.
        time: When, in seconds since 1970, UTC.
    """

    said: str = ""
    right: str = ""
    wrong: bool = False
    who: str = ""
    time: float = 0.0


def rejected(judgements: tuple[Judgement, ...]) -> bool:
    """Whether a text is known to be wrong and nobody said what is right; its texts are nothing to learn from."""
    return bool(judgements) and judgements[-1].wrong and not judgements[-1].right


def contradict(judgements: tuple[Judgement, ...]) -> bool:
    """Whether judgements of the same text do not agree on what is right."""
    return len({(judged.right if judged.wrong else judged.said).lower() for judged in judgements}) > 1


@dataclass(frozen=True)
class RegionRecord:
    """A region of a picture. What is not known is empty.

    Attributes:
        id: Its name, unique in the picture; holds no < or >.
        box: x1 y1 x2 y2, pixels of the picture.
        mask: A segmentation as COCO has it (see `segmentation_region`), or None: all of the box.
        name: What it is, in a word or two: "valve".
        attributes: Such as {"colour": "red"}.
        description: A sentence about it.
        source: Who says so: "person", "model", or a detector's topic.
        confidence: Of the source, 0 to 1; None where it does not say.
        judgements: What people said about its texts, the newest last.
    """

    id: str
    box: tuple[float, float, float, float]
    mask: Any = None
    name: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    description: str = ""
    source: str = ""
    confidence: float | None = None
    judgements: tuple[Judgement, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Questions about a picture and their answers. Both speak of a region as ``<region ID>``.

    Attributes:
        rounds: (question, answer), in their order.
        source: Who answered: "person" or "model".
        confidence: Of the source, 0 to 1; None where it does not say.
        judgements: What people said about its answers, the newest last.
    """

    rounds: tuple[tuple[str, str], ...]
    source: str = ""
    confidence: float | None = None
    judgements: tuple[Judgement, ...] = ()


@dataclass(frozen=True)
class PictureRecord:
    """A picture with what is known of it: one line of the file.

    Attributes:
        file: Its path from the folder of the file, with "/" between parts.
        width: Columns of the upright picture, pixels.
        height: Rows, pixels.
        regions: Its regions.
        conversations: About it.
        origin: Where it comes from, such as the bag, the topic and the stamp.
        review: Why a person should look at it, such as "low confidence".
    """

    file: str
    width: int
    height: int
    regions: tuple[RegionRecord, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    origin: dict[str, str] = field(default_factory=dict)
    review: tuple[str, ...] = ()


class RecordWriter:
    """Writes a new folder of pictures with its file. A context manager; the file has its name once it is whole.

    Args:
        folder: Where to; made where it is missing.

    Raises:
        RecordError: The folder has such a file already.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        if (folder / FILE).exists():
            raise RecordError(f"{folder / FILE} exists already; name another folder")
        self._unfinished = folder / f"{FILE}.unfinished"

    def __enter__(self) -> RecordWriter:
        # What a robot saw of people's homes is its owner's alone, as the recorder's bags are.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._unfinished.touch(mode=0o600)
        self._file = self._unfinished.open("w", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._unfinished.replace(self.folder / FILE)

    def add_picture(self, name: str, content: bytes) -> str:
        """Write a picture's file, as it is.

        Args:
            name: Of the file, without a folder.
            content: What it holds.

        Returns:
            What `PictureRecord.file` is to be.
        """
        (self.folder / "images").mkdir(exist_ok=True, mode=0o700)
        (self.folder / "images" / name).write_bytes(content)
        return f"images/{name}"

    def write(self, record: PictureRecord) -> None:
        """Append a record. Raises ValueError where its line is longer than readers take."""
        line = record_line(record)
        if (size := len(line.encode())) > _LINE_BYTES:
            raise ValueError(f"its line has {size} bytes, expected at most {_LINE_BYTES}")
        self._file.write(line)


def read_records(path: Path, report: Report) -> Iterator[PictureRecord]:
    """Read the records of a file; arguments and errors as of `read_lines`."""
    return (record for _, record in read_lines(path, report) if record is not None)


def read_lines(path: Path, report: Report) -> Iterator[tuple[bytes | None, PictureRecord | None]]:
    """Read a file of records line by line; a line that is none is counted as malformed and costs only itself.

    Args:
        path: The file.
        report: Counts what is read and what is not yielded.

    Yields:
        Each line as it is, None where it is too long, and its record, None where it has none that is to be used.
        Whether the pictures are there is not looked at (see `picture_path`).

    Raises:
        RecordError: The file cannot be read, or too much of it is malformed.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        for number, line in enumerate(_lines(file), 1):
            if line is not None and not line.strip():
                continue
            report.read += 1
            record = None
            with report.item(f"{path.name} line {number}"):
                if line is None:
                    raise ValueError(f"it has more than {_LINE_BYTES} bytes")
                record = from_json(json.loads(line), parts_of(report, f"{path.name} line {number}"))
            yield line, record


def rewrite_records(folder: Path, change: Callable[[int, PictureRecord], PictureRecord]) -> None:
    """Change the records of a folder; its file is replaced once the new one is whole.

    Args:
        folder: With records.jsonl.
        change: Takes a record's place, from 0, and the record; gives the one to write.

    Raises:
        RecordError: The file cannot be read, or a record in it is malformed: it would be lost.
    """
    unfinished = folder / f"{FILE}.unfinished"
    with unfinished.open("w", encoding="utf-8") as file:
        shutil.copymode(folder / FILE, unfinished)
        for place, record in enumerate(read_records(folder / FILE, Report(0))):
            file.write(record_line(change(place, record)))
    unfinished.replace(folder / FILE)


def record_line(record: PictureRecord) -> str:
    """Write a record as its line of the file."""
    return json.dumps(to_json(record), ensure_ascii=False, separators=(",", ":")) + "\n"


def parts_of(report: Report, where: str) -> Callable[[str], AbstractContextManager[None]]:
    """What `from_json` takes to leave out, and count in a report, each part of a record that cannot be read."""
    return lambda part: report.item(f"{where}: {part}")


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines, None for one that is too long."""
    while line := file.readline(_LINE_BYTES + 1):
        if len(line) > _LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None
        else:
            yield line


def to_json(record: PictureRecord) -> Json:
    """Make the JSON object of a record; what is not known is left out."""
    return _without_empty(record) | {"regions": [_without_empty(region) for region in record.regions]}


def _without_empty(item: Any) -> Any:
    if isinstance(item, tuple):
        return [_without_empty(part) for part in item]
    if not hasattr(item, "__dataclass_fields__"):
        return item
    values = {known.name: getattr(item, known.name) for known in fields(item)}
    return {name: _without_empty(value) for name, value in values.items() if value not in (None, "", (), {})}


def from_json(item: Any, part: Callable[[str], AbstractContextManager[None]]) -> PictureRecord:
    """Read the JSON object of a record. Fields that are not known are left out.

    Args:
        item: The object.
        part: Called with the name of each region or conversation; gives a context in which it is read, which decides
            what its errors cost.

    Raises:
        ValueError: It is none.
        KeyError: A field is missing.
    """
    known = _object(item, "record")
    width, height = (_number(known[side], side) for side in ("width", "height"))
    if not width.is_integer() or not height.is_integer() or min(width, height) < 1:
        raise ValueError(f"width {width:g} and height {height:g} are no size in pixels")
    regions: dict[str, RegionRecord] = {}
    for place, value in enumerate(_list(known.get("regions"), "regions"), 1):
        with part(f"region {place}"):
            region = _region(_object(value, "region"), str(place))
            if region.id in regions:
                raise ValueError(f"id {region.id!r} is there twice")
            regions[region.id] = region
    conversations = []
    for place, value in enumerate(_list(known.get("conversations"), "conversations"), 1):
        with part(f"conversation {place}"):
            conversations.append(_conversation(_object(value, "conversation")))
    return PictureRecord(_text(known["file"], "file", needed=True), int(width), int(height), tuple(regions.values()),
                         tuple(conversations), _texts(known.get("origin"), "origin"),
                         tuple(_text(reason, "review") for reason in _list(known.get("review"), "review")))


def parse_record(item: Any) -> PictureRecord:
    """Read the JSON object of a record of which every part has to be sound.

    Raises:
        ValueError: It is none, or a part of it is malformed.
    """
    @contextmanager
    def part(name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError) as error:
            raise ValueError(f"{name}: {explain(error)}") from error

    return from_json(item, part)


def _region(item: Json, place: str) -> RegionRecord:
    box = _list(item["box"], "box")
    if len(box) != 4:
        raise ValueError(f"box is {str(box)[:80]}, expected [x1, y1, x2, y2]")
    name = _text(item.get("id"), "id") or place
    if not MENTION.fullmatch(f"<region {name}>"):
        raise ValueError(f"id is {name[:120]!r}, expected up to 100 characters without < and >")
    x1, y1, x2, y2 = (_number(value, "box") for value in box)
    if max(map(abs, (x1, y1, x2, y2))) > FARTHEST:
        raise ValueError(f"box is {[x1, y1, x2, y2]}, expected pixels")
    return RegionRecord(
        name, (x1, y1, x2, y2), _mask(item.get("mask")), _text(item.get("name"), "name"),
        _texts(item.get("attributes"), "attributes"), _text(item.get("description"), "description"), **_said_by(item))


def _mask(value: Any) -> Any:
    """A mask that is written as one; whether it fits its picture is looked at where it is used."""
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(part, list) for part in value):
        return [[_number(number, "mask") for number in part] for part in value]
    size, counts = (value.get(name) for name in ("size", "counts")) if isinstance(value, dict) else (None, None)
    if not isinstance(size, list) or len(size) != 2 or not (isinstance(counts, str) and counts.isascii()
                                                            or _are_lengths(counts)) or not _are_lengths(size):
        raise ValueError(f"mask is {str(value)[:80]}, expected polygons [[x, y, …], …] or run lengths")
    return {"size": size, "counts": counts}


def _are_lengths(value: Any) -> bool:
    return isinstance(value, list) and all(type(length) is int and 0 <= length < 2**31 for length in value)


def _conversation(item: Json) -> Conversation:
    rounds = []
    for turn in _list(item["rounds"], "rounds"):
        if not isinstance(turn, list) or len(turn) != 2:
            raise ValueError(f"round is {str(turn)[:80]}, expected [question, answer]")
        question, answer = turn
        rounds.append((_text(question, "question", needed=True), _text(answer, "answer", needed=True)))
    if not rounds:
        raise Filtered("conversation without rounds")
    return Conversation(tuple(rounds), **_said_by(item))


def _said_by(item: Json) -> Json:
    confidence = item.get("confidence")
    if confidence is not None and not 0 <= (confidence := _number(confidence, "confidence")) <= 1:
        raise ValueError(f"confidence is {confidence:g}, expected 0 to 1")
    judgements = []
    for value in _list(item.get("judgements"), "judgements"):
        judged = _object(value, "judgement")
        judgements.append(Judgement(
            _text(judged.get("said"), "said"), _text(judged.get("right"), "right"), judged.get("wrong") is True,
            _text(judged.get("who"), "who"), _number(judged.get("time", 0), "time")))
    return {"source": _text(item.get("source"), "source"), "confidence": confidence, "judgements": tuple(judgements)}


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {str(value)[:80]}, expected an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MOST:
        shown = f"a list of {len(value)}" if isinstance(value, list) else str(value)[:80]
        raise ValueError(f"{what} is {shown}, expected a list of at most {MOST}")
    return value


def _text(value: Any, what: str, needed: bool = False) -> str:
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or len(value) > _TEXT or (needed and not value.strip()):
        raise ValueError(f"{what} is {str(value)[:80]!r}, expected text of at most {_TEXT} characters")
    if _HALF.search(value):  # which JSON may hold, but no file of UTF-8
        raise ValueError(f"{what} is {value[:80]!r}, which has half a character")
    return value.strip()


def _texts(value: Any, what: str) -> dict[str, str]:
    found = {} if value is None else _object(value, what)
    if len(found) > MOST:
        raise ValueError(f"{what} has {len(found)} entries, expected at most {MOST}")
    return {_text(name, what): _text(text, f"{what}.{name[:40]}") for name, text in found.items()}


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"{what} is {str(value)[:80]}, expected a number")
    return float(value)

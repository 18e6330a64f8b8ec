"""The messages of a bag, mcap or sqlite3, in the order of its files, as far as they can be read.

A bag that was cut short is read up to there: mcap files record by record, without the index at their end, and either
kind without metadata.yaml. What is compressed is bounded before it is decompressed.
"""

from __future__ import annotations

import dataclasses
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import lz4.frame
import zstandard
from mcap.exceptions import EndOfFile
from mcap.records import Channel as McapChannel
from mcap.records import Chunk, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from ros_gpt4roi.paths import find
from ros_gpt4roi.regular_file import open_regular
from training.data.bags.yolo_definitions import YOLO_MSGS
from training.data.record import RecordError
from training.data.report import Report

_MOST_BYTES = 256 << 20  # of a record or chunk: an 8K picture of four bytes a pixel has 133 MB
_MOST_DEFINITION = 1 << 20


class Topic(NamedTuple):
    """A topic of a bag.

    Attributes:
        name: Such as "/image".
        type: Such as "sensor_msgs/msg/Image".
        definition: Of the message type, as the bag has it; empty where it has none.
        encoding: Of the definition, ros2msg or ros2idl.
    """

    name: str
    type: str
    definition: str = ""
    encoding: str = ""


def read_bag(bag: Path, report: Report, wanted: Callable[[Topic], bool]) -> Iterator[tuple[Topic, bytes]]:
    """Read the serialised messages of a bag.

    Args:
        bag: A folder as `ros2 bag record` makes it, or one of its .mcap or .db3 files.
        report: Counts what cannot be read.
        wanted: Which topics.

    Yields:
        Each message with its topic.

    Raises:
        RecordError: There is no such bag.
    """
    files = [bag] if bag.is_file() else sorted(
        (path for path in bag.glob("*") if path.suffix in (".mcap", ".db3")),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    if not files or any(path.suffix not in (".mcap", ".db3") for path in files):
        raise RecordError(f"{bag} is no bag: expected a .mcap or .db3 file (packed ones unpacked), or a folder of them")
    for path in files:
        read = _read_mcap if path.suffix == ".mcap" else _read_sqlite
        try:
            yield from read(path, report, wanted)
        except (EndOfFile, struct.error):
            report.note("bag that was cut short, read up to there")
        except Exception as error:  # of damaged files, readers raise whatever they run into
            report.fail(f"{path}: cannot be read from here on: {type(error).__name__}: {str(error)[:200]}")


def _read_mcap(path: Path, report: Report, wanted: Callable[[Topic], bool]) -> Iterator[tuple[Topic, bytes]]:
    schemas: dict[int, Schema] = {}
    topics: dict[int, Topic] = {}
    with open_regular(path) as file:
        for record in _mcap_records(file, path, report):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, McapChannel):
                schema = schemas.get(record.schema_id)
                if schema is not None:
                    topics[record.id] = Topic(record.topic, schema.name, schema.data.decode("utf-8", "replace"),
                                              schema.encoding)
            elif isinstance(record, Message) and record.channel_id in topics and wanted(topics[record.channel_id]):
                yield topics[record.channel_id], record.data


def _mcap_records(file: BinaryIO, path: Path, report: Report) -> Iterator[McapRecord]:
    for record in StreamReader(file, emit_chunks=True, record_size_limit=_MOST_BYTES).records:
        if not isinstance(record, Chunk):
            yield record
            continue
        found: list[McapRecord] = []
        try:
            plain = dataclasses.replace(record, compression="", data=decompress(record))
            found = breakup_chunk(plain, validate_crc=True)
        except Exception as error:  # of damaged data, decompressors raise whatever they run into
            report.fail(f"{path}: a part of it cannot be read: {type(error).__name__}: {str(error)[:200]}")
        yield from found


def decompress(chunk: Chunk) -> bytes:
    """Decompress a chunk of an mcap file, to no more than it says.

    Raises:
        ValueError: It holds more or less, or says that it holds more than 256 MiB.
    """
    if chunk.uncompressed_size > _MOST_BYTES:
        raise ValueError(f"it has {chunk.uncompressed_size} bytes, expected at most {_MOST_BYTES}")
    most = chunk.uncompressed_size + 1
    if chunk.compression == "zstd":
        data = zstandard.ZstdDecompressor().stream_reader(chunk.data).read(most)
    elif chunk.compression == "lz4":
        data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=most)
    elif chunk.compression == "":
        data = chunk.data
    else:
        raise ValueError(f"its compression is {chunk.compression[:40]!r}, expected zstd or lz4")
    if len(data) != chunk.uncompressed_size:
        raise ValueError(f"it does not have the {chunk.uncompressed_size} bytes that it says")
    return data


def _read_sqlite(path: Path, report: Report, wanted: Callable[[Topic], bool]) -> Iterator[tuple[Topic, bytes]]:
    open_regular(path).close()
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as base:
        base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
        base.execute("PRAGMA trusted_schema = OFF")
        base.execute("PRAGMA writable_schema = ON")  # without it, SQLite reads nothing of a file that was cut short
        try:
            definitions: dict[str, tuple[str, str]] = {}
            with suppress(sqlite3.OperationalError):  # bags had none until Humble
                definitions = {name: (str(text), str(encoding)) for name, text, encoding in base.execute(
                    "SELECT topic_type, encoded_message_definition, encoding FROM message_definitions")}
            topics = {number: Topic(str(name), str(kind), *definitions.get(kind, ("", "")))
                      for number, name, kind in base.execute("SELECT id, name, type FROM topics")}
            chosen = [number for number, topic in topics.items() if wanted(topic)]
            query = f"SELECT topic_id, data FROM messages WHERE topic_id IN ({', '.join('?' * len(chosen))})"
            for number, data in base.execute(query, chosen):
                yield topics[number], bytes(data)
        except sqlite3.DatabaseError as error:
            with open_regular(path) as file:
                magic, page, pages = struct.unpack(">16sH10xI", file.read(32))
            whole = pages * (page if page > 1 else 65536)  # which does not fit two bytes
            if magic == b"SQLite format 3\0" and path.stat().st_size < whole:
                raise EndOfFile() from error
            raise


class MessageTypes:
    """Reads serialised messages by the definitions in their bag; where it has none, by those of today."""

    def __init__(self) -> None:
        self._stores: dict[Topic, Any] = {}
        self._today: Any = None

    def read(self, topic: Topic, data: bytes) -> Any:
        """Read a message.

        Args:
            topic: The message's.
            data: The message as CDR.

        Returns:
            An object with the message's fields.

        Raises:
            ValueError: Its definition or its data is damaged, or there is no definition.
        """
        try:
            store = self._stores.get(topic)
            if store is None:
                store = self._stores[topic] = self._store(topic)
            return store.deserialize_cdr(data, topic.type)
        except Exception as error:  # of damaged definitions and data, rosbags raises whatever it runs into
            raise ValueError(f"{len(data)} bytes are no {topic.type}: {type(error).__name__}: "
                             f"{str(error)[:200]}") from error

    def _store(self, topic: Topic) -> Any:
        if not topic.definition:
            if self._today is None:
                self._today = current_types()
            return self._today
        if len(topic.definition) > _MOST_DEFINITION:
            raise ValueError(f"its definition has {len(topic.definition)} characters")
        store = get_typestore(Stores.EMPTY)
        if topic.encoding == "ros2idl":
            store.register(get_types_from_idl(topic.definition))
        else:
            store.register(get_types_from_msg(topic.definition, topic.type))
        return store


def current_types() -> Any:
    """Make a store of what bags without definitions need: Jazzy's messages, vision_msgs, this package's, yolo_msgs."""
    store, types = get_typestore(Stores.ROS2_JAZZY), {}
    for package in ("vision_msgs", "ros_gpt4roi_interfaces"):
        for path in find(f"interfaces/{package}/msg").glob("*.msg"):
            types.update(get_types_from_msg(path.read_text(), f"{package}/msg/{path.stem}"))
    for name, definition in YOLO_MSGS.items():
        types.update(get_types_from_msg(definition, f"yolo_msgs/msg/{name}"))
    store.register({name: of for name, of in types.items() if name not in store.fielddefs})
    return store

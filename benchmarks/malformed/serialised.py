"""Serialised data that is broken, for every topic."""

from __future__ import annotations

import struct
from random import Random

from geometry_msgs.msg import Point
from rclpy.serialization import serialize_message

from .kinds import HUGE, TOPICS, Sample, kind

_OF_ANY_LENGTH = [topic for topic, type_ in TOPICS.items() if type_ is not Point]


@kind("serialised data cut", *TOPICS)
def _(random: Random, sample: Sample) -> bytes:
    data = serialize_message(sample.message())
    return data[:random.randrange(4, max(5, len(data) - 8))]


@kind("random bytes", *_OF_ANY_LENGTH)
def _(random: Random, sample: Sample) -> bytes:
    return bytes((0, random.choice((0, 1)), 0, 0)) + random.randbytes(random.choice((0, 1, 7, 64, 1000, 20_000)))


@kind("serialised lengths that lie", *TOPICS)
def _(random: Random, sample: Sample) -> bytes:
    data = bytearray(serialize_message(sample.message()))
    for _ in range(random.randint(1, 3)):  # most of the first bytes are lengths
        place = 4 + 4 * random.randrange(max(1, min(len(data) - 8, 160) // 4))
        struct.pack_into("<I", data, place, random.choice((*HUGE, len(data), random.getrandbits(32))))
    return bytes(data)


@kind("texts that are no UTF-8", *_OF_ANY_LENGTH)
def _(random: Random, sample: Sample) -> bytes:
    data = serialize_message(sample.message())
    for text in (b"camera", b"rgb8", b"16UC1", b"plumb_bob", b"jpeg", b"one", b"What is region 1?"):
        broken = bytes(random.choice((0xFF, 0xC0, 0xED, 0xA0, 0x80, 0xF5)) for _ in text)
        data = data.replace(text + b"\0", broken + b"\0", 1)
    return data

"""Audio on a topic, of whichever package's messages are published there; none of the packages is required."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from ros_gpt4roi.printable import printable
from ros_gpt4roi.speech.audio import AudioError, Chunk, Samples, pcm16

from .conversions import stamp_ns
from .diagnostics import Problems
from .optional import optional_messages
from .topics import Input

_LOOK_S = 1.0
_MOST_BYTES = 2**22  # of one message: 20 s of 48 kHz stereo
# Of MP3, audio_common's default format (ISO 11172-3 and 13818-3, Layer III): for MPEG 1 and 2, kilobits a second by
# index, samples a second by index, and bits of a frame for each bit a sample lasts.
_MP3 = {3: ((0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320), (44_100, 48_000, 32_000), 144_000),
        2: ((0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160), (22_050, 24_000, 16_000), 72_000)}


@dataclass(frozen=True)
class _Reading:
    """What a message says, in the terms of `Chunk`; 0 where it does not say."""

    samples: Samples
    rate: int
    stamp: Any
    frame_id: str = ""


class AudioTopic:
    """Subscribes to a topic once somebody publishes audio there, by the type that is published.

    Understood are `Int16MultiArray` of std_msgs, which is always there, `AudioData` and `AudioDataStamped` of the
    distribution's audio_common_msgs, `AudioStamped` of the other package of that name, and foxglove_msgs' `RawAudio`.

    Args:
        node: The node.
        topic: The topic's name.
        rate: Samples a second, where messages do not say.
        channels: Samples in a frame, where messages do not say.
        profile: The QoS of the subscription.
        receive: Takes each chunk, and must return at once.
        problems: Receives what goes wrong.
    """

    def __init__(self, node: Node, topic: str, rate: int, channels: int, profile: QoSProfile,
                 receive: Callable[[Chunk], None], problems: Problems) -> None:
        self._node, self._topic, self._profile = node, node.resolve_topic_name(topic), profile
        self._rate, self._channels, self._receive, self._problems = rate, channels, receive, problems
        self._input: Input | None = None
        self._kind = ""
        self._amiss = ""
        node.create_timer(_LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._look()

    def state(self) -> str:
        """Why no audio comes; empty where it does."""
        return self._amiss or (self._input.stale() if self._input is not None else "")

    def _look(self) -> None:
        kinds = sorted({info.topic_type for info in self._node.get_publishers_info_by_topic(self._topic)})
        self._amiss = ""
        if len(kinds) > 1:
            self._amiss = f"{self._topic} is published as {' and as '.join(kinds)}; expected one type"
        elif not kinds:
            if self._input is None:
                self._amiss = f"nobody publishes audio on {self._topic}"
        elif kinds[0] != self._kind:
            self._subscribe(kinds[0])

    def _subscribe(self, kind: str) -> None:
        package, _, name = kind.replace("/msg/", "/").partition("/")
        known = [f"{package}/{name}" for package, name in _READERS]
        if (package, name) not in _READERS:
            self._amiss = f"{self._topic} is published as {kind}; expected one of {', '.join(known)}"
            return
        module = optional_messages(package, name)
        if module is None:
            self._amiss = f"{self._topic} is published as {kind}, but {package} is not installed, or " + (
                "another package of that name is: there are two audio_common_msgs" if package == "audio_common_msgs"
                else "has no such message")
            return
        if self._input is not None:
            self._input.destroy()
        read = _READERS[package, name]
        self._kind = kind
        self._input = Input(self._node, getattr(module, name), self._topic,
                            lambda message: self._on_audio(read, message), self._profile, self._problems)
        self._node.get_logger().info(printable(f"audio comes from {self._topic}, as {kind}"))

    def _on_audio(self, read: Callable[[Any, int], _Reading], message: Any) -> None:
        try:
            reading = read(message, self._channels)
        except AudioError as error:
            self._problems.report("audio refused", f"{self._topic}: {error}")
            return
        rate = reading.rate or self._rate
        stamp = stamp_ns(reading.stamp) if reading.stamp is not None else 0
        if not stamp:  # when it began: what comes now has just ended
            stamp = self._node.get_clock().now().nanoseconds - int(1e9 * len(reading.samples) / max(1, rate))
        self._receive(Chunk(reading.samples, rate, stamp, reading.frame_id))


def _pcm(data: Any, channels: int) -> Samples:
    raw = bytes(data)
    if len(raw) > _MOST_BYTES:
        raise AudioError(f"a message has {len(raw)} bytes of audio; expected at most {_MOST_BYTES}")
    if _is_mp3(raw):
        raise AudioError("a message holds MP3; expected 16-bit PCM (audio_capture's parameter format: wave)")
    return pcm16(raw, channels).copy()


def _is_mp3(raw: bytes) -> bool:
    """Whether a frame of MP3 begins here, and ends where the next one begins or the message ends.

    Its first bytes alone are those of some samples, too.
    """
    if raw.startswith(b"ID3"):
        return True
    version = raw[1] >> 3 & 3 if len(raw) >= 4 else 0
    if version not in _MP3 or raw[0] != 0xff or raw[1] & 0xe6 != 0xe2:  # the sync word, and Layer III
        return False
    kilobits, rates, scale = _MP3[version]
    bits, rate, padding = raw[2] >> 4, raw[2] >> 2 & 3, raw[2] >> 1 & 1
    if not 0 < bits < len(kilobits) or rate == len(rates):
        return False
    length = scale * kilobits[bits] // rates[rate] + padding
    return len(raw) == length or raw[length:length + 1] == b"\xff" and raw[length + 1:length + 2] == raw[1:2]


def _audio_data(message: Any, channels: int) -> _Reading:
    if not hasattr(message, "data"):
        raise AudioError("audio_common_msgs/AudioData has no field `data`, which the distribution's has; of the other "
                         "package of that name, AudioStamped is expected")
    return _Reading(_pcm(message.data, channels), 0, None)


def _audio_data_stamped(message: Any, channels: int) -> _Reading:
    reading = _audio_data(message.audio, channels)
    return _Reading(reading.samples, 0, message.header.stamp, message.header.frame_id)


def _audio_stamped(message: Any, channels: int) -> _Reading:
    data, info = message.audio.audio_data, message.audio.info
    if not len(data.int16_data):
        raise AudioError("audio_common_msgs/AudioStamped without int16_data; expected 16-bit samples "
                         "(audio_capturer_node's parameter format: 8)")
    if 2 * len(data.int16_data) > _MOST_BYTES:
        raise AudioError(f"a message has {len(data.int16_data)} samples; expected at most {_MOST_BYTES // 2}")
    samples = np.array(data.int16_data, np.int16)
    return _Reading(pcm16(samples.tobytes(), info.channels), info.rate, message.header.stamp, message.header.frame_id)


def _int16_array(message: Any, channels: int) -> _Reading:
    if 2 * len(message.data) > _MOST_BYTES:
        raise AudioError(f"a message has {len(message.data)} samples; expected at most {_MOST_BYTES // 2}")
    return _Reading(pcm16(np.array(message.data, np.int16).tobytes(), channels), 0, None)


def _raw_audio(message: Any, channels: int) -> _Reading:
    if message.format != "pcm-s16":
        raise AudioError(f"format is {message.format!r}; expected 'pcm-s16'")
    return _Reading(_pcm(message.data, message.number_of_channels), message.sample_rate, message.timestamp)


_READERS: dict[tuple[str, str], Callable[[Any, int], _Reading]] = {
    ("audio_common_msgs", "AudioData"): _audio_data,
    ("audio_common_msgs", "AudioDataStamped"): _audio_data_stamped,
    ("audio_common_msgs", "AudioStamped"): _audio_stamped,
    ("foxglove_msgs", "RawAudio"): _raw_audio,
    ("std_msgs", "Int16MultiArray"): _int16_array,
}

"""What the tests of the speech node share: the node in a process, recordings said to it, its status.

Message packages that are not installed are built as stand-ins with the same fields.
"""
from __future__ import annotations

import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import message_packages
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from recorded_speech import RATE, chunks, recording, silence
from ros_peer import Peer, Process
from std_msgs.msg import Int16MultiArray

from ros_gpt4roi.nodes.optional import optional_messages

SOUND = {"audio__source": "topic", "audio__qos__reliability": "reliable", "audio__qos__depth": 1000}
FAST = {"recogniser__kind": "pocketsphinx"}


class Status:
    """The last of the node's diagnostics."""

    def __init__(self, peer: Peer) -> None:
        self.level, self.message, self.values = b"", "", {}
        self.found = peer.collect(DiagnosticArray, "/diagnostics", 10, self._take)

    def _take(self, message: Any) -> None:
        for status in message.status:
            if status.name == "speech: speech":
                self.level, self.message = status.level, status.message
                self.values = {pair.key: pair.value for pair in status.values}


class Voice:
    """Says recordings to the node, without the pauses between a microphone's messages."""

    def __init__(self, peer: Peer, kind: type, topic: str = "audio", began_s: int = 1000) -> None:
        self._peer, self._kind, self.said_s = peer, kind, float(began_s)
        self._publisher = peer.publisher(kind, topic, 1000)

    def say(self, *parts: np.ndarray) -> None:
        for samples in chunks(np.concatenate(parts)):
            message = self._kind()
            data = array.array("B", samples.tobytes())
            seconds, fraction = divmod(self.said_s, 1)
            if hasattr(message, "sample_rate"):  # foxglove_msgs/RawAudio
                message.sample_rate, message.number_of_channels, message.format, message.data = RATE, 1, "pcm-s16", data
                stamp = message.timestamp
            elif hasattr(message, "header"):  # audio_common_msgs/AudioDataStamped
                message.audio.data, stamp = data, message.header.stamp
                message.header.frame_id = "ear"
            elif self._kind is Int16MultiArray:
                message.data, stamp = array.array("h", data.tobytes()), None
            else:
                message.data, stamp = data, None
            if stamp is not None:
                stamp.sec, stamp.nanosec = int(seconds), int(fraction * 1e9)
            self._publisher.publish(message)
            self._peer.executor.spin_once(timeout_sec=0)
            self.said_s += len(samples) / RATE

    def ask(self, name: str) -> float:
        """Says a recording between two pauses. Returns when it began, by the audio's stamps."""
        self.say(silence(0.6))
        began_s = self.said_s
        self.say(recording(name), silence(1.2))
        return began_s

    def publish(self, message: Any) -> None:
        self._publisher.publish(message)

    def leave(self) -> None:
        self._peer.node.destroy_publisher(self._publisher)


@pytest.fixture(name="voice_of")
def voice_of_fixture(peer: Peer) -> Iterator[Any]:
    """Makes voices, and has them leave: a process can publish one type on a topic at a time."""
    voices: list[Voice] = []

    def make(kind: type, began_s: int = 1000) -> Voice:
        voices.append(Voice(peer, kind, began_s=began_s))
        return voices[-1]
    yield make
    for voice in voices:
        voice.leave()


@pytest.fixture(name="packages", scope="module")
def packages_fixture(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    message_packages.build(tmp_path_factory.mktemp("packages"))
    found = {}
    for package, *names in (("audio_common_msgs", "AudioData", "AudioDataStamped"), ("foxglove_msgs", "RawAudio"),
                            ("hri_msgs", "LiveSpeech")):
        module = optional_messages(package, *names)
        assert module is not None, package
        found.update({name: getattr(module, name) for name in names})
    return SimpleNamespace(**found)


@pytest.fixture(name="start")
def start_fixture(tmp_path: Path, peer: Peer) -> Iterator[Any]:
    started: list[Process] = []

    def run(**parameters: object) -> Process:
        started.append(Process("speech", tmp_path / f"speech{len(started)}.log", **parameters))
        peer.watch(started[-1])
        return started[-1]
    yield run
    peer.watch(None)
    for process in started:
        assert process.stop() == 0, process.output()
        assert "Traceback" not in process.output(), process.output()

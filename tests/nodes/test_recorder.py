"""The recorder in a process of its own: what comes over DDS is read back from its files, with any reader."""
from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
pytest.importorskip("rosbags", reason="requirements/training.txt is not installed")
from camera import HEIGHT, WIDTH  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from ros_gpt4roi_interfaces.msg import (  # noqa: E402
    Answer,
    Correction,
    Query,
    Region,
    RegionDescription,
    RegionDescriptionArray,
)
from ros_peer import Peer, Process  # noqa: E402
from rosbags.rosbag2 import Reader  # noqa: E402
from rosbags.typesys import Stores, get_types_from_msg, get_typestore  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402
from vision_msgs.msg import Detection2D, Detection2DArray  # noqa: E402

from ros_gpt4roi.image_messages import rgb_to_image  # noqa: E402
from ros_gpt4roi.messages import box_to_message, hypothesis  # noqa: E402
from training.data.__main__ import main  # noqa: E402
from training.data.record_file import FILE, read_records  # noqa: E402
from training.data.report import Report  # noqa: E402

BOX = (8, 8, 24, 24)
RELIABLE = {"qos__image__reliability": "reliable", "qos__detections__reliability": "reliable", "qos__image__depth": 100,
            "qos__detections__depth": 100, "storage__min_free_mib": 0}


class Scene:
    """What a recorder hears, sent by hand."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._publishers = {kind: peer.publisher(kind, topic, 100) for kind, topic in (
            (Image, "image"), (Detection2DArray, "detections"), (RegionDescriptionArray, "region_descriptions"),
            (Query, "queries"), (Answer, "answers"), (Correction, "corrections"))}

    def say(self, message: Any) -> None:
        self._publishers[type(message)].publish(message)

    def show(self, second: int, label: str = "mug") -> Header:
        """A bright frame of that second with one detection."""
        header = Header(frame_id="camera")
        header.stamp.sec = second
        shade = np.random.default_rng(second).integers(100, 250, (6, 8, 3), np.uint8)  # not near those before
        self.say(rgb_to_image(cv2.resize(shade, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).clip(90), header))
        self.say(Detection2DArray(header=header, detections=[
            Detection2D(header=header, id="1", bbox=box_to_message(BOX), results=[hypothesis(label, 0.9)])]))
        return header

    def describe(self, header: Header, text: str, confidence: float = 0.9) -> None:
        self.say(RegionDescriptionArray(header=header, descriptions=[
            RegionDescription(region=region(), text=text, confidence=confidence)]))

    def leave(self) -> None:
        for publisher in self._publishers.values():
            self._peer.node.destroy_publisher(publisher)


class Recorder:
    """The node, its files and the last of its diagnostics."""

    def __init__(self, peer: Peer, folder: Path, log: Path, **parameters: object) -> None:
        self.folder, self._peer = folder, peer
        self.process = Process("recorder", log, storage__folder=folder, **{**RELIABLE, **parameters})
        peer.watch(self.process)
        self.status: DiagnosticStatus = DiagnosticStatus()
        peer.collect(DiagnosticArray, "/diagnostics", 10, self._take)

    def _take(self, message: Any) -> None:
        for status in message.status:
            if status.name == "recorder: recorder":
                self.status = status

    def count(self, name: str) -> int:
        return next((int(pair.value) for pair in self.status.values if pair.key == name), 0)

    def wait(self, name: str, least: int) -> None:
        self._peer.wait_for(lambda: self.count(name) >= least, f"{least} {name}")

    def stop(self) -> str:
        self._peer.watch(None)
        assert self.process.stop() == 0, self.process.output()
        assert "Traceback" not in self.process.output(), self.process.output()
        return self.process.output()


@pytest.fixture
def start(peer: Peer, tmp_path: Path) -> Iterator[Any]:
    made: list[Any] = []

    def run(**parameters: object) -> tuple[Recorder, Scene]:
        folder = Path(str(parameters.pop("folder", tmp_path / "bag")))
        made.append(Recorder(peer, folder, tmp_path / "recorder.log", **parameters))
        made.append(Scene(peer))
        return made[0], made[1]
    yield run
    for thing in made:
        thing.stop() if isinstance(thing, Recorder) else thing.leave()


def region() -> Region:
    return Region(id="1", bbox=box_to_message(BOX), label="mug", score=0.9)


def read(folder: Path) -> list[tuple[str, Any]]:
    """Topics and messages of the files, by rosbags, with the definitions that are in them alone."""
    found = []
    for path in sorted(folder.glob("*.mcap")):
        with Reader(path) as reader:
            for connection, _, data in reader.messages():
                store = get_typestore(Stores.EMPTY)
                store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
                found.append((connection.topic, store.deserialize_cdr(data, connection.msgtype)))
    return found


def stamps(messages: list[tuple[str, Any]], topic: str = "/image/compressed") -> list[int]:
    return [message.header.stamp.sec for name, message in messages if name == topic]


def test_what_people_and_rules_speak_of_becomes_training_data(peer: Peer, start: Any, tmp_path: Path) -> None:
    recorder, scene = start(rules__before_s=0.0, rules__after_s=0.0, rules__rate_hz=10.0)
    headers = [scene.show(1000 + second) for second in range(6)]
    scene.describe(headers[0], "a red mug")
    scene.describe(headers[1], "a blue mug")  # changed
    scene.describe(headers[2], "a blue mug", 0.2)  # low confidence
    scene.say(Query(header=headers[3], query_id="q", text="what is region 1?"))
    scene.say(Answer(header=headers[3], query_id="q", conversation_id="c", text="region 1 is a mug", confidence=0.9))
    scene.say(Correction(header=headers[4], kind=Correction.DESCRIPTION, regions=[region()], said="a blue mug",
                         verdict=Correction.WRONG, right="a valve", who="Ada"))
    gone = Header(frame_id="camera")
    gone.stamp.sec = 1
    scene.say(Correction(header=gone, regions=[region()], said="a", verdict=Correction.RIGHT, who="Bob"))
    recorder.wait("written: messages", 4 + 4 + 2 + 4)  # frames, boxes, descriptions of two, what people said
    recorder.stop()
    messages = read(recorder.folder)
    assert sorted(stamps(messages)) == [1001, 1002, 1003, 1004]
    assert sorted(stamps(messages, "/region_descriptions")) == [1001, 1002]
    assert sorted(stamps(messages, "/corrections")) == [1, 1004]
    assert main(["from_bag", str(recorder.folder), "--out", str(tmp_path / "data")]) == 0
    changed, unsure, asked, corrected = sorted(  # messages of different topics overtake each other
        read_records(tmp_path / "data" / FILE, Report(0)), key=lambda record: record.origin["stamp"])
    assert [record.regions[0].description for record in (changed, unsure)] == ["a blue mug"] * 2
    assert asked.conversations[0].rounds == (("what is <region 1>?", "<region 1> is a mug"),)
    assert (corrected.regions[0].description, corrected.regions[0].source) == ("a valve", "person")
    assert '"who": "Bob"' in (tmp_path / "data" / "unmatched_corrections.jsonl").read_text()


def test_diagnostics_say_when_descriptions_stop_and_not_when_people_are_silent(peer: Peer, start: Any) -> None:
    recorder, scene = start()
    seconds = itertools.count(1000)
    scene.say(Correction(header=scene.show(next(seconds)), regions=[region()], said="a", verdict=Correction.RIGHT))
    scene.describe(scene.show(next(seconds)), "a mug")

    def silent() -> bool:
        scene.show(next(seconds))
        return "region_descriptions: nothing has come" in recorder.status.message
    peer.wait_for(silent, "diagnostics that say it")

    def recording() -> bool:
        scene.describe(scene.show(next(seconds)), "a mug")
        return recorder.status.message == "recording"
    peer.wait_for(recording, "the recording to go on")
    output = recorder.stop()
    assert "callback failed" not in output
    assert f"recording into {recorder.folder}: changed" in output


def test_what_must_not_be_seen_is_black_before_it_is_written(peer: Peer, start: Any) -> None:
    recorder, scene = start(rules__triggers="[always]", blackout__labels="[Person]", blackout__margin=0.0,
                            blackout__areas="[0.5,0.0,1.0,0.25]")
    scene.show(1000, "person")
    scene.show(1001, "mug")
    scene.say(rgb_to_image(np.full((HEIGHT, WIDTH, 3), 200, np.uint8), Header(stamp=scene.show(1002).stamp)))
    unseen = Header()
    unseen.stamp.sec = 1003
    scene.say(rgb_to_image(np.full((HEIGHT, WIDTH, 3), 200, np.uint8), unseen))  # no detector says who is in it
    scene.show(1004)
    recorder.wait("chosen: frames", 4)
    recorder.stop()
    pictures = {message.header.stamp.sec: cv2.imdecode(message.data, cv2.IMREAD_COLOR)
                for topic, message in read(recorder.folder) if topic == "/image/compressed"}
    assert sorted(pictures) == [1000, 1001, 1002, 1004]
    for picture in pictures.values():
        assert picture[:HEIGHT // 4 - 4, WIDTH // 2 + 4:].max() < 40, "the area"
        assert picture[HEIGHT // 2:].min() > 40
    x1, y1, x2, y2 = BOX
    inside = slice(y1 + 2, y2 - 2), slice(x1 + 2, x2 - 2)
    assert pictures[1000][inside].max() < 40 and pictures[1001][inside].min() > 40


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a file system that other tests leave alone; skipped where none can be mounted."""
    import subprocess
    import tempfile
    folder = Path(tempfile.mkdtemp())
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


@pytest.mark.slow
def test_a_full_disk_stops_the_recording_and_diagnostics_say_so(peer: Peer, start: Any, small_disk: Path) -> None:
    recorder, scene = start(folder=small_disk, rules__triggers="[always]", rules__rate_hz=100.0)
    ballast = small_disk / "ballast"
    recorder_began = scene.show(1000)
    recorder.wait("written: messages", 2)
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
    second = recorder_began.stamp.sec

    def full() -> bool:
        nonlocal second
        second += 1
        scene.show(second)
        return recorder.status.level == DiagnosticStatus.ERROR
    peer.wait_for(full, "diagnostics that say it")
    assert recorder.status.message.startswith("not recording: ") and "MiB are free" in recorder.status.message
    ballast.unlink()

    def recording() -> bool:
        nonlocal second
        second += 1
        scene.show(second)
        return recorder.status.level != DiagnosticStatus.ERROR
    peer.wait_for(recording, "the recording to go on")
    output = recorder.stop()
    assert "recording stops" in output and "recording goes on" in output
    assert main(["from_bag", str(small_disk), "--out", str(small_disk.parent / f"{small_disk.name}_data"),
                 "--similar", "0"]) == 0
    shutil.rmtree(small_disk.parent / f"{small_disk.name}_data")

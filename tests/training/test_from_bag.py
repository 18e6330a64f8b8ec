"""Bags to pictures and records: real messages, both storages, foreign bags, damaged bags, and memory."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import subprocess
import sys
import tracemalloc

import bag_fixtures as bags
import numpy as np
import pytest
import zstandard
from builtin_interfaces.msg import Time
from mcap.records import Chunk
from ros_gpt4roi_interfaces.msg import Correction, RegionMask
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from ros_gpt4roi.image_file import read_image
from training.data.__main__ import main
from training.data.bags.convert import UNMATCHED, BagOptions, convert_bags
from training.data.bags.messages import current_types, decompress
from training.data.record import RecordError
from training.data.record_file import FILE, Conversation, PictureRecord, read_records
from training.data.report import Report

CAMERA, BOXES, TEXTS, ANSWERS, QUERIES, CORRECTIONS = (
    "/image/compressed", "/detections", "/region_descriptions", "/answers", "/queries", "/corrections")


def convert(tmp_path, *bag, **options) -> tuple[list[PictureRecord], Report]:
    report = Report(100)
    out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    convert_bags(list(bag), out, BagOptions(**options), report)
    return list(read_records(out / FILE, Report(0))), report


def recorded(tmp_path, *messages, **options) -> tuple[list[PictureRecord], Report]:
    return convert(tmp_path, bags.write(tmp_path / f"bag{len(list(tmp_path.glob('bag*')))}", *messages), **options)


@pytest.mark.parametrize("plugin", list(StoragePlugin))
def test_frames_become_pictures_with_what_was_said_of_them(tmp_path, plugin):
    bag = bags.write(
        tmp_path / "bag", (CAMERA, bags.compressed(0)), (BOXES, bags.detections(0)),
        (TEXTS, bags.descriptions(0, "a red mug")), (CAMERA, bags.compressed(1)),
        (BOXES, bags.detections(1, ("mug_3", "mug", 0.5, bags.BOX), ("", "bowl", 0.25, (50, 5, 90, 60)))),
        plugin=plugin)
    (first, second), report = convert(tmp_path, bag)
    assert (first.width, first.height) == bags.SIZE and first.origin == {
        "bag": "bag", "topic": CAMERA, "frame_id": "camera", "stamp": "1700000000.000000000"}
    (region,) = first.regions
    assert (region.id, region.box, region.name, region.description, region.source, region.confidence) == (
        "1", bags.BOX, "mug", "a red mug", "model", 0.75)
    assert [(region.id, region.name, region.source, region.confidence) for region in second.regions] == [
        ("mug_3", "mug", BOXES, 0.5), ("2", "bowl", BOXES, 0.25)]
    assert (tmp_path / "out0" / first.file).read_bytes() == bytes(bags.compressed(0).data), "a jpeg stays as it came"
    assert report.counted == {"regions": 3, "regions with a description": 1} and not report.malformed


def test_raw_frames_are_written_as_they_look(tmp_path):
    (record,), _ = recorded(tmp_path, ("/image", bags.image(3)), (BOXES, bags.detections(3)))
    found = read_image(tmp_path / "out0" / record.file).astype(int)
    assert np.abs(found - bags.pixels(3)).mean() < 4


def test_a_frame_with_an_orientation_tag_is_not_turned(tmp_path):
    message = bags.compressed(0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = bytes(message.data)
    message.data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    (record,), _ = recorded(tmp_path, (CAMERA, message), (BOXES, bags.detections(0)))
    assert read_image(tmp_path / "out0" / record.file).shape == (64, 96, 3)
    assert (record.width, record.height) == bags.SIZE


def test_boxes_go_to_the_frame_that_is_nearest_to_their_stamp(tmp_path):
    frames = [(CAMERA, bags.compressed(place)) for place in range(4)]
    boxes = [(BOXES, bags.detections(0, ("late", "mug", 0.5, bags.BOX), offset=30_000_000)),
             (BOXES, bags.detections(0, ("early", "mug", 0.5, bags.BOX), offset=-10_000_000)),
             (BOXES, bags.detections(2, ("far", "mug", 0.5, bags.BOX), offset=49_000_000)),
             (BOXES, bags.detections(9))]
    records, report = recorded(tmp_path, *boxes, *frames, slop_s=0.04)
    assert [[region.id for region in record.regions] for record in records] == [["early"]]
    assert report.filtered == {
        "boxes of a frame that has others nearer to its stamp": 1, "boxes of a frame that was not recorded": 2,
        "frame of which nothing is said": 3}


def test_boxes_of_another_clock_are_told_from_those_that_are_late(tmp_path):
    frames = [(CAMERA, bags.compressed(place)) for place in range(3)]
    boxes = [(BOXES, bags.detections(place, offset=-1_600_000_000 * 10**9)) for place in range(2)]
    records, report = recorded(tmp_path, *frames, *boxes)
    assert len(records) == 3 and report.filtered == {"boxes of a frame that was not recorded": 2}
    assert report.counted == {
        "boxes that have another clock than the frames, by -1600000000.000 s at first": 2}


def test_frames_of_a_clock_that_was_set_back_are_left_out(tmp_path):
    messages = [message for like, place in ((0, 0), (1, 1), (1, 1), (2, 0)) for message in (
        (CAMERA, bags.compressed(place, like=like)), (BOXES, bags.detections(place)))]
    again = (CORRECTIONS, bags.correction(0, right="a valve"))
    (record,), report = recorded(tmp_path, *messages, again)
    assert record.origin["stamp"] == "1700000000.100000000" and len(record.regions) == 1
    assert report.filtered["frame whose stamp another one has: the clock was set back"] == 2
    assert report.filtered["second frame of the same stamp"] == 1
    assert "a valve" in (tmp_path / "out0" / UNMATCHED).read_text(), "nobody knows which of the two is meant"


def test_frames_that_resemble_one_before_are_left_out(tmp_path):
    moved = (12, 10, 90, 60)
    messages = []
    for place, (like, box) in enumerate([(0, bags.BOX), (0, bags.BOX), (5, bags.BOX), (0, bags.BOX), (0, moved)]):
        messages.append((CAMERA, bags.compressed(place, like=like)))
        messages.append((BOXES, bags.detections(place, ("1", "mug", 0.5, box))))
    records, report = recorded(tmp_path, *messages)
    assert [record.origin["stamp"][-11:-8] for record in records] == ["0.0", "0.2", "0.4"]
    assert report.filtered == {"frame that is nearly the same as one before, with the same regions": 2}
    asked = (CORRECTIONS, bags.correction(1, right="a valve"))
    assert len(recorded(tmp_path, *messages, asked)[0]) == 4, "what people speak of is kept"


def test_corrections_become_labels_and_the_newest_decides(tmp_path):
    frame = (CAMERA, bags.compressed(0)), (BOXES, bags.detections(0)), (TEXTS, bags.descriptions(0, "a bowl"))
    newer = bags.correction(0, right="a valve", who="Bob")
    newer.time.sec = 200
    older = bags.correction(0, right="a pipe")
    (record,), report = recorded(tmp_path, *frame, (CORRECTIONS, newer), (CORRECTIONS, older))
    (region,) = record.regions
    assert (region.name, region.description, region.source, region.confidence) == ("valve", "a valve", "person", 1.0)
    assert [(judged.right, judged.who, judged.time) for judged in region.judgements] == [
        ("a pipe", "Ada", 100), ("a valve", "Bob", 200)]
    assert report.noted == {"contradicting corrections, of which the newest decides": 1}


@pytest.mark.parametrize(("fields", "name", "description", "source"), [
    ({"right": "a red valve"}, "", "a red valve", "person"),
    ({"right": "a broken mug"}, "mug", "a broken mug", "person"),
    ({"right": ""}, "mug", "a bowl", "model"), ({"verdict": Correction.RIGHT}, "", "a bowl", "person"),
])
def test_what_a_correction_does_to_names(tmp_path, fields, name, description, source):
    frame = (CAMERA, bags.compressed(0)), (BOXES, bags.detections(0)), (TEXTS, bags.descriptions(0, "a bowl"))
    (record,), _ = recorded(tmp_path, *frame, (CORRECTIONS, bags.correction(0, **fields)))
    (region,) = record.regions
    assert (region.name, region.description, region.source) == (name, description, source)
    assert len(region.judgements) == 1


def test_what_is_written_of_corrections_can_be_read(tmp_path):
    frame = (CAMERA, bags.compressed(0)), (BOXES, bags.detections(0))
    often = [(CORRECTIONS, bags.correction(0, right=f"a valve {number}", time=Time(sec=number)))
             for number in range(1001)]
    (record,), report = recorded(tmp_path, *frame, *often)
    (region,) = record.regions
    assert region.description == "a valve 1000" and len(region.judgements) == 1000
    assert report.counted["corrections of the same text before its newest 1000"] == 1
    blank = bags.correction(0, kind=Correction.ANSWER, question="What is it?", right=" \n", regions=[])
    long = bags.correction(0, right="x" * 20_001)
    (record,), report = recorded(tmp_path, *frame, (CORRECTIONS, blank), (CORRECTIONS, long))
    assert not record.regions and not record.conversations
    assert "frame 1700000000.000000000: region 1: name is 'xxx" in report.errors[0] and report.malformed == 1


def test_a_correction_of_a_frame_that_was_never_recorded_is_kept_beside(tmp_path):
    _, report = recorded(tmp_path, (CAMERA, bags.compressed(0)), (CORRECTIONS, bags.correction(7, right="a valve")))
    (line,) = map(json.loads, (tmp_path / "out0" / UNMATCHED).read_text().splitlines())
    assert (line["bag"], line["stamp"], line["right"]) == ("bag0", "1700000000.700000000", "a valve")
    assert line["regions"][0]["box"] == list(bags.BOX)
    assert report.noted == {f"correction of a frame that is not there, kept in {UNMATCHED}": 1}


def test_answers_become_conversations_as_they_were_corrected(tmp_path):
    questions = [(QUERIES, bags.query(0, name, text)) for name, text in
                 (("q1", "What is region 1?"), ("q2", "Why?"), ("q3", "And?"), ("q4", "Is region 1 red?"))]
    questions[1][1].header = bags.Header()  # a question need not name its frame
    answers = [(ANSWERS, bags.answer(0, "q1", "region 1 is a mug")), (ANSWERS, bags.answer(0, "q2", "I see it.")),
               (ANSWERS, bags.answer(0, "q3", "No more.")), (ANSWERS, bags.answer(0, "q4", "Yes.", "d")),
               (ANSWERS, bags.answer(0, "q5", "42", "e")), (ANSWERS, bags.answer(0, "q1", "", "f", status=3))]
    frame = (CAMERA, bags.compressed(0)), (BOXES, bags.detections(0))
    (record,), report = recorded(tmp_path, *frame, *questions, *answers)
    asked = "What is <region 1>?", "<region 1> is a mug"
    assert record.conversations == (
        Conversation((asked, ("Why?", "I see it."), ("And?", "No more.")), "model", 0.5),
        Conversation((("Is <region 1> red?", "Yes."),), "model", 0.5))
    assert report.filtered == {"answer whose question was not recorded, or without a text": 1,
                               "answer that was refused or cut": 1}
    judged = [(CORRECTIONS, bags.correction(0, kind=Correction.ANSWER, **fields)) for fields in (
        {"query_id": "q2", "said": "I see it.", "right": "It is red."}, {"query_id": "q4", "said": "Yes."},
        {"query_id": "q9", "question": "What is region 1?", "said": "A bowl.", "right": "A valve."})]
    (record,), report = recorded(tmp_path, *frame, *questions, *answers, *judged)
    corrected, wrong, alone = record.conversations
    assert (corrected.rounds, corrected.source) == ((asked, ("Why?", "It is red.")), "person")
    assert (wrong.rounds, wrong.source) == ((("Is <region 1> red?", "Yes."),), "model") and wrong.judgements[0].wrong
    assert alone.rounds == (("What is <region 1>?", "A valve."),) and alone.source == "person"
    assert report.counted["rounds behind a corrected answer, left out"] == 1


def test_masks_of_other_resolutions_are_scaled(tmp_path):
    message = bags.descriptions(0, "a mug", "a bowl")
    message.descriptions[0].region.mask = RegionMask(width=3, height=2, counts=[0, 2, 4])
    message.descriptions[1].region.mask = RegionMask(width=3, height=2, counts=[7])
    (record,), report = recorded(tmp_path, (CAMERA, bags.compressed(0)), (TEXTS, message))
    assert record.regions[0].mask == {"size": [64, 96], "counts": [0, 64 * 32, 64 * 64]}
    assert record.regions[1].mask is None and "mask of region 2" in report.errors[0] and report.malformed == 1


@pytest.mark.parametrize("definitions", [True, False])
def test_bags_of_yolo_ros(tmp_path, definitions):
    store = current_types()
    make = {name.rpartition("/")[2]: store.types[name] for name in store.types if name.startswith("yolo_msgs")}
    geometry = {name.rpartition("/")[2]: store.types[name] for name in store.types if name.startswith("geometry_msgs")}
    head = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](1_700_000_000, 0), "camera")
    box = make["BoundingBox2D"](make["Pose2D"](make["Point2D"](25.0, 30.0), 0.0), make["Vector2"](30.0, 40.0))
    pose = geometry["Pose"](geometry["Point"](0.0, 0.0, 0.0), geometry["Quaternion"](0.0, 0.0, 0.0, 1.0))
    outline = [make["Point2D"](x, y) for x, y in ((10.0, 10.0), (40.0, 10.0), (10.0, 50.0))]
    found = make["Detection"](
        7, "mug", 0.5, "17", box, make["BoundingBox3D"](pose, geometry["Vector3"](0.0, 0.0, 0.0), ""),
        make["Mask"](64, 96, outline), make["KeyPoint2DArray"]([]), make["KeyPoint3DArray"]("", []))
    name = "yolo_msgs/msg/DetectionArray"
    data = store.serialize_cdr(make["DetectionArray"](head, [found]), name)
    bag = bags.write(tmp_path / "bag", (CAMERA, bags.compressed(0)), ("/yolo/detections", (name, bytes(data))),
                     plugin=StoragePlugin.SQLITE3)
    if not definitions:  # as ROS 2 wrote them until Humble
        with sqlite3.connect(bag / "bag.db3") as base:
            base.execute("DELETE FROM message_definitions")
    (record,), _ = convert(tmp_path, bag)
    (region,) = record.regions
    assert (region.id, region.name, region.box, region.confidence) == ("17", "mug", bags.BOX, 0.5)
    assert region.mask == [[10, 10, 40, 10, 10, 50]] and region.source == "/yolo/detections"


def test_messages_of_an_older_version_of_ours(tmp_path):
    old = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for name, text in {
        "vision_msgs/msg/Point2D": "float64 x\nfloat64 y", "vision_msgs/msg/Pose2D": "Point2D position\nfloat64 theta",
        "vision_msgs/msg/BoundingBox2D": "Pose2D center\nfloat64 size_x\nfloat64 size_y",
        "ros_gpt4roi_interfaces/msg/Region": "string id\nvision_msgs/BoundingBox2D bbox\nstring label\nfloat64 score",
        "ros_gpt4roi_interfaces/msg/RegionDescription": "Region region\nstring text\nfloat32 confidence",
        "ros_gpt4roi_interfaces/msg/RegionDescriptionArray": "std_msgs/Header header\nRegionDescription[] descriptions",
    }.items():
        types.update(get_types_from_msg(text, name))
    old.register(types)
    made = {name.rpartition("/")[2]: kind for name, kind in old.types.items() if name in types}
    head = old.types["std_msgs/msg/Header"](old.types["builtin_interfaces/msg/Time"](1_700_000_000, 0), "camera")
    box = made["BoundingBox2D"](made["Pose2D"](made["Point2D"](25.0, 30.0), 0.0), 30.0, 40.0)
    name = "ros_gpt4roi_interfaces/msg/RegionDescriptionArray"
    message = made["RegionDescriptionArray"](
        head, [made["RegionDescription"](made["Region"]("1", box, "mug", 0.5), "a mug", 0.25)])
    bag = bags.write(tmp_path / "bag", (TEXTS, (name, bytes(old.serialize_cdr(message, name)))),
                     (CAMERA, bags.compressed(0)), store=old)
    (record,), _ = convert(tmp_path, bag)
    assert [(region.description, region.mask) for region in record.regions] == [("a mug", None)]


def test_a_bag_without_boxes_gives_pictures(tmp_path):
    records, report = recorded(tmp_path, *((CAMERA, bags.compressed(place)) for place in range(3)))
    assert [record.regions for record in records] == [()] * 3 and not report.filtered


def test_frames_of_several_sizes(tmp_path):
    sizes, found = ((96, 64), (64, 96), (200, 100)), ("1", "mug", 0.5, (70, 10, 90, 60))
    records, _ = recorded(tmp_path, *(message for place, size in enumerate(sizes) for message in (
        (CAMERA, bags.compressed(place, size=size)), (BOXES, bags.detections(place, found)))))
    assert [(record.width, record.height) for record in records] == list(sizes)
    assert [len(record.regions) for record in records] == [1, 0, 1], "one box is outside of its frame"


def test_bad_boxes_and_frames_cost_only_themselves(tmp_path):
    broken = bags.compressed(1)
    turned = bags.detections(2, ("b", "mug", 0.5, (10, 10, 10, 50)), ("a", "mug", 0.5, bags.BOX))
    broken.data = broken.data[:len(broken.data) // 8]
    turned.detections[0].bbox.center.theta = float("inf")
    nameless = bags.compressed(3)
    nameless.header.stamp.sec = nameless.header.stamp.nanosec = 0
    records, report = recorded(
        tmp_path, (CAMERA, bags.compressed(0)), (BOXES, bags.detections(0)), (CAMERA, broken),
        (BOXES, bags.detections(1)), (CAMERA, bags.compressed(2)), (BOXES, turned), (CAMERA, nameless),
        (BOXES, ("vision_msgs/msg/Detection2DArray", b"\0\1\0\0" + b"\xff" * 60)), (BOXES, bags.detections(9)))
    assert [[region.id for region in record.regions] for record in records] == [["1"], ["a"]]
    assert report.malformed == 3 and report.filtered["message without a stamp"] == 2
    assert any("is not finite" in error for error in report.errors)
    assert any("are no vision_msgs/msg/Detection2DArray" in error for error in report.errors)


@pytest.mark.parametrize(("plugin", "part", "least", "most"), [
    (StoragePlugin.MCAP, 0.4, 10, 16), (StoragePlugin.MCAP, 0.99, 34, 39), (StoragePlugin.MCAP, 0.9999, 40, 40),
    (StoragePlugin.SQLITE3, 0.4, 10, 16)])
def test_a_bag_that_was_cut_short_is_read_up_to_there(tmp_path, plugin, part, least, most):
    bag = bags.write(tmp_path / "bag", *(message for place in range(40) for message in (
        ("/image", bags.image(place, (320, 240))), (BOXES, bags.detections(place)))), plugin=plugin)
    (bag / "metadata.yaml").unlink()
    (path,) = (path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * part)])
    records, report = convert(tmp_path, bag)
    assert least <= len(records) <= most
    assert report.noted == {"bag that was cut short, read up to there": 1} and not report.malformed


def test_a_chunk_that_grows_beyond_what_it_says_is_refused(tmp_path):
    bomb = zstandard.compress(bytes(1 << 30))
    chunk = Chunk("zstd", bomb, 2**63 - 1, 0, 0, 1000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="does not have the 1000 bytes"):
        decompress(chunk)
    with pytest.raises(ValueError, match="expected at most"):
        decompress(dataclasses.replace(chunk, uncompressed_size=1 << 40))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20


def test_what_is_no_bag_costs_only_itself(tmp_path):
    good = bags.write(tmp_path / "bag", (CAMERA, bags.compressed(0)))
    noise, base = tmp_path / "noise.mcap", tmp_path / "noise.db3"
    for path in (noise, base):
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    records, report = convert(tmp_path, tmp_path / "gone", noise, base, good)
    assert len(records) == 1 and report.malformed >= 3 and any("gone is no bag" in error for error in report.errors)
    with pytest.raises(RecordError, match="no frame of these bags can be used"):
        convert(tmp_path, noise)
    with pytest.raises(RecordError, match="no frame"):
        convert(tmp_path, good, image_topic="/other")


def test_the_command_prints_counts_and_check_reads_the_folder(tmp_path, capsys):
    bag = bags.write(tmp_path / "bag", (CAMERA, bags.compressed(0)), (BOXES, bags.detections(0)))
    assert main(["from_bag", str(bag), "--out", str(tmp_path / "out"), "--review", "3"]) == 0
    printed = capsys.readouterr().out
    assert "1 pictures of 2 messages\ncounted 1: regions\nmalformed 0" in printed
    assert "review 0: thumbs down" in printed
    assert main(["from_bag", str(bag), "--out", str(tmp_path / "out")]) == 1
    assert "exists already; name another folder" in capsys.readouterr().err


MEMORY = """
import resource, sys
from pathlib import Path
from training.data.bags.convert import BagOptions, convert_bags
from training.data.report import Report
report = Report(0)
convert_bags([Path(sys.argv[1])], Path(sys.argv[2]), BagOptions(), report)
print(report.kept, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_bag(tmp_path):
    used = []
    for count in (20, 400):  # 400 raw frames have 92 MB
        messages = (message for place in range(count) for message in (
            ("/image", bags.image(place, (320, 240))), (BOXES, bags.detections(place))))
        bag = bags.write(tmp_path / f"bag{count}", stream=messages)
        done = subprocess.run([sys.executable, "-c", MEMORY, bag, tmp_path / f"out{count}"], capture_output=True,
                              text=True, timeout=300, check=True)
        kept, kibibytes = map(int, done.stdout.split())
        assert kept == count
        used.append(kibibytes)
    assert used[1] - used[0] < 40_000, f"{used} KiB"

"""Regions from a command line and from files."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ros_gpt4roi.region_files import RegionFileError, parse_box, read_detections
from ros_gpt4roi.runtime.regions import usable_regions

# As `ros2 topic echo --once /detections` prints it.
ECHOED = """header:
  stamp: {sec: 12, nanosec: 5}
  frame_id: camera
detections:
- header: {stamp: {sec: 12, nanosec: 5}, frame_id: camera}
  results:
  - hypothesis: {class_id: cup, score: 0.25}
  - hypothesis: {class_id: mug, score: 0.75}
  bbox:
    center: {position: {x: 100.0, y: 50.0}, theta: 0.0}
    size_x: 20.0
    size_y: 10.0
  id: '7'
- results: []
  bbox:
    center: {position: {x: 10.0, y: 10.0}, theta: 0.0}
    size_x: 4.0
    size_y: 4.0
  id: ''
---
"""


def test_boxes_and_points_are_read() -> None:
    assert parse_box("1,2.5,30,40").box == (1, 2.5, 30, 40)
    point = parse_box("12,34")
    assert point.box == (12, 34, 12, 34) and point.is_point


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "", "1,2,3,4,5"])
def test_what_is_no_box_is_named(text: str) -> None:
    with pytest.raises(RegionFileError, match="expected x1,y1,x2,y2"):
        parse_box(text)


def test_a_list_of_boxes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"box": [1, 2, 3, 4], "id": 5, "label": "cup", "score": 0.5}, {"box": [0, 0, 9, 9]}]))
    first, second = read_detections(path)
    assert (first.id, first.box, first.label, first.score) == ("5", (1, 2, 3, 4), "cup", 0.5)
    assert (second.id, second.box) == ("", (0, 0, 9, 9))


def test_segmentations_of_coco_are_masks(tmp_path: Path) -> None:
    path = tmp_path / "masks.json"
    counts = [2, 2, 12]
    path.write_text(json.dumps([
        {"segmentation": [[1, 1, 30, 1, 1, 40], [50, 5, 60, 5, 55, 9]], "label": "cup"},
        {"segmentation": {"size": [4, 4], "counts": counts}, "box": [0, 20, 30, 48]},
        {"segmentation": {"size": [4, 4], "counts": "22<"}}, {"segmentation": [], "box": [1, 2, 3, 4]}]))
    regions, refusals = usable_regions(read_detections(path), 64, 48)
    assert refusals == ()
    assert [region.box for region in regions] == [(1, 1, 60, 40), (0, 20, 30, 48), (0, 24, 16, 48), (1, 2, 3, 4)]
    assert [len(region.mask.polygons) for region in regions if region.mask] == [2, 0, 0]
    assert regions[1].mask.counts.tolist() == regions[2].mask.counts.tolist() == counts and regions[3].mask is None


def test_null_is_no_name_and_zero_is_one(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    box = [1, 2, 3, 4]
    path.write_text(json.dumps([{"box": box, "id": None, "label": None}, {"box": box, "id": 0, "label": 0}]))
    assert [(region.id, region.label) for region in read_detections(path)] == [("", ""), ("0", "0")]


def test_only_regular_files_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate((16 << 20) + 1)
    for name, expected in (("pipe", "no regular file"), ("endless", "no regular file"), ("large", "larger than")):
        with pytest.raises(RegionFileError, match=f"{name}.json.*{expected}"):
            read_detections(tmp_path / f"{name}.json")


def test_an_echoed_message_is_read(tmp_path: Path) -> None:
    path = tmp_path / "detections.yaml"
    path.write_text(ECHOED)
    first, second = read_detections(path)
    assert (first.id, first.box, first.label, first.score) == ("7", (90, 45, 110, 55), "mug", 0.75)
    assert (second.id, second.box, second.label) == ("", (8, 8, 12, 12), "")


@pytest.mark.parametrize("text, expected", [
    ("[{\"box\": [1, 2, 3]}]", "entry 1.*3 numbers"), ("[{\"bbox\": [1, 2, 3, 4]}]", "entry 1.*'box'"),
    ("[7]", "entry 1"), ("{\"boxes\": []}", "expected a list"), ("\"text\"", "expected a list"),
    ("[" * 100_000, "expected JSON or YAML"), ("[{\"box\": [1, 2, 3, 1" + "0" * 400 + "]}]", "entry 1"),
    ("{\"detections\": [{\"bbox\": 3}]}", "entry 1"),
    ("[{\"segmentation\": [[1, 2, 3]]}]", "entry 1"), ("[{\"segmentation\": 7}]", "entry 1"),
    ("[{\"segmentation\": {\"size\": [2, 2], \"counts\": [3]}}]", "entry 1.*runs of 3 pixels"),
    ("[{\"segmentation\": {\"size\": \"all\", \"counts\": [3]}}]", "entry 1"),
    ("[{\"segmentation\": [[1, 2, 3, 4]]}]", "entry 1.*2 corners"),
    ("[", "expected JSON or YAML"), ("", "expected JSON or YAML")])
def test_a_file_that_cannot_be_used_is_named_with_the_entry(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(RegionFileError, match=f"boxes.json.*{expected}"):
        read_detections(path)

"""Records to datasets of LeRobot and back, and datasets that LeRobot itself has written.

Those in the folder lerobot/ were written by lerobot 0.6.1: two episodes of four frames, with rows of its annotation
pipeline, which its validator has passed; once with pictures, once with a video.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from ros_gpt4roi.image_file import encode_image, read_image
from training.data.__main__ import main
from training.data.record_file import (
    FILE,
    Conversation,
    Judgement,
    PictureRecord,
    RecordWriter,
    RegionRecord,
    read_records,
)
from training.data.report import Report

WRITTEN = Path(__file__).parent / "lerobot"
TALK = Conversation((("What is left of <region m>?", "<region 2>."), ("Why?", "It stands there.\nI looked.")))


def back(tmp_path, dataset, status=0):
    assert main(["import", "lerobot", str(dataset), "--out", str(tmp_path / "back")]) == status
    return list(read_records(tmp_path / "back" / FILE, Report(0)))


@pytest.fixture
def folder(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), np.uint8)
    with RecordWriter(tmp_path / "data") as writer:
        file = writer.add_picture("a.png", encode_image(pixels[0], "PNG"))
        wrong = Conversation((("Is it?", "No."),), judgements=(Judgement("No.", wrong=True),))
        writer.write(PictureRecord(file, 64, 48, (
            RegionRecord("m", (10, 10, 30.5, 20), name="mug", attributes={"colour": "red"}, description="a red mug"),
            RegionRecord("2", (40, 8, 41, 24))), (TALK, Conversation((("Who?", "Nobody."),)), wrong), {"bag": "one"}))
        file = writer.add_picture("b.png", encode_image(pixels[1, :20], "PNG"))
        writer.write(PictureRecord(file, 64, 20))
        file = writer.add_picture("c.jpg", encode_image(pixels[2]))
        writer.write(PictureRecord(file, 64, 48, origin={"bag": "two"}))
        writer.write(PictureRecord("images/gone.png", 64, 48))
    return tmp_path / "data"


def test_what_was_exported_comes_back(folder, tmp_path, capsys):
    assert main(["export", "lerobot", str(folder), str(tmp_path / "set")]) == 1, "a picture is missing"
    printed = capsys.readouterr().out
    assert "filtered 1: picture of another size than 64x48" in printed and "counted 7: frames" in printed
    assert "filtered 1: conversation that a person called wrong" in printed and "gone.png" in printed
    record, = back(tmp_path, tmp_path / "set")
    mug, other = record.regions
    assert (mug.id, mug.box, mug.name, mug.attributes, mug.description, mug.source) == (
        "1", (10, 10, 30.5, 20), "mug", {"colour": "red"}, "a red mug", "lerobot")
    assert (other.id, other.box, other.name) == ("2", (40, 8, 41, 24), "")
    renamed = tuple(tuple(text.replace("<region m>", "<region 1>") for text in turn) for turn in TALK.rounds)
    assert [talk.rounds for talk in record.conversations] == [renamed, (("Who?", "Nobody."),)]
    assert (tmp_path / "back" / record.file).read_bytes() == (folder / "images" / "a.png").read_bytes()
    assert main(["export", "lerobot", str(folder), str(tmp_path / "set")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_what_is_exported_has_the_layout_of_lerobots_own(folder, tmp_path):
    main(["export", "lerobot", str(folder), str(tmp_path / "set")])
    ours, theirs = tmp_path / "set", WRITTEN / "images"
    for path in ("data/chunk-000/file-000.parquet", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        names = [{name for name in parquet.read_schema(root / path).names if not name.startswith(("stats/", "observ"))}
                 for root in (ours, theirs)]
        assert names[0] == names[1], path
    info, other = (json.loads((root / "meta/info.json").read_text()) for root in (ours, theirs))
    assert info.keys() == other.keys() and info["codebase_version"] == other["codebase_version"] == "v3.0"
    for name in info["features"].keys() & other["features"].keys():
        assert info["features"][name] == other["features"][name]
    rows = parquet.read_table(ours / "data/chunk-000/file-000.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(7))
    assert [(row["episode_index"], row["timestamp"]) for row in rows] == [*((0, float(at)) for at in range(6)), (1, 0)]
    for row in rows[:6]:
        assistant, user = row["language_events"]
        assert (assistant["role"], user["role"]) == ("assistant", "user"), "one question a frame, or its reader fails"
        assert assistant["camera"] in info["features"] and isinstance(json.loads(assistant["content"]), dict)
    assert json.loads(rows[0]["language_events"][0]["content"])["detections"][0] == {
        "label": "mug", "bbox_format": "xyxy", "bbox": [10, 10, 30.5, 20]}
    assert rows[5]["language_events"] and not rows[6]["language_events"]
    stats = json.loads((ours / "meta/stats.json").read_text())["observation.images.camera"]
    assert np.asarray(stats["mean"]).shape == (3, 1, 1) and stats["count"] == [2]


@pytest.mark.parametrize("kind", ["images", "video"])
def test_datasets_that_lerobot_has_written(tmp_path, kind, capsys):
    first, *others = back(tmp_path, WRITTEN / kind)
    cup, = first.regions
    assert (cup.name, cup.box) == ("cup", (8, 16, 40, 32)) and (first.width, first.height) == (64, 64)
    assert [record.conversations[0].rounds[0] for record in others if record.conversations] == [
        ("How many cups are there?", "1"), ("What colour is the cup?", "red"),
        ("Where is the cup?", "cup left of wall")]
    for record in (first, *others):
        light = 40 + 20 * int(record.origin["frame"]) + 100 * int(record.origin["episode"])
        found = read_image(tmp_path / "back" / record.file).astype(int)
        assert np.abs(found[40:] - light).mean() < 6 and np.abs(found[20:28, 12:36] - (200, 30, 30)).mean() < 12
    printed = capsys.readouterr().out
    assert "filtered 3: frame of which nothing is asked" in printed
    assert "filtered 1: question answered by a point" in printed and "noted 1: question answered by boxes" in printed


def changed(tmp_path, change):
    """A dataset whose rows, and what else is there, somebody has changed."""
    shutil.copytree(WRITTEN / "images", tmp_path / "set")
    path = tmp_path / "set/data/chunk-000/file-000.parquet"
    table = parquet.read_table(path)
    rows = table.to_pylist()
    change(rows)
    for column in ("language_persistent", "language_events"):
        for row in rows:
            for event in row[column]:
                event["tool_calls"] = None
    parquet.write_table(type(table).from_pylist(rows), path)
    return tmp_path / "set"


def test_bad_rows_cost_only_themselves(tmp_path, capsys):
    def change(rows):
        boxes = [[1, 2, 3], [5, 5, 5, 9], ["a", 1, 2, 3], [0, 0, 900, 900]]
        rows[0]["language_events"][0]["content"] = json.dumps(
            {"detections": [{"label": "cup", "bbox": box} for box in boxes] + [3]})
        rows[1]["language_events"].pop()
        rows[2]["language_events"][0]["content"] = "It is red."
        rows[3]["language_events"][0]["camera"] = rows[3]["language_events"][1]["camera"] = "observation.images.gone"
        rows[4]["observation.images.top"]["bytes"] = b"noise"

    first, second = back(tmp_path, changed(tmp_path, change), status=1)
    assert [region.box for region in first.regions] == [(0, 0, 64, 64)]
    assert second.conversations[0].rounds == (("What colour is the cup?", "It is red."),)
    assert "malformed 7" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "message"), [
    (lambda root: (root / "meta/info.json").unlink(), "cannot be read as that of a LeRobot dataset"),
    (lambda root: (root / "meta/info.json").write_text((root / "meta/info.json").read_text().replace("v3.0", "v2.1")),
     "version 'v2.1', expected v3.0"),
    (lambda root: (root / "meta/info.json").write_text(
        (root / "meta/info.json").read_text().replace("language_events", "events")), "has no column language_events"),
    (lambda root: (root / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1 no"), "has no frame with questions"),
])
def test_what_is_no_dataset_is_refused(tmp_path, change, message, capsys):
    shutil.copytree(WRITTEN / "images", tmp_path / "set")
    change(tmp_path / "set")
    assert main(["import", "lerobot", str(tmp_path / "set"), "--out", str(tmp_path / "back")]) == 1
    assert message in capsys.readouterr().err

"""Records to tasks of Label Studio and back; what Label Studio's editor writes beside."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from training.data.__main__ import main
from training.data.exchange.brush import decode_brush, encode_brush
from training.data.record_file import FILE, Conversation, PictureRecord, RecordWriter, RegionRecord, read_records
from training.data.report import Report
from training.data.segmentation import decode_mask

POLYGON = [[10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0]]
TALK = Conversation((("What is left of <region m>?", "Nothing.\nI looked."), ("Why?", "So.")), "person")
# As label-studio-sdk 2.1.2 wrote it: mask2rle of zeros uint8 [2, 3] with [0, 2] = [1, 0] = 255.
BRUSH = [0, 0, 0, 24, 57, 27, 252, 224, 19, 255, 206, 0]


@pytest.fixture
def folder(tmp_path):
    done, picture = cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))
    assert done
    with RecordWriter(tmp_path / "data") as writer:
        file = writer.add_picture("a b.png", picture.tobytes())
        writer.write(PictureRecord(file, 64, 48, (
            RegionRecord("m", (10, 10, 30, 20), POLYGON, "mug", {"colour": "red", "box": "x"}, "a red mug", "person"),
            RegionRecord("2", (40, 8, 41, 70), None, "pole", {"colour": "blue"}, source="/boxes", confidence=0.5),
            RegionRecord("3", (1, 2, 3, 4), description="nameless", source="model"),
            RegionRecord("4", (90, 2, 93, 4), name="mug")), (TALK,), {"bag": "monday"}, ("low confidence",)))
        file = writer.add_picture("b.png", picture.tobytes())
        writer.write(PictureRecord(file, 64, 48, (RegionRecord("1", (0, 0, 64, 48), source="person"),)))
    return tmp_path / "data"


def imported(tmp_path, folder, *tasks, status=0):
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    assert main(["import", "label_studio", str(tmp_path / "tasks.json"), "--images", str(folder), "--out",
                 str(tmp_path / "back")]) == status
    return list(read_records(tmp_path / "back" / FILE, Report(0)))


def results(shape, *others, **fields):
    """A region's results: its shape, and what is said of it."""
    return [{"id": "r", "from_name": "any", "to_name": "image", "original_width": 64, "original_height": 48, **fields,
             **item} for item in (shape, *others)]


def annotated(*found, image="/data/local-files/?d=my/data/images/a%20b.png", **fields):
    return {"id": 7, "data": {"image": image}, "annotations": [{"result": list(found), **fields}]}


def test_what_was_exported_comes_back(folder, tmp_path, capsys):
    tasks = tmp_path / "tasks.json"
    assert main(["export", "label_studio", str(folder), str(tasks)]) == 1, "a box is outside of its picture"
    printed = capsys.readouterr().out
    assert "filtered 1: attribute whose name" in printed and "region 4: box" in printed
    first, second = json.loads(tasks.read_text())
    assert first["data"] == {"image": "/data/local-files/?d=images/a%20b.png", "origin": {"bag": "monday"},
                             "review": "low confidence"}
    assert not first["annotations"] and first["predictions"][0]["score"] == 0.5, "not all of it is a person's"
    assert second["annotations"] and not second["predictions"]
    view = ElementTree.parse(tmp_path / "tasks_interface.xml").getroot()
    assert [label.get("value") for label in view.findall("RectangleLabels/Label")] == ["mug", "pole"]
    assert [choice.get("value") for choice in view.findall("Choices[@name='colour']/Choice")] == ["red", "blue"]
    record, whole = imported(tmp_path, folder, first, second)
    mug, pole, nameless = record.regions
    assert (mug.id, mug.name, mug.attributes, mug.description, mug.source) == (
        "m", "mug", {"colour": "red"}, "a red mug", "person")
    assert mug.box == pytest.approx((10, 10, 30, 20)) and decode_mask(mug.mask)[10:20, 10:30].all()
    assert decode_mask(mug.mask).sum() == 200
    assert (pole.box, pole.source, pole.confidence) == (pytest.approx((40, 8, 41, 48)), "/boxes", 0.5)
    assert (nameless.name, nameless.description, nameless.source) == ("", "nameless", "model")
    assert record.conversations == (TALK,) and record.origin == {"bag": "monday"} and not record.review
    assert [region.source for region in whole.regions] == ["person"]


def test_brush_masks_are_label_studios():
    mask = np.zeros((2, 3), bool)
    mask[0, 2] = mask[1, 0] = True
    assert (decode_brush(BRUSH, (3, 2)) == mask).all()
    large = np.random.default_rng(0).random((300, 500)) > 0.999
    large[100:250] = True
    assert (decode_brush(encode_brush(large), (500, 300)) == large).all()
    for broken in (BRUSH[:-4], BRUSH[:3], [255] * 20, [300]):
        with pytest.raises(ValueError):
            decode_brush(broken, (3, 2))


def test_what_people_draw_in_the_editor(folder, tmp_path, capsys):
    box = {"x": 25, "y": 25, "width": 12.5, "height": 25}
    turned = results({"type": "rectanglelabels", "value": {**box, "rotation": 90, "rectanglelabels": ["mug", "cup"]}},
                     {"type": "textarea", "from_name": "caption", "value": {**box, "text": ["a mug"]}},
                     {"type": "choices", "from_name": "parts", "value": {**box, "choices": ["handle", "rim"]}})
    drawn = results({"type": "polygonlabels", "value": {"points": [[0, 0], [50, 0], [0, 50]], "polygonlabels": []}},
                    id="p")
    brush = results({"type": "brushlabels", "value": {
        "rle": encode_brush(np.eye(48, 64, dtype=bool)), "brushlabels": ["line"]}}, id="b")
    other = results({"type": "ellipselabels", "value": {"x": 1}}, {"type": "choices", "value": {"choices": ["dark"]}})
    older = {"result": results({"type": "rectangle", "value": box}), "updated_at": "2026-01-01T00:00:00Z"}
    task = annotated(*turned, *drawn, *brush, *(item | {"id": "o"} for item in other), image="s3://b/images/1a2b3c4d-b.png",
                     updated_at="2026-01-02T00:00:00Z")
    task["annotations"].insert(0, older)
    record, = imported(tmp_path, folder, task, annotated(was_cancelled=True))
    turned, drawn, brush = record.regions
    assert (turned.name, turned.description, turned.attributes) == ("mug", "a mug", {"parts": "handle, rim"})
    assert turned.box == pytest.approx((4, 12, 16, 20)), "clockwise about its upper left corner"
    assert np.allclose(turned.mask, [[16, 12, 16, 20, 4, 20, 4, 12]])
    assert drawn.box == (0, 0, 32, 24) and drawn.mask == [[0, 0, 32, 0, 0, 24]] and brush.name == "line"
    assert brush.box == (0, 0, 48, 48) and decode_mask(brush.mask).sum() == 48
    printed = capsys.readouterr().out
    for line in ("filtered 1: result of type ellipselabels", "filtered 1: task that was skipped",
                 "filtered 1: text or choice about a whole picture", "noted 1: rotated rectangle",
                 "noted 1: region with several labels", "noted 1: task with several annotations", "malformed 0"):
        assert line in printed


def test_bad_tasks_cost_only_themselves(folder, tmp_path, capsys):
    good = {"type": "rectangle", "value": {"x": 0, "y": 0, "width": 10, "height": 10}}
    bad = [{"value": 3}, {"value": {**good["value"], "x": 1e308}}, {"value": {**good["value"], "width": 0}},
           {"type": "brush", "value": {"rle": [1, 2]}}, {"type": "polygon", "value": {"points": [[1]]}},
           {"value": {"points": [["a", 1]]}}, {"type": "textarea", "value": {"text": [1]}}, {"type": None}]
    found = [result for place, item in enumerate(bad) for result in results(good | item, id=f"bad{place}")]
    talk = results({"from_name": "conversations", "type": "textarea", "value": {"text": ["A: no", "Q: a\nA: b"]}})
    records = imported(
        tmp_path, folder, annotated(*results(good), *found, *talk), "x", {"image": "a b.png", "label": []},
        annotated(image="https://host/gone.png"), annotated(image="/data/upload/../../../etc/passwd"),
        annotated(*results(good, original_width=640), image="a b.png"), {"data": {"image": "b.png"}, "annotations": 3},
        status=1)
    assert [len(record.regions) for record in records] == [1]
    assert records[0].conversations[0].rounds == (("a", "b"),)
    printed = capsys.readouterr().out
    assert "malformed 14" in printed and "not JSON-MIN" in printed and "gone.png" in printed
    (tmp_path / "none.json").write_text('{"tasks": []}')
    assert main(["import", "label_studio", str(tmp_path / "none.json"), "--images", str(folder), "--out",
                 str(tmp_path / "none")]) == 1
    assert "holds no tasks" in capsys.readouterr().err

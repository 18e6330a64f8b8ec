"""Records to COCO files, as COCO's own loader reads them, and back."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from training.data.__main__ import main
from training.data.record_file import FILE, Conversation, PictureRecord, RecordWriter, RegionRecord, read_records
from training.data.report import Report

POLYGON = [[10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0]]
RUNS = {"size": [48, 64], "counts": [48 * 40 + 8, 16, 48 * 23 + 24]}


@pytest.fixture
def folder(tmp_path):
    done, picture = cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))
    assert done
    with RecordWriter(tmp_path / "data") as writer:
        file = writer.add_picture("a.png", picture.tobytes())
        writer.write(PictureRecord(file, 64, 48, (
            RegionRecord("m", (10, 10, 30, 20), POLYGON, "mug", {"colour": "red"}, "a red mug", "person", 0.9),
            RegionRecord("2", (40, 8, 41, 24), RUNS, "pole"), RegionRecord("3", (1, 2, 3, 4), name="mug"),
            RegionRecord("4", (1, 2, 3, 4), description="without a name"),
            RegionRecord("5", (1, 2, 3, 4), [[1, 2, 3]], "mug")), (Conversation((("Why?", "So."),)),)))
        writer.write(PictureRecord(writer.add_picture("b.png", picture.tobytes()), 64, 48))
    return tmp_path / "data"


def test_the_projects_own_loader_reads_what_is_exported(folder, tmp_path, capsys):
    assert main(["export", "coco", str(folder), str(tmp_path / "coco.json")]) == 1, "a mask is malformed"
    printed = capsys.readouterr().out
    assert "filtered 1: region without a name" in printed and "filtered 1: conversation" in printed
    assert "region 5: " in printed and "counted 3: regions" in printed
    coco = COCO(str(tmp_path / "coco.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["images/a.png", "images/b.png"]
    mug, pole, other = coco.loadAnns(coco.getAnnIds())
    assert [coco.loadCats(item["category_id"])[0]["name"] for item in (mug, pole, other)] == ["mug", "pole", "mug"]
    assert (mug["bbox"], mug["area"], mug["caption"], mug["score"]) == ([10, 10, 20, 10], 200, "a red mug", 0.9)
    assert coco.annToMask(mug)[10:20, 10:30].all() and coco.annToMask(mug).sum() == 200
    assert coco.annToMask(pole)[8:24, 40].all() and coco.annToMask(pole).sum() == pole["area"] == 16


def test_what_was_exported_comes_back(folder, tmp_path):
    main(["export", "coco", str(folder), str(tmp_path / "coco.json")])
    assert main(["import", "coco", str(tmp_path / "coco.json"), "--images", str(folder), "--out",
                 str(tmp_path / "back")]) == 0
    first, second = read_records(tmp_path / "back" / FILE, Report(0))
    assert [(region.name, region.box, region.mask) for region in first.regions] == [
        ("mug", (10, 10, 30, 20), POLYGON), ("pole", (40, 8, 41, 24), RUNS), ("mug", (1, 2, 3, 4), None)]
    assert not second.regions and (tmp_path / "back" / second.file).read_bytes().startswith(b"\x89PNG")


def test_bad_annotations_cost_only_themselves(folder, tmp_path, capsys):
    good = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    bad = [{"category_id": 2}, {"bbox": [1, 1, -5, 5]}, {"bbox": "x"}, {"category_id": 9}, {"iscrowd": 1},
           {"segmentation": [[1]]}]
    (tmp_path / "coco.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "images/a.png"}, {"id": 2, "file_name": "gone.png"}],
        "categories": [{"id": 1, "name": "mug"}, {"id": 2, "name": "x" * 20_001}],
        "annotations": [good, *({**good, "id": place, **item} for place, item in enumerate(bad, 2))]}))
    assert main(["import", "coco", str(tmp_path / "coco.json"), "--images", str(folder), "--out",
                 str(tmp_path / "back")]) == 1
    record, = read_records(tmp_path / "back" / FILE, Report(0))
    assert len(record.regions) == 1
    printed = capsys.readouterr().out
    assert "filtered 1: crowd annotation" in printed and "malformed 6" in printed and "gone.png" in printed

"""Pictures that are not as their annotations say: resized, turned, renamed, replaced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import training_fixtures as fixtures
from PIL import Image

from training.data.coco import Coco
from training.data.flickr import Flickr
from training.data.llava import Llava
from training.data.mixture import open_mixture
from training.data.record import RecordError
from training.data.records import Records
from training.data.refcoco import RefCoco
from training.data.source import find_image
from training.data.vcr import Vcr
from training.data.visual_genome import VisualGenome

# Every loader whose files say how large a picture is, with the picture of its fixture.
DECLARING = {
    "coco": (Coco, fixtures.coco, "train2017/000000000009.jpg"),
    "refcoco": (RefCoco, fixtures.refcoco, "coco/000000000581.jpg"),
    "flickr": (Flickr, fixtures.flickr, "flickr30k-images/1000092795.jpg"),
    "visual_genome": (VisualGenome, fixtures.visual_genome_grit, "vg_all/61.jpg"),
    "records": (Records, fixtures.records, "images/a.png"),
    "vcr": (Vcr, lambda folder: fixtures.vcr(folder, "all"), "vcr1images/m/a.jpg"),
}
SILENT = {
    "visual_genome": (VisualGenome, fixtures.visual_genome, "VG_100K_2/61.jpg"),
    "llava": (Llava, fixtures.llava, "coco/000000000033.jpg"),
}


def turned(path: Path, width: int, height: int, orientation: int) -> None:
    """A picture whose stored pixels are width × height."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, exif=exif)


@pytest.mark.parametrize("name", DECLARING)
def test_a_picture_that_was_resized_after_annotation_is_named(tmp_path, name):
    kind, make, picture = DECLARING[name]
    values = make(tmp_path)
    fixtures.image(tmp_path / picture, 50, 40)
    with pytest.raises(RecordError, match=f"{picture} is 50x40, but its boxes were made for 100x80"):
        fixtures.source(kind, values, tmp_path)
    assert fixtures.source(kind, values, tmp_path, limit=3).report.malformed


@pytest.mark.parametrize("name", DECLARING)
def test_a_turned_picture_is_used_where_its_declared_size_is_that_of_the_upright_one(tmp_path, name):
    kind, make, picture = DECLARING[name]
    values = make(tmp_path)
    turned(tmp_path / picture, 80, 100, 6)
    source = fixtures.source(kind, values, tmp_path)
    assert source.report.noted["image turned by its EXIF orientation"] == 1 and source.size(0) == (100, 80)
    turned(tmp_path / picture, 100, 80, 6)
    with pytest.raises(RecordError, match="is 80x100, but .* 100x80: EXIF orientation 6 turns it; remove the tag"):
        fixtures.source(kind, values, tmp_path / "other cache")


@pytest.mark.parametrize("name", [*DECLARING, *SILENT])
def test_a_turn_that_no_size_confirms_is_counted(tmp_path, name):
    kind, make, picture = (SILENT | DECLARING)[name]
    values = make(tmp_path)
    turned(tmp_path / picture, 100, 80, 3)
    source = fixtures.source(kind, values, tmp_path)
    assert source.report.noted["image turned by its EXIF orientation, which no declared size confirms"] >= 1


@pytest.mark.parametrize("name", [*DECLARING, *SILENT])
@pytest.mark.parametrize("content", fixtures.HEADLESS_PICTURES.values(), ids=fixtures.HEADLESS_PICTURES)
def test_a_picture_without_a_header_is_found_when_it_is_indexed(tmp_path, name, content):
    kind, make, picture = (SILENT | DECLARING)[name]
    values = make(tmp_path)
    (tmp_path / picture).write_bytes(content)
    report = fixtures.source(kind, values, tmp_path, limit=9).report
    assert report.malformed and all(Path(picture).name in error for error in report.errors)


def test_a_size_that_is_not_declared_is_read_from_the_picture(tmp_path):
    values = fixtures.coco(tmp_path, images=[{"id": 9, "file_name": "000000000009.jpg", "width": None}], annotations=[
        {"id": 1, "image_id": 9, "category_id": 1, "bbox": [50, 20, 60, 50]}])
    source = fixtures.source(Coco, values, tmp_path)
    assert source.size(0) == (100, 80) and source.index[0]["boxes"] == [[50, 20, 100, 70]]


@pytest.mark.parametrize("width", ["wide", []])
def test_a_size_that_is_no_number_is_named(tmp_path, width):
    image = {"id": 9, "file_name": "000000000009.jpg", "height": 80, "width": width}
    with pytest.raises(RecordError, match="coco 9: width .* and height 80 are no numbers"):
        fixtures.source(Coco, fixtures.coco(tmp_path, images=[image], annotations=[]), tmp_path)


def test_a_picture_that_is_replaced_after_indexing_is_skipped(tmp_path):
    section = {"cache": tmp_path / "cache", "malformed_limit": 1,
               "sources": [{"type": "coco", **fixtures.coco(tmp_path)}]}
    mixture = open_mixture(section, 0)
    fixtures.image(tmp_path / "train2017" / "000000000009.jpg", 50, 40)
    assert {mixture[p].source for p in range(4)} == {"coco 25"}
    assert "000000000009.jpg is 50x40 now, but was 100x80" in mixture.malformed.errors[0]


def test_pictures_are_found_by_their_whole_name(tmp_path):
    for name in ("000001.jpg", "000000000009.jpg"):
        fixtures.image(tmp_path / name)
    assert find_image([tmp_path], "COCO_train2014_000000000009.jpg").endswith("/000000000009.jpg")
    assert find_image([tmp_path], "000001.jpg").endswith("/000001.jpg")
    for name in ("left_000001.jpg", "frame_000000000009.jpg", "COCO_train2014_000001.jpg", "", "x" * 5000, "a\0b"):
        with pytest.raises(ValueError, match="is not in"):
            find_image([tmp_path], name)


def test_detections_are_found_by_their_whole_name(tmp_path):
    values = fixtures.llava(tmp_path)
    fixtures.image(tmp_path / "coco" / "left_000000000033.jpg")
    content = json.loads(values["annotations"].read_text())
    for item in content:
        item["image"] = "left_000000000033.jpg"
    values["annotations"].write_text(json.dumps(content))
    source = fixtures.source(Llava, values, tmp_path)
    assert source.report.filtered == {"conversation without detector results": 2}

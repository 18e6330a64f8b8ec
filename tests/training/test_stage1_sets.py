"""COCO and RefCOCO: the question is a bare region token, the answer a category or a short expression."""

from __future__ import annotations

import json

import numpy as np
import pytest
import training_fixtures as fixtures

from training.data.coco import Coco
from training.data.mixture import open_mixture, pack
from training.data.record import RecordError, check_record
from training.data.refcoco import RefCoco


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_coco_asks_with_the_bare_token_and_answers_with_the_category(tmp_path):
    coco = fixtures.source(Coco, fixtures.coco(tmp_path), tmp_path)
    (record,) = coco.records(0, rng())
    check_record(record)
    boxes = {tuple(box) for box in record.boxes.tolist()}
    assert boxes == {(10, 10, 40, 50), (50, 20, 100, 70)}, "clipped to the image"
    answers = {tuple(box): turn.answer for box, turn in zip(record.boxes.tolist(), record.rounds, strict=True)}
    assert answers == {(10, 10, 40, 50): "dog", (50, 20, 100, 70): "person"}
    assert record.rounds[0].question.endswith("The categories are person, dog.\n<box1>")
    assert record.rounds[1].question == "<box2>", "the task is told once"


def test_coco_reports_what_each_filter_took(tmp_path):
    report = fixtures.source(Coco, fixtures.coco(tmp_path), tmp_path).report
    assert (report.read, report.kept, report.malformed) == (2, 2, 0)
    assert report.filtered == {"crowd annotation": 1, "box under 1 pixel": 1, "box outside the image": 1}


def test_coco_small_images_and_boxes_are_filtered(tmp_path):
    fixtures.image(tmp_path / "train2017" / "thin.jpg", 400, 20)
    fixtures.image(tmp_path / "train2017" / "wide.jpg", 400, 300)
    values = fixtures.coco(
        tmp_path,
        images=[{"id": 1, "file_name": "thin.jpg", "height": 20, "width": 400},
                {"id": 2, "file_name": "wide.jpg", "height": 300, "width": 400}],
        # 3 of 400 pixels are 1.7 of the network's 224.
        annotations=[{"id": 1, "image_id": 2, "category_id": 1, "bbox": [9, 9, 3, 90], "area": 270, "iscrowd": 0}],
    )
    source = fixtures.source(Coco, values, tmp_path)
    assert len(source) == 0
    assert source.report.filtered == {
        "image under 32 pixels": 1, "box under 2 pixels of the network's input": 1, "image without boxes": 1,
    }


def test_coco_asks_about_at_most_max_regions_and_chooses_by_the_generator(tmp_path):
    coco = fixtures.source(Coco, fixtures.coco(tmp_path) | {"max_regions": 1}, tmp_path)
    chosen = {coco.records(0, rng(seed))[0].rounds[0].answer for seed in range(20)}
    assert chosen == {"dog", "person"}
    assert coco.records(0, rng(3))[0].rounds == coco.records(0, rng(3))[0].rounds


@pytest.mark.parametrize(("changes", "words"), [
    ({"annotations": [{"id": 1, "image_id": 9, "category_id": 99, "bbox": [1, 1, 9, 9], "area": 9}]}, "category 99"),
    ({"annotations": [{"id": 1, "image_id": 77, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 9}]}, "image 77"),
    ({"annotations": [{"id": 1, "image_id": 9, "category_id": 1, "bbox": [1, 1, 9], "area": 9}]}, "four numbers"),
    ({"annotations": [{"id": 1, "image_id": 9, "bbox": [1, 1, 9, 9], "area": 9}]}, "no category_id"),
    ({"annotations": [{"id": 1, "image_id": 9, "category_id": 1, "bbox": [1, 1, 9, 9], "area": "9"}]}, "area is '9'"),
    ({"annotations": [{"id": 1, "image_id": [9], "category_id": 1, "bbox": [1, 1, 9, 9], "area": 9}]}, "image_id is"),
    ({"annotations": [{"id": 1, "image_id": 9, "category_id": {}, "bbox": [1, 1, 9, 9], "area": 9}]}, "category_id is"),
    ({"annotations": [7]}, "annotation is 7"),
    ({"images": [7], "annotations": []}, "image is 7"),
    ({"images": [{"id": [9], "file_name": "9.jpg", "height": 80, "width": 100}], "annotations": []}, "id is"),
    ({"images": [{"id": 9, "file_name": 9, "height": 80, "width": 100}], "annotations": []}, "file_name is '9'"),
    ({"images": [{"id": 9, "file_name": "absent.jpg", "height": 80, "width": 100}], "annotations": []}, "absent.jpg"),
    ({"categories": [{"id": 1, "name": "dog"}, {"id": 18, "name": "dog"}]}, "there twice"),
    ({"categories": []}, "no categories"),
    ({"categories": [7]}, "category 7"),
    ({"categories": [{"id": 1}]}, "category .*: has no 'name'"),
    ({"categories": [{"id": {}, "name": "dog"}]}, "category .*unhashable"),
    ({"categories": [{"id": 1, "name": "dog", "supercategory": "none"},
                     {"id": 2, "name": "cat", "supercategory": "dog"},
                     {"id": 2, "name": "bird", "supercategory": "dog"}]}, "2 'bird' is there twice"),
    ({"categories": [{"id": 1, "name": "dog", "supercategory": "pet"},
                     {"id": 2, "name": "dog", "supercategory": "pet"}]},
     "2 'dog' is there twice"),
])
def test_coco_malformed_files_are_named(tmp_path, changes, words):
    with pytest.raises(RecordError, match=words):
        fixtures.source(Coco, fixtures.coco(tmp_path, **changes), tmp_path)


@pytest.mark.parametrize("first", [0, 1], ids=["root first", "class first"])
def test_coco_a_root_category_may_be_called_like_a_class(tmp_path, first):
    listed = [{"id": 0, "name": "dog", "supercategory": "none"}, {"id": 18, "name": "dog", "supercategory": "dog"},
              {"id": 1, "name": "person", "supercategory": "dog"}]
    if first:
        listed = listed[1:] + listed[:1]
    coco = fixtures.source(Coco, fixtures.coco(tmp_path, categories=listed), tmp_path)
    assert coco.names == ["dog", "person"]
    (record,) = coco.records(0, rng())
    answers = {tuple(box): turn.answer for box, turn in zip(record.boxes.tolist(), record.rounds, strict=True)}
    assert answers == {(10, 10, 40, 50): "dog", (50, 20, 100, 70): "person"}


@pytest.mark.parametrize("area", [{}, {"area": None}, {"area": 0}], ids=["absent", "null", "zero"])
def test_coco_an_area_is_used_only_where_there_is_one(tmp_path, area):
    annotation = {"id": 1, "image_id": 9, "category_id": 1, "bbox": [10, 10, 30, 40]} | area
    report = fixtures.source(Coco, fixtures.coco(tmp_path, annotations=[annotation]), tmp_path).report
    without = report.filtered.get("annotation without area", 0)
    assert (report.kept, without) == ((0, 1) if area == {"area": 0} else (1, 0))


def test_coco_normalised_boxes_are_named(tmp_path):
    annotations = [{"id": n, "image_id": 9, "category_id": 1, "bbox": [0.1, 0.2, 0.4, 0.5]} for n in range(3)]
    section = {"cache": tmp_path / "cache",
               "sources": [{"type": "coco", **fixtures.coco(tmp_path, annotations=annotations)}]}
    with pytest.raises(RecordError, match=r"sources\[0\] \(coco\): nothing in .*instances_train2017.json can be used:"
                       r"(.|\n)*filtered 3: box inside the first pixel, as if normalised to 0..1; expected pixels"):
        open_mixture(section, 0)


@pytest.mark.parametrize("content", [[], {}, {"images": []}, [{"image": 1}]])
def test_a_file_of_another_format_says_that_nothing_was_read(tmp_path, content):
    values = fixtures.refcoco(tmp_path)
    values["annotations"].write_text(json.dumps(content))
    with pytest.raises(RecordError, match="nothing in .*finetune_refcoco_train.json can be used:\n  read 0"):
        open_mixture({"cache": tmp_path / "cache", "sources": [{"type": "refcoco", **values}]}, 0)


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"images": [{"id": 1' + b"0" * 5000 + b"}]}"])
def test_text_that_no_json_parser_takes_names_the_file(tmp_path, content):
    values = fixtures.refcoco(tmp_path)
    values["annotations"].write_bytes(content)
    with pytest.raises(RecordError, match="finetune_refcoco_train.json"):
        fixtures.source(RefCoco, values, tmp_path)


def test_malformed_items_are_skipped_up_to_the_limit(tmp_path):
    values = fixtures.coco(tmp_path)
    content = json.loads(values["annotations"].read_text())
    content["annotations"] += [{"id": 90 + n, "image_id": 9, "category_id": 1, "bbox": "x", "area": 1} for n in (0, 1)]
    values["annotations"].write_text(json.dumps(content))
    report = fixtures.source(Coco, values, tmp_path, limit=2).report
    assert report.malformed == 2 and report.kept == 2
    assert "annotation 90" in report.errors[0]
    with pytest.raises(RecordError, match="more than 1 malformed"):
        fixtures.source(Coco, values, tmp_path, limit=1)


def test_broken_json_is_an_error_that_names_the_file(tmp_path):
    values = fixtures.coco(tmp_path)
    values["annotations"].write_text(values["annotations"].read_text()[:-40])
    with pytest.raises(RecordError, match="instances_train2017.json: not valid JSON"):
        fixtures.source(Coco, values, tmp_path)


def test_refcoco_packs_all_sentences_of_an_image_and_keeps_one_region_a_box(tmp_path):
    source = fixtures.source(RefCoco, fixtures.refcoco(tmp_path), tmp_path)
    assert len(source) == 1
    assert source.report.filtered == {"expression under 3 words": 1}
    record = pack(source.records(0, rng()))
    check_record(record)
    assert len(record.boxes) == 2 and len(record.rounds) == 3
    told = {(turn.question.split("\n")[-1], turn.answer) for turn in record.rounds}
    first = record.boxes.tolist().index([10, 10, 40, 60]) + 1
    assert told == {
        (f"<box{first}>", "the lady with the blue shirt"), (f"<box{first}>", "woman in blue on the left"),
        (f"<box{3 - first}>", "man in the middle"),
    }


def test_refcoco_plus_must_not_ask_for_positions_in_the_image(tmp_path):
    plain = fixtures.source(RefCoco, fixtures.refcoco(tmp_path), tmp_path)
    plus = fixtures.source(RefCoco, fixtures.refcoco(tmp_path, "refcoco+"), tmp_path)
    assert "where it is in the image" in plain.records(0, rng())[0].rounds[0].question
    assert "not where in the image" in plus.records(0, rng())[0].rounds[0].question


def test_refcocog_asks_for_a_description_of_a_named_region(tmp_path):
    source = fixtures.source(RefCoco, fixtures.refcoco(tmp_path, "refcocog"), tmp_path)
    record = pack(source.records(0, rng()))
    assert all("<region" in turn.question and "<box" not in turn.question for turn in record.rounds)


def test_unknown_refcoco_data_set_is_refused(tmp_path):
    with pytest.raises(RecordError, match="refclef"):
        fixtures.source(RefCoco, fixtures.refcoco(tmp_path) | {"dataset": "refclef"}, tmp_path)

"""COCO's segmentations become masks of training samples, the same through shards, and drawn by check."""

from __future__ import annotations

import json

import numpy as np
import pytest
import training_fixtures as fixtures
from pycocotools import mask as coco_mask

from ros_gpt4roi.model.config import ModelConfig, RoIAlignConfig
from training.collate import stack_images
from training.data import open_dataset
from training.data.check import render
from training.data.coco import Coco
from training.data.mixture import open_mixture
from training.data.record import RecordError
from training.data.segmentation import decode_mask, encode_mask, segmentation_region
from training.data.shards import write_shards

SIZE = (100, 80)
CONFIG = ModelConfig(regions=RoIAlignConfig(roi_size=7))
TRIANGLE = [[10, 10, 40, 10, 10, 50]]


def disc() -> np.ndarray:
    y, x = np.mgrid[:80, :100]
    return (x - 60) ** 2 + (y - 40) ** 2 < 15 ** 2


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 90), rng.integers(1, 90))) < rng.choice([0.02, 0.5, 0.98])
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    assert np.array_equal(decode_mask({"size": list(mask.shape), "counts": encoded["counts"].decode()}), mask)
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)
    again = coco_mask.frPyObjects(encode_mask(mask), *mask.shape)
    assert np.array_equal(coco_mask.decode(again), mask)


def test_polygons_of_one_object_cover_their_area_together():
    parts = [[10.5, 10, 40, 10, 10.5, 50], [60, 20, 90, 20, 90, 60, 60, 60]]
    shape = segmentation_region(parts, SIZE)
    x1, y1, x2, y2 = shape.box
    assert shape.box == (10.5, 10, 90, 60)
    assert shape.mask.mean() * (x2 - x1) * (y2 - y1) == pytest.approx(29.5 * 40 / 2 + 30 * 40, rel=0.03)


@pytest.mark.parametrize(("segmentation", "words"), [
    ("x", "expected polygons"), ([[1, 2, 3]], "expected polygons"), ([[1, 2, 3, 4]], "at least 3 corners"),
    ([7], "expected polygons"), ([["a"] * 6], "could not convert"), ([[0, 0, 5, 0, 9, 0]], "encloses nothing"),
    ([[0, 0, 200, 0, 0, 50]], "outside the image of 100x80"), ([[0, 0, 1e300, 0, 0, 50]], "outside the image"),
    ({"size": [80, 100]}, "counts None"), ({"size": [100, 80], "counts": [8000]}, "but the image is 100x80"),
    ({"size": [80, 100], "counts": [10, 20]}, "runs of 30 pixels"), ({"size": [80, 100], "counts": [8000]}, "empty"),
    ({"size": [80, 100], "counts": [-1, 8001]}, "run lengths"), ({"size": [80, 100], "counts": [0.5]}, "run lengths"),
    ({"size": [80, 100], "counts": "\0"}, "compressed"), ({"size": [80, 100], "counts": "o" * 99}, "compressed"),
    ({"size": [80, 100], "counts": "~~~"}, "compressed"), ({"size": [10**9, 10**9], "counts": [10**18]}, "at most"),
    ({"size": "all"}, "size 'all'"),
])
def test_what_is_no_segmentation_of_the_picture_is_refused(segmentation, words):
    with pytest.raises(ValueError, match=words):
        segmentation_region(segmentation, SIZE)


def coco(folder, **changes):
    values = fixtures.coco(folder)
    content = json.loads(values["annotations"].read_text())
    content["annotations"][0]["segmentation"] = TRIANGLE
    content["annotations"][1]["segmentation"] = []
    encoded = coco_mask.encode(np.asfortranarray(disc(), np.uint8))
    content["annotations"][2]["segmentation"] = {"size": [80, 100], "counts": encoded["counts"].decode()} | changes
    values["annotations"].write_text(json.dumps(content))
    return values | {"masks": True}


def test_objects_get_their_masks_where_they_are_asked_for(tmp_path):
    values = coco(tmp_path)
    source = fixtures.source(Coco, values, tmp_path)
    (record,) = source.records(0, np.random.default_rng(0))
    masks = {turn.answer: (box, mask) for turn, box, mask in zip(record.rounds, record.boxes.tolist(), record.masks)}
    box, mask = masks["dog"]
    assert box == [10, 10, 40, 50] and mask.mean() == pytest.approx(0.5, abs=0.02) and mask[3, 3] == 1 > mask[-3, -3]
    box, mask = masks["person"]
    assert box == [46, 26, 75, 55] and np.array_equal(mask, disc()[26:55, 46:75])
    (whole,) = source.records(1, np.random.default_rng(0))
    assert whole.masks == (None,) and whole.boxes.tolist() == [[5.5, 6, 25.5, 26]]
    assert source.report.noted["object without a segmentation, given as a whole box"] == 1
    (boxes,) = fixtures.source(Coco, values | {"masks": False}, tmp_path).records(0, np.random.default_rng(0))
    assert boxes.masks == ()


def test_a_segmentation_of_another_picture_is_malformed(tmp_path):
    values = coco(tmp_path, size=[40, 50])
    with pytest.raises(RecordError, match="coco 9: annotation 3: mask is of 50x40, but the image is 100x80"):
        fixtures.source(Coco, values, tmp_path)
    source = fixtures.source(Coco, values, tmp_path, limit=1)
    assert len(source.records(0, np.random.default_rng(0))[0].boxes) == 1


def test_masks_reach_the_network_directly_and_through_shards(tmp_path):
    values = {"cache": tmp_path / "cache", "sources": [{"type": "coco", **coco(tmp_path)}]}
    mixture = open_mixture(values, 0)
    write_shards(mixture, tmp_path / "tar", epochs=1, per_shard=9)
    index = {"kind": "shards", "index": str(tmp_path / "tar" / "index.json")}
    direct = open_dataset({"kind": "mixture", **values}, tmp_path, 0, CONFIG)
    stream = iter(open_dataset(index, tmp_path, 0, CONFIG))
    samples = [direct[0], direct[1]]
    for sample in (next(stream), next(stream)):
        twin = next(s for s in samples if s.rounds == sample.rounds)
        assert (sample.masks is None) == (twin.masks is None)
        if sample.masks is not None:
            np.testing.assert_allclose(sample.masks, twin.masks, atol=0.02)
    batch = stack_images(samples)
    assert batch["masks"].shape == (2, 2, 7, 7)
    row = next(place for place, sample in enumerate(samples) if sample.masks is not None)
    np.testing.assert_array_equal(batch["masks"][1 - row], 1)
    assert sorted(batch["masks"][row].mean((1, 2)).tolist()) == pytest.approx([0.5, np.pi / 4], abs=0.06)
    assert "masks" not in stack_images([samples[1 - row]])


def test_check_draws_them(tmp_path):
    mixture = open_mixture({"cache": tmp_path / "cache", "sources": [{"type": "coco", **coco(tmp_path)}]}, 0)
    record = next(record for record in (mixture[0], mixture[1]) if any(mask is not None for mask in record.masks))
    with_masks = np.asarray(render(record)).astype(int)
    place = [turn.answer for turn in record.rounds].index("dog")
    scale = with_masks.shape[1] / 100
    without = np.asarray(render(type(record)(record.image, record.boxes, record.rounds, record.source))).astype(int)
    changed = (with_masks != without).any(-1)
    x1, y1, x2, y2 = (record.boxes[place] * scale).astype(int)
    assert changed[y1 + 20:y1 + 40, x1 + 20:x1 + 40].mean() > 0.9
    assert not changed[y2 - 40:y2 - 20, x2 - 40:x2 - 20].any()

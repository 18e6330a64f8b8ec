"""Frames and boxes become the network's inputs, and the hash tells when they would become others."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from ros_gpt4roi.model import preprocess
from ros_gpt4roi.model.config import ConfigError, PreprocessConfig
from ros_gpt4roi.model.preprocess import normalise_boxes, preprocess_frame, preprocess_hash

CONFIG = PreprocessConfig(image_size=16)


def test_downwards_averages_areas():
    frame = np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    expected = frame.reshape(16, 2, 16, 4, 3).mean((1, 3))
    assert np.abs(preprocess_frame(frame, CONFIG).astype(float) - expected).max() <= 0.5


def test_upwards_interpolates():
    frame = np.repeat(np.array([[[0] * 3, [255] * 3]], np.uint8), 8, 0)
    row = preprocess_frame(frame, CONFIG)[0, :, 0].astype(int)
    assert len(np.unique(row)) > 2 and (np.diff(row) >= 0).all()


def test_right_size_stays_as_it_is():
    frame = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    result = preprocess_frame(frame[:, ::-1], CONFIG)
    np.testing.assert_array_equal(result, frame[:, ::-1])
    assert result.flags.c_contiguous


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8),
                                   np.zeros((0, 4, 3), np.uint8)])
def test_other_arrays_are_refused(frame):
    with pytest.raises(ValueError, match="expected uint8 RGB"):
        preprocess_frame(frame, CONFIG)


def test_boxes_are_in_units_of_the_image():
    boxes = normalise_boxes(np.array([[-32, 0, 160, 240], [320, 120, 352, 250]]), 320, 240)
    np.testing.assert_allclose(boxes, [[-0.1, 0, 0.5, 1], [1, 0.5, 1.1, 250 / 240]], rtol=1e-6)
    assert boxes.dtype == np.float32 and normalise_boxes(np.zeros((0, 4)), 320, 240).shape == (0, 4)


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 9, 9, 5], [0, 0, np.nan, 1], [0, 0, np.inf, 1]])
def test_bad_boxes_are_named(box):
    with pytest.raises(ValueError, match="box 1 is"):
        normalise_boxes(np.array([[0, 0, 1, 1], box]), 10, 10)


def test_hash_changes_with_everything_that_changes_pixels(monkeypatch):
    changes = [{"image_size": 17}, {"interpolation": "cubic"}, {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}]
    hashes = {preprocess_hash(dataclasses.replace(CONFIG, **change)) for change in [{}, *changes]}
    monkeypatch.setattr(preprocess, "REVISION", preprocess.REVISION + 1)
    assert len(hashes | {preprocess_hash(CONFIG)}) == len(changes) + 2


@pytest.mark.parametrize("interpolation", ["area", "linear", "cubic"])
def test_revision_stands_for_these_pixels(interpolation):
    """A change of what comes out must raise REVISION: then this pixel is to be looked up anew."""
    y, x = np.mgrid[0:60, 0:80]
    frame = np.stack([x * 3, y * 4, (x * y) % 256], -1).astype(np.uint8)
    result = preprocess_frame(frame, dataclasses.replace(CONFIG, interpolation=interpolation)).astype(int)
    assert preprocess.REVISION == 1
    expected = {"area": (81, 141, 153), "linear": (81, 141, 180), "cubic": (81, 141, 181)}
    assert np.abs(result[9, 5] - expected[interpolation]).max() <= 1


def test_unknown_filter_is_refused():
    with pytest.raises(ConfigError, match="lanczos"):
        PreprocessConfig(interpolation="lanczos")


def test_filters_are_opencvs():
    frame = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    cubic = preprocess_frame(frame, dataclasses.replace(CONFIG, interpolation="cubic"))
    np.testing.assert_array_equal(cubic, cv2.resize(frame, (16, 16), interpolation=cv2.INTER_CUBIC))

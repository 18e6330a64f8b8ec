"""Masks, polygons and points become boxes and weights of bins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ros_gpt4roi.model.config import PointConfig, RoIAlignConfig
from ros_gpt4roi.model.region_shapes import (
    ShapeError,
    area_sample,
    box_region,
    mask_region,
    point_region,
    polygon_region,
    region_inputs,
)

CONFIG, POINTS = RoIAlignConfig(roi_size=7), PointConfig()


def test_boxes_alone_need_no_masks():
    inputs = region_inputs([box_region(10, 20, 30, 60)], 100, 200, CONFIG)
    np.testing.assert_allclose(inputs.boxes, [[0.1, 0.1, 0.3, 0.3]])
    assert inputs.masks is None and inputs.points == frozenset()


def test_mask_gives_its_tight_box_and_covers_bins_by_area():
    mask = np.zeros((40, 50), bool)
    mask[10:24, 5:12] = True
    mask[10:17, 5:8] = False
    inputs = region_inputs([box_region(0, 0, 9, 9), mask_region(mask)], 50, 40, CONFIG)
    np.testing.assert_allclose(inputs.boxes[1], [0.1, 0.25, 0.24, 0.6])
    np.testing.assert_array_equal(inputs.masks[0], 1)
    expected = np.ones((7, 7))
    expected[:3, :3] = 0
    expected[3, :3] = 0.5
    np.testing.assert_allclose(inputs.masks[1], expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 20), (7, 7), (64, 5)])
def test_area_sampling_keeps_the_covered_area(shape):
    mask = np.random.default_rng(0).random(shape)
    sampled = area_sample(mask, 7)
    assert sampled.mean() == pytest.approx(mask.mean(), rel=1e-5)
    np.testing.assert_allclose(area_sample(np.ones(shape), 7), 1, rtol=1e-6)


def test_polygon_of_its_box_is_a_box_and_a_circle_covers_its_area():
    square = polygon_region(np.array([[2, 3], [9, 3], [9, 5], [2, 5]]))
    assert square.box == (2, 3, 9, 5)
    np.testing.assert_array_equal(square.mask, 1)
    angles = np.linspace(0, 2 * math.pi, 100, endpoint=False)
    circle = polygon_region(np.stack([np.cos(angles) * 0.3, np.sin(angles) * 5], 1))
    assert circle.mask.mean() == pytest.approx(math.pi / 4, abs=0.01)
    triangle = polygon_region(np.array([[0, 0], [10, 0], [0, 10]]))
    assert triangle.mask[3, 3] == 1 and triangle.mask[-3, -3] == 0 and triangle.mask[-3, 1] == 1


@pytest.mark.parametrize("corners", [256, 257, 2000])
def test_outlines_of_any_number_of_corners_cover_the_same(corners):
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    circle = polygon_region(np.stack([np.cos(angles) * 30 + 40, np.sin(angles) * 30 + 40], 1), box=(10, 10, 100, 70))
    assert circle.mask.mean() == pytest.approx(math.pi / 4 * 60 / 90, abs=0.01)
    assert circle.mask[64, 40] == 1 and not circle.mask[64, 100:].any() and not circle.mask[:5, :5].any()


def test_small_and_thin_parts_far_apart_are_filled():
    small, thin = np.array([[0, 0], [2, 0], [0, 2]]), np.array([[4000, 2000], [4100, 2100], [4100, 2100.2]])
    assert polygon_region(small, thin).box == (0, 0, 4100, 2100.2)


def test_lines_that_cross_a_lot_are_filled_all_the_same():
    scrawl = polygon_region(np.random.default_rng(0).uniform(0, 500, (20_000, 2)))
    assert 0.4 < scrawl.mask.mean() < 0.6


def test_point_is_a_small_box_around_it():
    inputs = region_inputs([box_region(0, 0, 5, 5), point_region(100, 50, 320, 240, POINTS)], 320, 240, CONFIG)
    np.testing.assert_allclose(inputs.boxes[1] * [320, 240, 320, 240], [94, 44, 106, 56], rtol=1e-5)
    assert inputs.points == {2}


@pytest.mark.parametrize(("make", "text"), [
    (lambda: mask_region(np.zeros((5, 5))), "empty"),
    (lambda: mask_region(np.full((5, 5), 255)), "255"),
    (lambda: mask_region(np.ones((5, 5, 3))), r"\(5, 5, 3\)"),
    (lambda: polygon_region(np.zeros((2, 2))), "at least 3 corners"),
    (lambda: polygon_region(np.array([[0, 0], [1, 1], [2, np.nan]])), "nan"),
    (lambda: polygon_region(np.array([[0, 0], [5, 0], [9, 0]])), "encloses nothing"),
    (lambda: polygon_region(np.array([[50, 50], [100, 100], [150, 150]])), "encloses nothing"),
    (lambda: polygon_region(np.array([[1000.1, 0.1], [1000.4, 0.7], [1001.3, 2.5]], np.float32)), "encloses nothing"),
    (lambda: point_region(-1, 5, 10, 10, POINTS), r"point is \(-1, 5\).*10 × 10"),
])
def test_what_is_no_region_is_refused(make, text):
    with pytest.raises(ShapeError, match=text):
        make()


def test_bad_boxes_are_refused():
    with pytest.raises(ValueError, match="x1 < x2"):
        region_inputs([box_region(5, 5, 5, 9)], 10, 10, CONFIG)

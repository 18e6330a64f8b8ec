"""Boxes from outside: which are taken, and what their regions are called."""
from __future__ import annotations

import math

import pytest

from ros_gpt4roi.runtime.masks import Mask
from ros_gpt4roi.runtime.regions import BoxError, check_box, usable_regions
from ros_gpt4roi.runtime.types import Region


def test_regions_without_an_id_get_the_next_free_number() -> None:
    given = [Region(name, (0, 0, 5, 5)) for name in ("2", "", "")]
    regions, refusals = usable_regions(given, 64, 48)
    assert [region.id for region in regions] == ["2", "3", "4"] and refusals == ()


def test_a_bad_box_costs_only_itself() -> None:
    given = [Region("", (1, 2, 9, 9), "cup", 0.5), Region("far", (99, 2, 110, 9)), Region("", (3, 4, 3, 4)),
             Region("", (5, 9, 5, 9), score=0.25), Region("1", (0, 0, 8, 8)), Region("1", (0, 0, 9, 9))]
    regions, refusals = usable_regions(given, 64, 48)
    assert regions == (Region("2", (1, 2, 9, 9), "cup", 0.5), Region("3", (3, 4, 3, 4)),
                       Region("4", (5, 9, 5, 9), score=0.25), Region("1", (0, 0, 8, 8)))
    outside, twice = refusals
    assert outside == "region far: box (99 2 110 9) is outside the image of 64x48"
    assert "region 1: id '1' is given to two boxes" == twice


@pytest.mark.parametrize("box, words", [
    ((math.nan, 1, 2, 3), "not finite"), ((5, 5, 4, 9), "inverted"), ((5, 5, 5, 9), "empty"),
    ((0.1, 0.2, 0.9, 1), "normalised"), ((-9, 5, 0, 9), "outside"), ((5, 5, 5.01, 9), "too thin: 0.01 x 4"),
    ((0, 0, 999, 9), "too far beyond"), ((65, 5, 65, 5), r"point \(65 5\) is outside"),
])
def test_a_box_that_cannot_be_used_is_named(box: tuple[float, float, float, float], words: str) -> None:
    with pytest.raises(BoxError, match=words):
        check_box(box, 64, 48)


def test_points_and_small_boxes_are_taken_where_they_are_meant() -> None:
    assert check_box((0.1, 0.2, 0.9, 1), 64, 48, normalised=False) == (0.1, 0.2, 0.9, 1)
    assert check_box((64, 48, 64, 48), 64, 48) == (64, 48, 64, 48)
    with pytest.raises(BoxError, match="box 5 5 is empty"):
        check_box((5, 5, 5, 5), 64, 48, points=False, shown="box 5 5")


def test_the_cells_of_all_masks_together_are_bounded_and_a_refused_mask_is_not_counted() -> None:
    large, small = Mask.of_runs(4096, 2048, [1_000_000, 7_388_608]), Mask.of_runs(64, 48, [0, 64 * 48])
    given = [Region(f"r{place}", (0, 0, 0, 0), mask=large if place < 4 else small) for place in range(5)]
    regions, refusals = usable_regions([given[4], *given[:4]], 64, 48)
    assert [region.id for region in regions] == ["r4", "r0", "r1", "r2"]
    assert refusals == ("region r3: the masks up to it hold 33557504 cells; expected at most 33554432 in all",)
    regions, _ = usable_regions([Region("first", (0, 0, 0, 0), mask=small), *given], 64, 48)
    assert [region.id for region in regions] == ["first", "r0", "r1", "r2", "r4"]

"""Where labels go, held to the geometry that makes them readable, and that they are drawn there."""
from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ros_gpt4roi import run_lengths
from ros_gpt4roi.annotate import Layout, annotate, arrange, region_colour
from ros_gpt4roi.runtime.masks import Mask
from ros_gpt4roi.runtime.types import Region

TEXT = "A small matte red mug to the left of the large shiny blue bowl, in front of the box."
# What the picture at the head of the README showed half of: neighbours whose labels met.
TABLE = ((115, 205, 160, 263), (34, 236, 161, 380), (292, 205, 346, 266), (180, 132, 290, 243), (180, 249, 371, 419),
         (53, 353, 198, 480))


def random_boxes(seed: int, count: int, width: int, height: int) -> list[tuple[float, float, float, float]]:
    random = np.random.default_rng(seed)
    corners = random.uniform((-0.1 * width, -0.1 * height), (0.9 * width, 0.9 * height), (count, 2))
    return [(x, y, x + across, y + down)
            for (x, y), (across, down) in zip(corners, random.uniform(4, 0.4 * height, (count, 2)))]


def named(boxes, texts=(TEXT,)) -> list[tuple[Region, str]]:
    return [(Region(str(place), tuple(map(float, box))), texts[place % len(texts)])
            for place, box in enumerate(boxes, 1)]


def overlap(first, second) -> int:
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    return max(0, across) * max(0, down)


def check(layout: Layout, width: int, height: int, regions) -> None:
    """What holds of every layout."""
    for first, second in combinations((*layout.labels, *layout.legend), 2):
        assert not overlap(first.rectangle, second.rectangle), (first, second)
    for label in layout.labels:
        x1, y1, x2, y2 = label.rectangle
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height, label
        box = np.clip(label.region.box, 0, (width, height) * 2)
        touching = (x1 - 1, y1 - 1, x2 + 1, y2 + 1)
        assert overlap(touching, (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)), f"{label} is not at its box"
    for label in layout.legend:
        assert height <= label.rectangle[1] < label.rectangle[3] <= layout.height <= 2 * height, label
    in_legend = {label.region.id for label in layout.legend}
    whole = {label.region.id for label in layout.labels if label.lines[0].startswith(f"{label.region.id}:")}
    assert not in_legend & whole, "a text is shown twice"
    assert len(in_legend) + len(whole) + layout.omitted == len(regions)


@pytest.mark.parametrize("size", [(640, 480), (1280, 720), (320, 240), (64, 48), (480, 640)])
@pytest.mark.parametrize("count", [1, 6, 20, 120])
def test_labels_never_cover_one_another_nor_leave_the_picture(size: tuple[int, int], count: int) -> None:
    for seed in range(3):
        regions = named(random_boxes(seed, count, *size), (TEXT, "a mug", "w" * 300, "A " + TEXT * 4))
        check(arrange(*size, regions), *size, regions)


def test_neighbours_are_labelled_in_full_without_a_legend() -> None:
    regions = named(TABLE)
    layout = arrange(640, 480, regions)
    check(layout, 640, 480, regions)
    assert not layout.legend and layout.height == 480
    for label in layout.labels:
        shown = " ".join(label.lines)
        assert shown == f"{label.region.id}: {TEXT}"
        for box in TABLE:  # the objects stay to be seen
            assert overlap(label.rectangle, box) <= 0.26 * (box[2] - box[0]) * (box[3] - box[1])


def test_crowded_boxes_are_numbered_and_explained_below() -> None:
    boxes = [(200 + 22 * column, 150 + 22 * row, 220 + 22 * column, 170 + 22 * row)
             for row in range(4) for column in range(5)]
    regions = named(boxes)
    layout = arrange(640, 480, regions)
    check(layout, 640, 480, regions)
    assert len(layout.legend) > 10 and not layout.omitted and layout.height > 480
    numbers = {label.region.id for label in layout.labels if label.lines == (label.region.id,)}
    assert numbers == {label.region.id for label in layout.legend}, "each legend entry has its number in the picture"
    assert [int(label.region.id) for label in layout.legend] == sorted(int(label.region.id) for label in layout.legend)


def test_one_place_for_everything_leaves_room_for_some() -> None:
    regions = named([(300, 200, 310, 210)] * 200)
    layout = arrange(640, 480, regions)
    check(layout, 640, 480, regions)
    assert layout.omitted and len(layout.legend) + layout.omitted >= 190
    assert annotate(np.zeros((480, 640, 3), np.uint8), regions).shape == (layout.height, 640, 3)


def test_a_label_leaves_other_boxes_free_where_there_is_room_at_its_own() -> None:
    # Broad, it would lie on the left or on the right neighbour; narrow, it has a place between them.
    boxes = [(300, 200, 340, 240), (0, 0, 150, 480), (480, 0, 640, 480)]
    text = "a small matte red mug left of the bowl"
    layout = arrange(640, 480, named(boxes, (text,)))
    label = next(label for label in layout.labels if label.region.id == "1")
    assert " ".join(label.lines) == f"1: {text}"
    assert not any(overlap(label.rectangle, box) for box in boxes), label


def test_an_id_and_an_empty_text_need_no_legend() -> None:
    layout = arrange(640, 480, named([(100, 100, 200, 200)], ("",)))
    assert [label.lines for label in layout.labels] == [("1",)] and not layout.legend
    assert arrange(640, 480, []) == Layout((), (), 0, 480)


@pytest.mark.parametrize("boxes", [TABLE, random_boxes(1, 40, 640, 480)], ids=["labels", "labels and legend"])
def test_texts_are_drawn_within_their_places(boxes) -> None:
    regions = named(boxes)
    drawn = annotate(np.zeros((480, 640, 3), np.uint8), regions)
    layout = arrange(640, 480, regions)
    assert drawn.shape[0] == layout.height
    for label in (*layout.labels, *layout.legend):
        x1, y1, x2, y2 = label.rectangle
        ground = drawn[y1:y2, x1:x2]
        border = np.vstack((ground[0], ground[-1], ground[:, 0], ground[:, -1]))
        assert (border == region_colour(label.region.id)).all(), f"{label} is cut, or covered"
        assert (ground != region_colour(label.region.id)).any(-1).sum() > 5 * len(label.lines), f"{label} has no text"


def test_outlines_are_thin_where_boxes_are_crowded() -> None:
    sparse = named([(300, 300, 400, 400)])
    crowded = sparse + named([(10, 10, 20, 20)] * 60)
    rows = [annotate(np.zeros((480, 640, 3), np.uint8), regions)[350, 390:410] for regions in (sparse, crowded)]
    thick, thin = (int(row.any(-1).sum()) for row in rows)
    assert thin < thick


def test_every_region_is_drawn_and_the_frame_left_alone() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    regions = [(Region("1", (100, 100, 200, 200)), "a small matte red mug to the left of the large shiny blue bowl"),
               (Region("2", (-1e9, 300, 1e9, 400)), ""), (Region("3", (600, -5, 700, 20)), "at the border"),
               (Region("4", (320, 240, 320, 240)), "a point")]
    drawn = annotate(image, regions)
    assert drawn.shape == image.shape and not image.any()
    for region, _ in regions:
        assert (drawn == region_colour(region.id)).all(-1).sum() > 50


@pytest.mark.parametrize("mask", [
    Mask.of_polygons([[(100, 100), (300, 100), (100, 300)]]),
    Mask.of_runs(640, 480, run_lengths.encode(np.pad(np.tri(200, dtype=bool)[::-1], ((100, 180), (100, 340)))))])
def test_a_mask_is_outlined_in_place_of_its_box(mask: Mask) -> None:
    regions = [(Region("1", (100, 100, 300, 300), mask=mask), "")]
    drawn = annotate(np.zeros((480, 640, 3), np.uint8), regions)
    corner = drawn[290:310, 290:310]
    slope = drawn[195:205, 195:205]
    assert not corner.any() and (slope == region_colour("1")).all(-1).any()
    assert not drawn[150:160, 150:160].any(), "it is not filled"


def test_a_picture_is_made_as_high_as_the_last_one() -> None:
    image = np.full((48, 64, 3), 200, np.uint8)
    drawn = annotate(image, named([(5, 5, 30, 30)], ("",)), least_height=80)
    assert drawn.shape == (80, 64, 3) and (drawn[48:] == drawn[79, 0]).all() and (drawn[:48] == 200).any()

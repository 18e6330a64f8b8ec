"""Masks as they are given, and what the network is shown of them."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ros_gpt4roi import run_lengths
from ros_gpt4roi.model.preprocess import preprocess_frame
from ros_gpt4roi.model.region_shapes import area_sample, mask_region, polygon_region, region_inputs
from ros_gpt4roi.runtime.masks import Mask, MaskError
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.regions import usable_regions
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.runtime.types import Frame, Region, Status

WIDTH, HEIGHT = 64, 48
TRIANGLE = ((10, 10), (30, 10), (10, 40))


def runs_of(mask: np.ndarray) -> Mask:
    return Mask.of_runs(mask.shape[1], mask.shape[0], run_lengths.encode(mask))


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_say_what_their_cells_say(seed: int) -> None:
    random = np.random.default_rng(seed)
    cells = random.random(random.integers(1, 20, 2)) < random.choice([0.1, 0.5, 0.95])
    cells[tuple(random.integers(cells.shape))] = True
    mask, (height, width) = runs_of(cells), cells.shape
    assert np.array_equal(mask.decode(), cells)
    rows, columns = np.nonzero(cells)
    box = (3 * columns.min(), 2 * rows.min(), 3 * (columns.max() + 1), 2 * (rows.max() + 1))
    assert mask.bounds(3 * width, 2 * height) == box  # a frame of another resolution
    for x, y in random.random((20, 2)) * (3 * width, 2 * height):
        assert mask.contains(x, y, 3 * width, 2 * height) == cells[int(y / 2), int(x / 3)]
    shape = mask.shape(box, 3 * width, 2 * height)
    assert shape.box == box and np.array_equal(shape.mask, mask_region(cells).mask)
    beside = (box[0] - 4.0, box[1] + 0.5, box[2] - 0.25, box[3] + 7.0)  # partly outside, and through cells
    inside = mask_region(cells, tuple(value / scale for value, scale in zip(beside, (3, 2) * 2)))
    np.testing.assert_allclose(mask.shape(beside, 3 * width, 2 * height).mask, inside.mask, atol=1e-6)


def test_a_polygon_and_its_pixels_are_the_same_region() -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    pixels = runs_of((x > 10) & (y > 10) & (30 * (x - 10) + 20 * (y - 10) < 600))
    polygon = Mask.of_polygons([TRIANGLE])
    assert polygon.bounds(WIDTH, HEIGHT) == pytest.approx(pixels.bounds(WIDTH, HEIGHT), abs=1) == (10, 10, 30, 40)
    for box in ((10, 10, 30, 40), (5, 5, 25, 45), (12.3, 9.1, 40.7, 30.2)):
        weights = [area_sample(mask.shape(box, WIDTH, HEIGHT).mask, 7) for mask in (polygon, pixels)]
        np.testing.assert_allclose(weights[0], weights[1], atol=0.15)
        assert weights[0].mean() == pytest.approx(weights[1].mean(), abs=0.02)
    assert polygon.contains(12, 12, WIDTH, HEIGHT) and not polygon.contains(29, 39, WIDTH, HEIGHT)


@pytest.mark.parametrize("box", [(10, 10, 30, 40), (3.3, 4.7, 20.1, 9.9), (0, 0, 64, 48), (63.5, 47.2, 64, 48)])
def test_a_mask_of_everything_is_all_of_a_box(box: tuple[float, float, float, float]) -> None:
    everything = [Mask.of_runs(WIDTH, HEIGHT, [0, WIDTH * HEIGHT]), Mask.of_runs(1, 1, [0, 1]),
                  Mask.of_polygons([((0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT))])]
    for mask in everything:
        assert (area_sample(mask.shape(box, WIDTH, HEIGHT).mask, 7) == 1).all()


def test_outlines_enclose_the_same() -> None:
    cells = np.zeros((12, 16), bool)
    cells[3:9, 4:12] = True
    (outline,) = runs_of(cells).outlines(WIDTH, HEIGHT)
    assert (outline.min(0).tolist(), outline.max(0).tolist()) == ([18, 14], [46, 34])
    assert Mask.of_polygons([TRIANGLE]).outlines(WIDTH, HEIGHT)[0].tolist() == [list(map(float, p)) for p in TRIANGLE]


@pytest.mark.parametrize("make, words", [
    (lambda: Mask.of_polygons([TRIANGLE, TRIANGLE[:2]]), "polygon 2 of the mask has 2 corners; expected at least 3"),
    (lambda: Mask.of_polygons([((0, 0), (1, float("nan")), (3, 3))]), "not finite"),
    (lambda: Mask.of_polygons([np.zeros((40_000, 2))]), "40000 corners; expected at most 32768"),
    (lambda: Mask.of_polygons([TRIANGLE] * 1025), "1025 polygons; expected at most 1024"),
    (lambda: Mask.of_runs(0, 48, []), "grid of 0x48"), (lambda: Mask.of_runs(2**31, 2**31, [2**62]), "grid of"),
    (lambda: Mask.of_runs(2**20, 1, [0, 2**20]), "expected 1 to 16384 cells a side and at most 8388608 in all"),
    (lambda: Mask.of_runs(64, 48, [5, 6]), r"runs of 11 pixels in all, expected 64 \* 48"),
    (lambda: Mask.of_runs(64, 48, [64 * 48]), "is empty"), (lambda: Mask.of_runs(64, 48, [64 * 48, 0]), "is empty"),
    (lambda: Mask.of_runs(64, 48, [0] * 70_000), "70000 runs; expected at most 65536"),
])
def test_what_is_no_mask_is_refused(make: Callable[[], Mask], words: str) -> None:
    with pytest.raises(MaskError, match=words):
        make()


def test_a_bad_mask_costs_only_its_region() -> None:
    fine, far = Mask.of_polygons([TRIANGLE]), Mask.of_polygons([((900, 9), (950, 9), (920, 30))])
    given = [Region("a", (5, 5, 20, 20), mask=fine), Region("b", (40, 5, 60, 20), mask=fine),
             Region("c", (0, 0, 0, 0), mask=far), Region("d", (0, 0, 0, 0), mask=fine),
             Region("e", (9, 9, 9, 9), mask=fine), Region("f", (0, 0, 0, 0), mask=Mask.of_polygons([((1, 1),) * 3])),
             Region("g", (0, 0, 0, 0)), Region("h", (0, 0, 0, 0), mask=Mask.of_runs(4, 4, [5, 2, 9]))]
    regions, refusals = usable_regions(given, WIDTH, HEIGHT)
    assert [(region.id, region.box, region.mask) for region in regions] == [
        ("a", (5, 5, 20, 20), fine), ("d", (10, 10, 30, 40), fine), ("g", (0, 0, 0, 0), None),
        ("h", (16, 12, 32, 36), given[-1].mask)]
    outside_box, outside, point, nothing = refusals
    assert outside_box == "region b: mask around (10 10 30 40) lies outside its box (40 5 60 20)"
    assert outside == "region c: mask around (900 9 950 30) is outside the image of 64x48"
    assert point.startswith("region e: box (9 9 9 9) is empty") and "region f" in nothing and "empty" in nothing


def test_all_masks_of_a_frame_together_are_bounded() -> None:
    mask = Mask.of_polygons([np.random.default_rng(0).uniform(5, 40, (30_000, 2))])
    regions, refusals = usable_regions([Region("", (0, 0, 0, 0), mask=mask)] * 19, WIDTH, HEIGHT)
    assert len(regions) == 17 and len(refusals) == 2
    assert "region 18: the masks up to it hold 1080000 numbers; expected at most 1048576" in refusals[0]


@pytest.fixture
def frame(make_frame: Callable[..., Frame]) -> Frame:
    return replace(make_frame(0), regions=(Region("a", (4, 4, 40, 40)), Region("b", (10, 8, 30, 44))))


def masked(frame: Frame, **masks: Mask) -> Frame:
    return replace(frame, regions=tuple(replace(region, mask=masks.get(region.id)) for region in frame.regions))


def test_masks_reach_the_embeddings_as_the_network_takes_them(make_pipeline: Callable[..., Pipeline],
                                                              frame: Frame) -> None:
    pipeline, corner = make_pipeline(), np.array([(4, 4), (40, 4), (4, 40)])
    seen = pipeline.encoder.encode(masked(frame, a=Mask.of_polygons([corner]))).vision
    config = pipeline.model_config
    inputs = region_inputs([polygon_region(corner, box=(4, 4, 40, 40)), polygon_region(np.array(
        [(10, 8), (30, 8), (30, 44), (10, 44)]))], 48, 48, config.regions)
    image = preprocess_frame(frame.image, config.preprocess)
    expected = pipeline.encoder.vision.encode(image[None], inputs.boxes[None], inputs.masks[None])
    assert torch.equal(seen.region_embeddings, expected.region_embeddings)
    whole = make_pipeline().encoder.encode(frame).vision.region_embeddings
    assert not torch.allclose(seen.region_embeddings[:, 0], whole[:, 0], rtol=1e-2)
    assert torch.equal(seen.region_embeddings[:, 1], whole[:, 1]), "a region without a mask is not touched"


def test_a_full_mask_is_no_mask(make_pipeline: Callable[..., Pipeline], frame: Frame) -> None:
    full = Mask.of_runs(48, 48, [0, 48 * 48])
    assert torch.equal(make_pipeline().encoder.encode(masked(frame, a=full, b=full)).vision.region_embeddings,
                       make_pipeline().encoder.encode(frame).vision.region_embeddings)


def test_a_mask_with_nothing_in_its_box_costs_only_its_region(make_pipeline: Callable[..., Pipeline],
                                                              frame: Frame) -> None:
    ring = Mask.of_polygons([((2, 2), (46, 2), (46, 3), (2, 3)), ((2, 44.5), (46, 44.5), (46, 46), (2, 46))])
    frame = masked(frame, b=ring)
    result = make_pipeline().describe(frame)
    assert [description.region.id for description in result.descriptions] == ["a"]
    (refusal,) = result.refused
    assert "region b: " in refusal and "encloses nothing of box" in refusal
    question = Question("What is this?", subject="b")
    answer = make_pipeline().ask(Conversation("", frame), question)
    assert answer.status == Status.UNKNOWN_REGION and "'b'" in answer.error and refusal in answer.error


def test_a_changed_mask_is_described_anew_and_the_same_one_is_not(make_pipeline: Callable[..., Pipeline],
                                                                  frame: Frame) -> None:
    pipeline = make_pipeline(reuse_distance=1e-4)
    corner = Mask.of_polygons([((4, 4), (20, 4), (4, 20))])
    reused = [[description.reused for description in pipeline.describe(shown).descriptions] for shown in (
        frame, masked(frame, a=corner), masked(frame, a=corner), frame)]
    assert reused == [[False, False], [False, True], [True, True], [False, True]]


def test_this_is_the_region_that_a_question_is_about(make_pipeline: Callable[..., Pipeline], frame: Frame) -> None:
    pipeline, conversation = make_pipeline(), Conversation("", frame)
    for subject, place in (("b", 2), ("a", 1)):
        question = Question("Is this red?", subject=subject)
        assert pipeline.ask(conversation, question).status == Status.OK
        assert question.asked == f"Is <region{place}> red?"


def test_a_region_that_joins_a_conversation_may_have_a_mask(make_pipeline: Callable[..., Pipeline],
                                                            frame: Frame) -> None:
    added = Region("c", (10, 10, 30, 40), mask=Mask.of_polygons([TRIANGLE]))
    joined = make_pipeline().encoder.encode(frame.with_regions((added,))).vision.region_embeddings
    together = make_pipeline().encoder.encode(replace(frame, regions=(*frame.regions, added))).vision.region_embeddings
    torch.testing.assert_close(joined, together)

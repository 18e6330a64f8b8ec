"""A share of the regions become points, from the data section to what the network is given."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import training_fixtures as fixtures

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model"))
from model_fixtures import sentencepiece_like, tiny_config  # noqa: E402

from ros_gpt4roi.model.checkpoint import LoadedModel, build_model  # noqa: E402
from training.collate import ConversationCollator  # noqa: E402
from training.data import DataError, open_dataset  # noqa: E402
from training.data import mixture as mixture_module  # noqa: E402
from training.data.check import render  # noqa: E402
from training.data.mixture import draw_points, open_mixture  # noqa: E402
from training.data.record import Record, RecordError, Round, check_record  # noqa: E402
from training.data.sample import make_sample  # noqa: E402
from training.data.shards import ShardDataset, write_shards  # noqa: E402

PIXELS = np.zeros((80, 100, 3), np.uint8)
ROUNDS = (Round("<box1>", "dog"), Round("What is <region2>?", "A cat."))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    tokenizer = sentencepiece_like()
    return build_model(tiny_config(len(tokenizer)), tokenizer)


def section(folder: Path, points: float) -> dict:
    return {"cache": folder / "cache", "malformed_limit": 0, "points": points,
            "sources": [{"type": "coco", **fixtures.coco(folder)}]}


def test_points_lie_in_the_middle_of_their_box_or_in_its_mask():
    boxes = np.tile(np.float32([[10, 20, 50, 40]]), (400, 1))
    mask = np.zeros((5, 8), np.float32)
    mask[4, 6:] = 1
    record = Record(PIXELS, boxes, ROUNDS, "test", (None,) * 200 + (mask,) * 200)
    points = check_record(draw_points(record, 0.25, np.random.default_rng(0))).points
    assert abs(len(points) - 100) < 4 * 9  # four standard deviations
    whole, masked = (np.array([point for number, point in points.items() if (number > 200) == has]) for has in (0, 1))
    assert (whole >= (20, 25)).all() and (whole <= (40, 35)).all() and whole.std(0).min() > 2
    assert (masked >= (40, 36)).all() and masked.std(0).min() > 0.5
    assert not draw_points(record, 0.0, np.random.default_rng(0)).points


def test_points_of_a_box_that_reaches_beyond_the_picture_lie_in_the_picture(loaded):
    boxes, mask = np.float32([[-0.9, -0.9, 0.2, 0.2], [99.5, 79.5, 100.9, 80.9]]), np.ones((1, 1), np.float32)
    record = Record(PIXELS, boxes, ROUNDS, "test", (mask, mask))
    for seed in range(50):
        pointed = check_record(draw_points(record, 1.0, np.random.default_rng(seed)))
        assert make_sample(pointed, loaded.config).points == {1, 2}


def test_points_are_functions_of_seed_and_visit(tmp_path):
    one, two, none = (open_mixture(section(tmp_path / name, share), seed=3)
                      for name, share in (("a", 0.5), ("b", 0.5), ("c", 0.0)))
    found = [dict(one[i].points) for i in range(20)]
    assert found == [dict(two[i].points) for i in range(20)] and len({str(points) for points in found}) > 5
    assert [none[i].rounds for i in range(20)] == [one[i].rounds for i in range(20)], "they change no text"


def test_the_network_is_given_a_small_box_and_the_prompt_a_point(loaded):
    boxes = np.float32([[10, 10, 50, 50], [20, 30, 90, 70]])
    half = np.ones((4, 4), np.float32) * [1, 1, 0, 0]
    record = Record(PIXELS, boxes, ROUNDS, "test", (half, half), {2: (55.0, 50.0)})
    sample = make_sample(check_record(record), loaded.config)
    side = loaded.config.points.size * 80
    np.testing.assert_allclose(sample.boxes[1] * [100, 80, 100, 80],
                               [55 - side / 2, 50 - side / 2, 55 + side / 2, 50 + side / 2], rtol=1e-5)
    assert (sample.masks[1] == 1).all() and (sample.masks[0] < 1).any(), "a point has no mask"
    batch = ConversationCollator(loaded.prompts)([sample])
    tokens = loaded.tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    places = {token: batch["region_index"][0][[t == token for t in tokens]].tolist() for token in ("<bbox>", "<point>")}
    # Each where it is listed; the first again where a question is nothing but its token.
    assert places == {"<bbox>": [0, 0], "<point>": [1]}


def test_shards_keep_points(tmp_path, loaded):
    mixture = open_mixture(section(tmp_path, 0.5), seed=0)
    write_shards(mixture, tmp_path / "tar", epochs=4, per_shard=100)
    dataset = ShardDataset(str(tmp_path / "tar" / "index.json"), 0, loaded.config)
    found = sorted(str((record.source, record.points)) for record in dataset.records(0))
    expected = [mixture[i] for i in range(4 * len(mixture))]
    assert found == sorted(str((record.source, record.points)) for record in expected)
    assert any(record.points for record in expected)


def test_a_region_that_the_network_cannot_take_costs_only_its_picture(tmp_path, loaded, monkeypatch):
    mixture = open_mixture(section(tmp_path, 0.0) | {"malformed_limit": 1}, seed=0)
    draw = mixture_module.draw_points

    def outside(record, share, rng):
        reaching = dataclasses.replace(record, boxes=record.boxes + np.float32([0, 0, 200, 0]))
        changed = dataclasses.replace(reaching, points={1: (150.0, float(record.boxes[0, 1]))})
        return changed if record.source == "coco 9" else draw(record, share, rng)

    monkeypatch.setattr(mixture_module, "draw_points", outside)
    write_shards(mixture, tmp_path / "tar", epochs=1, per_shard=100)
    samples = mixture_module.MixtureDataset(mixture, loaded.config)
    assert [len(samples[i].points) for i in range(len(samples))] == [0] * len(samples)
    assert mixture.malformed.malformed == 1 and "coco 9: point is (150.0, " in mixture.malformed.errors[0]
    stream = ShardDataset(str(tmp_path / "tar" / "index.json"), 0, loaded.config, malformed_limit=1)
    for _, sample in zip(range(3), stream):
        assert not sample.points
    assert stream.malformed.malformed == 1


def test_check_draws_them():
    record = Record(PIXELS, np.float32([[10, 10, 50, 50]]), ROUNDS[:1], "test")
    pointed = draw_points(record, 1.0, np.random.default_rng(0))
    assert (np.asarray(render(record)) != np.asarray(render(pointed))).any()


@pytest.mark.parametrize("points", [{3: (20.0, 20.0)}, {1: (60.0, 20.0)}, {0: (20.0, 20.0)}, {1: (float("nan"), 20.0)}])
def test_points_outside_their_boxes_are_refused(points):
    with pytest.raises(RecordError, match="is not inside its box"):
        check_record(Record(PIXELS, np.float32([[10, 10, 50, 50]] * 2), ROUNDS, "test", (), points))


def test_a_recipe_opens_them_and_a_share_beyond_all_is_refused(tmp_path, loaded):
    samples = open_dataset({"kind": "mixture", **section(tmp_path, 1.0)}, tmp_path, 0, loaded.config)
    assert all(sample.points == frozenset(range(1, len(sample.boxes) + 1)) for sample in (samples[i] for i in range(2)))
    with pytest.raises(DataError, match="points is 2"):
        open_mixture(section(tmp_path, 2), seed=0)

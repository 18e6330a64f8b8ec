"""Pictures that look a little otherwise at every visit: what is said of their regions stays true."""

from __future__ import annotations

import dataclasses

import numpy as np
import training_fixtures as fixtures

from training.data.augmentation import vary
from training.data.mixture import Visit, open_mixture
from training.data.record import Record, Round, check_record

BOXES = np.asarray([[10, 10, 40, 50], [60, 20, 100, 80]], np.float32)


def picture(answer: str = "a valve") -> Record:
    """A grey picture whose first region alone is bright."""
    image = np.full((80, 100, 3), 60, np.uint8)
    image[10:50, 10:40] = 200
    return Record(image, BOXES, (Round("What is <region1>?", answer),), "a picture")


def looks(record: Record, count: int = 40) -> list[Record]:
    return [check_record(vary(record, np.random.default_rng(seed))) for seed in range(count)]


def is_mirrored(record: Record) -> bool:
    return record.boxes[0, 0] > record.boxes[1, 0]


def test_boxes_frame_what_they_framed():
    record = picture()
    varied = looks(record)
    assert 10 < sum(map(is_mirrored, varied)) < 30
    heights = []
    for found in varied:
        bright = np.argwhere(found.image[..., 0] > 120)
        (top, left), (bottom, right) = bright.min(0), bright.max(0) + 1
        heights.append(bottom - top)
        # A box's edge moves by up to 4 % of the largest side, and an enlarged picture has edges between two pixels.
        assert np.abs(found.boxes[0] - (left, top, right, bottom)).max() <= 0.04 * 40 * 1.2 + 1
        assert (found.boxes >= 0).all() and (found.boxes <= (100, 80, 100, 80)).all()
        assert (found.boxes[:, 2:] - found.boxes[:, :2] > 0.75 * (BOXES[:, 2:] - BOXES[:, :2])).all(), "none is cut"
    assert min(heights) < 38 and max(heights) > 42, "from nearer and from further away"
    assert len({found.boxes.tobytes() for found in varied}) == len(varied)
    assert len({found.image.mean().round(3) for found in varied}) > 30
    assert (record.boxes == BOXES).all() and record.image.max() == 200, "the picture itself stays as it is"


def test_what_is_said_of_sides_stays_true():
    assert not any(map(is_mirrored, looks(picture("the valve on the left"))))


def test_masks_stay_where_they_are():
    record = dataclasses.replace(picture(), masks=(None, np.ones((4, 4), np.float32)))
    assert all((found.boxes == BOXES).all() for found in looks(record))


def test_each_visit_has_a_look_of_its_own(tmp_path):
    source = fixtures.records(tmp_path) | {"type": "records", "augment": True}
    mixture = open_mixture({"cache": tmp_path / "index", "sources": [source]}, 0)
    first, again, other = (mixture.visit(Visit(0, 1, epoch)) for epoch in (0, 0, 1))
    assert (first.image == again.image).all() and (first.boxes == again.boxes).all()
    assert (first.boxes != other.boxes).any()

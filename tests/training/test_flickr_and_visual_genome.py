"""Flickr30k Entities and Visual Genome: captions and region descriptions of named regions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import training_fixtures as fixtures

from training.data.flickr import Flickr
from training.data.mixture import pack
from training.data.record import RecordError, check_record, references
from training.data.visual_genome import VisualGenome


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def phrases(record) -> dict[tuple[float, ...], str]:
    """The answer about each box."""
    found = {}
    for turn in record.rounds[1:]:
        (number,) = references(turn.question)
        found[tuple(record.boxes[number - 1].tolist())] = turn.answer
    return found


def test_a_flickr_phrase_keeps_all_its_boxes_and_a_box_all_its_phrases(tmp_path):
    flickr = fixtures.source(Flickr, fixtures.flickr(tmp_path), tmp_path)
    (record,) = flickr.records(0, rng())
    check_record(record)
    assert phrases(record) == {
        (5, 5, 25, 65): "Two men", (30, 5, 50, 65): "Two men", (52, 40, 62, 60): "a dog",
        (65, 20, 95, 60): "a red car, red",
    }


def test_a_flickr_box_named_by_two_annotations_is_one_region(tmp_path):
    values = fixtures.flickr(tmp_path)
    content = json.loads(values["annotations"].read_text())
    content["annotations"].append(content["annotations"][2] | {"id": 9, "tokens_positive": [[8, 17]]})
    values["annotations"].write_text(json.dumps(content))
    (record,) = fixtures.source(Flickr, values, tmp_path).records(0, rng())
    assert len(record.boxes) == 4
    assert phrases(record)[(52, 40, 62, 60)] == "a dog, and a dog"


def test_the_flickr_caption_is_asked_with_every_region_of_the_record(tmp_path):
    flickr = fixtures.source(Flickr, fixtures.flickr(tmp_path), tmp_path)
    for seed in range(5):
        (record,) = flickr.records(0, rng(seed))
        assert references(record.rounds[0].question) == [1, 2, 3, 4]
        assert record.rounds[0].answer == fixtures.CAPTION


def test_captions_of_one_flickr_image_share_a_visit(tmp_path):
    values = fixtures.flickr(tmp_path)
    content = json.loads(values["annotations"].read_text())
    content["images"].append(content["images"][0] | {"id": 8, "caption": "A dog ."})
    content["annotations"].append(content["annotations"][2] | {"id": 9, "image_id": 8, "tokens_positive": [[0, 5]]})
    values["annotations"].write_text(json.dumps(content))
    flickr = fixtures.source(Flickr, values, tmp_path)
    assert len(flickr) == 1
    assert {record.rounds[0].answer for record in flickr.records(0, rng())} == {fixtures.CAPTION, "A dog ."}


@pytest.mark.parametrize("positions", [[[5, 400]], [], [[3]], [["0", "7"]], "0-7"])
def test_flickr_positions_outside_the_caption_are_malformed(tmp_path, positions):
    values = fixtures.flickr(tmp_path)
    content = json.loads(values["annotations"].read_text())
    content["annotations"][0]["tokens_positive"] = positions
    values["annotations"].write_text(json.dumps(content))
    with pytest.raises(RecordError, match="annotation 1"):
        fixtures.source(Flickr, values, tmp_path)


@pytest.mark.parametrize("make", [fixtures.visual_genome, fixtures.visual_genome_grit])
def test_both_visual_genome_files_give_the_same_conversation(tmp_path, make):
    source = fixtures.source(VisualGenome, make(tmp_path), tmp_path)
    record = pack(source.records(0, rng()))
    check_record(record)
    told = {tuple(record.boxes[references(turn.question)[0] - 1].tolist()): turn.answer for turn in record.rounds}
    assert told == {(10, 5, 40, 35): "a clock on the wall", (60, 0, 80, 70): "street lamp"}


def test_visual_genome_counts_the_empty_region(tmp_path):
    source = fixtures.source(VisualGenome, fixtures.visual_genome(tmp_path), tmp_path)
    assert source.report.filtered == {"box under 1 pixel": 1}


def test_a_phrase_that_holds_a_marker_of_the_prompt_is_malformed(tmp_path):
    values = fixtures.visual_genome(tmp_path)
    values["annotations"].write_text(values["annotations"].read_text().replace("street lamp", "a <bbox> lamp"))
    with pytest.raises(RecordError, match="reserved marker"):
        fixtures.source(VisualGenome, values, tmp_path)


def test_a_region_that_is_none_is_malformed(tmp_path):
    values = fixtures.visual_genome(tmp_path)
    content = json.loads(values["annotations"].read_text())
    content[0]["regions"].append(7)
    values["annotations"].write_text(json.dumps(content))
    with pytest.raises(RecordError, match="visual genome 61: region is 7"):
        fixtures.source(VisualGenome, values, tmp_path)


def test_a_file_of_neither_layout_is_refused(tmp_path):
    values = fixtures.visual_genome(tmp_path)
    values["annotations"].write_text("id,phrase\n")
    with pytest.raises(RecordError, match="neither"):
        fixtures.source(VisualGenome, values, tmp_path)

"""Pictures of one's own in a mixture: names for stage 1, texts and conversations for stage 2, masks, whose texts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import training_fixtures as fixtures
from test_check import config

from ros_gpt4roi.model.config import ModelConfig, RoIAlignConfig
from training.data.__main__ import main
from training.data.mixture import open_mixture
from training.data.record import RecordError, check_record
from training.data.records import Records
from training.data.sample import make_sample


def visits(source: Records, position: int, count: int = 30):
    return [check_record(source.records(position, np.random.default_rng(seed))[0]) for seed in range(count)]


def test_stage_one_asks_for_names_with_bare_region_tokens(tmp_path):
    source = fixtures.source(Records, fixtures.records(tmp_path) | {"form": "names"}, tmp_path)
    record = visits(source, 0, 1)[0]
    answers = {turn.answer: record.boxes[number].tolist() for number, turn in enumerate(record.rounds)}
    assert answers == {"valve": [10, 10, 40, 50], "mug": [50, 20, 90, 70]}
    assert record.rounds[0].question.endswith("nothing else.\n<box1>") and record.rounds[1].question == "<box2>"
    assert {turn.task for turn in record.rounds} == {"category"}


def test_stage_two_asks_for_all_that_is_known_of_a_region(tmp_path):
    source = fixtures.source(Records, fixtures.records(tmp_path), tmp_path)
    said = {(turn.task, turn.answer) for record in visits(source, 0) for turn in record.rounds}
    assert said >= {("name", "a valve"), ("name", "a mug"), ("attribute", "red"),
                    ("description", "a red valve on the wall")}
    attribute = next(turn for record in visits(source, 0) for turn in record.rounds if turn.task == "attribute")
    assert "colour" in attribute.question and "<region" in attribute.question
    assert {turn.answer for record in visits(source, 1) for turn in record.rounds} == {"an owl"}


def test_conversations_speak_of_regions_by_their_places(tmp_path):
    source = fixtures.source(Records, fixtures.records(tmp_path), tmp_path)
    for record in visits(source, 0, 5):
        places = {tuple(box): number for number, box in enumerate(record.boxes.tolist(), 1)}
        valve, mug = places[10, 10, 40, 50], places[50, 20, 90, 70]
        rounds = [(turn.question, turn.answer) for turn in record.rounds if turn.task == "conversation"]
        assert rounds == [(f"What is left of <region{mug}>?", f"<region{valve}>, a red valve."),
                          ("Why?", "It is turned.")]


def test_conversations_bring_the_regions_that_they_speak_of(tmp_path):
    source = fixtures.source(Records, fixtures.records(tmp_path) | {"max_regions": 1}, tmp_path)
    assert all(len(record.boxes) == 2 for record in visits(source, 0, 5))


def test_regions_about_which_nothing_is_said_are_shown_among_the_others(tmp_path):
    line = {"file": "images/a.png", "width": 100, "height": 80,
            "regions": [{"box": [1 + 20 * i, 1, 15 + 20 * i, 50], "name": "cup"} for i in range(4)],
            "conversations": [{"rounds": [["What is <region 4>?", "A <region 4> cup."]]}]}
    options = fixtures.records(tmp_path, line) | {"form": "conversations", "context": True, "max_regions": 3}
    records = visits(fixtures.source(Records, options, tmp_path), 0)
    assert all(len(record.boxes) == 3 and len(record.rounds) == 1 for record in records)
    numbers = set()
    for record in records:
        number = record.boxes[:, 0].tolist().index(61) + 1
        assert record.rounds[0].question == f"What is <region{number}>?"
        numbers.add(number)
    assert numbers == {1, 2, 3}


def test_a_conversation_about_a_region_that_is_not_there_is_malformed(tmp_path):
    line = {"file": "images/a.png", "width": 100, "height": 80,
            "regions": [{"box": [200, 200, 300, 300], "name": "far"}, {"box": [1, 1, 50, 50], "name": "cup"}],
            "conversations": [{"rounds": [["What is <region 1>?", "Far."]]}, {"rounds": [["<region 9>?", "No."]]},
                              {"rounds": [["What is <region 2>?", "A cup."]]}]}
    source = fixtures.source(Records, fixtures.records(tmp_path, line), tmp_path, limit=2)
    assert source.report.filtered == {"box outside the image": 1} and source.report.malformed == 2
    assert "conversation 2: speaks of region '9', which is not there" in source.report.errors[1]
    assert source.report.counted == {"names of regions": 1, "conversations": 1}


def test_whose_texts_are_used_can_be_chosen(tmp_path):
    values = fixtures.records(tmp_path)
    source = fixtures.source(Records, values | {"sources": ["person"]}, tmp_path)
    assert len(source) == 1 and source.report.filtered == {
        "texts of a region of source 'model'": 1, "texts of a region of source ''": 1,
        "picture about which nothing is said": 1}
    assert not any(turn.answer == "a mug" for record in visits(source, 0) for turn in record.rounds)
    source = fixtures.source(Records, values | {"min_confidence": 0.5}, tmp_path)
    assert source.report.filtered == {"texts of a region of low confidence": 1} and len(source) == 2


def test_what_people_called_wrong_is_not_learned(tmp_path):
    wrong = [{"said": "a cup", "wrong": True}]
    line = {"file": "images/a.png", "width": 100, "height": 80, "regions": [
        {"box": [1, 1, 50, 50], "name": "mug", "description": "a cup", "judgements": wrong}],
        "conversations": [{"rounds": [["What is this?", "A cup."]], "judgements": wrong}]}
    source = fixtures.source(Records, fixtures.records(tmp_path, line), tmp_path)
    assert {turn.answer for record in visits(source, 0) for turn in record.rounds} == {"a mug"}
    assert source.report.filtered == {
        "description that a person called wrong": 1, "conversation that a person called wrong": 1}


def test_masks_reach_the_network(tmp_path):
    values = fixtures.records(tmp_path) | {"masks": True, "form": "names"}
    source = fixtures.source(Records, values, tmp_path)
    record = visits(source, 0, 1)[0]
    found = {turn.answer: mask for turn, mask in zip(record.rounds, record.masks)}
    assert found["mug"] is None and found["valve"].mean() == pytest.approx(0.5, abs=0.02)
    assert source.report.noted["region without a mask, given as a whole box"] == 2
    mixture = open_mixture({"cache": tmp_path / "cache", "sources": [{"type": "records", **values}]}, 0)
    config = ModelConfig(regions=RoIAlignConfig(roi_size=7))
    samples = [mixture.read(position, lambda record: make_sample(record, config)) for position in range(2)]
    assert [sample.masks is not None for sample in samples].count(True) == 1


def test_a_mask_of_another_picture_is_malformed(tmp_path):
    line = {"file": "images/a.png", "width": 100, "height": 80, "regions": [
        {"box": [1, 1, 50, 50], "name": "cup", "mask": {"size": [40, 50], "counts": [1, 1999]}}]}
    values = fixtures.records(tmp_path, line) | {"masks": True}
    with pytest.raises(RecordError, match="region 1: mask is of 50x40, but the image is 100x80"):
        fixtures.source(Records, values, tmp_path)
    assert len(fixtures.source(Records, values | {"masks": False}, tmp_path)) == 1


def test_markers_of_the_prompt_are_refused(tmp_path):
    for text in ("<region1>", "<bbox>", "<|im_start|>"):
        line = {"file": "images/a.png", "width": 100, "height": 80, "regions": [
            {"box": [1, 1, 50, 50], "description": f"a cup {text}"}, {"box": [1, 1, 50, 50], "name": "cup"}]}
        report = fixtures.source(Records, fixtures.records(tmp_path, line), tmp_path, limit=1).report
        assert "description holds the reserved marker" in report.errors[0]
        line["regions"][0] = {"box": [1, 1, 50, 50], "attributes": {text: "red"}}
        report = fixtures.source(Records, fixtures.records(tmp_path / "attribute", line), tmp_path, limit=1).report
        assert "region 1: name of an attribute holds the reserved marker" in report.errors[0]


def test_check_counts_what_is_there(tmp_path, capsys):
    (tmp_path / "outside.png").write_bytes(b"")
    first, second = map(json.loads, fixtures.records(tmp_path)["annotations"].read_text().splitlines())
    lines = (first, second, second | {"file": "../outside.png"}, second | {"file": "images/gone.png"}, {"file": 7})
    section = {"cache": tmp_path / "cache", "malformed_limit": 3,
               "sources": [{"type": "records", **fixtures.records(tmp_path, *lines)}]}
    assert main(["check", "--config", config(tmp_path, section), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "read 5, images kept 2" in printed and "counted 3: names of regions" in printed
    assert "counted 1: conversations" in printed and "malformed 3" in printed
    assert "'../outside.png' is outside of the folder" in printed and "'images/gone.png' is not in the fold" in printed
    assert len(list((tmp_path / "out" / "train").iterdir())) == 2

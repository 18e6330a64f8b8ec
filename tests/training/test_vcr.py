"""VCR: the text must name the right object, and only objects."""

from __future__ import annotations

import numpy as np
import pytest
import training_fixtures as fixtures

from training.data.record import Filtered, RecordError, check_record
from training.data.vcr import Vcr, align, untokenise


def conversations(tmp_path, form, items=None, seed=0):
    vcr = fixtures.source(Vcr, fixtures.vcr(tmp_path, form, items), tmp_path)
    return [record for p in range(len(vcr)) for record in vcr.records(p, np.random.default_rng(seed))], vcr.report


def test_references_of_the_strings_count_from_one_and_name_the_right_object(tmp_path):
    (record, _), _ = conversations(tmp_path, "all")
    check_record(record)
    # Object 3 is the dog; counted from zero there would be no object 3 and object 2 would be the dog.
    assert record.rounds[0].answer == "dog at <region3> is the 1st dog person at <region2> has ."
    assert record.rounds[1].answer == "person at <region2> looks at dog at <region3> ."
    assert record.boxes.tolist() == [[5, 5, 30, 70], [35, 5, 60, 70], [62, 30, 95, 70]]


def test_counts_and_ordinals_are_not_regions(tmp_path):
    (record, _), _ = conversations(tmp_path, "all")
    assert "Why do 2 women watch person at <region2> and dog at <region3> ?" in record.rounds[0].question
    assert "the 1st dog" in record.rounds[0].answer


def test_all_objects_are_listed_once_before_the_first_question_of_an_image(tmp_path):
    (first, second), _ = conversations(tmp_path, "all")
    assert "<region1>, <region2>, <region3>" in first.rounds[0].question
    assert "<region1>" not in second.rounds[0].question


def test_the_multi_form_marks_what_the_question_names_in_its_order(tmp_path):
    (record,), report = conversations(tmp_path, "multi")
    check_record(record)
    assert record.rounds[0].question == "Why do 2 women watch <region1> and <region2> ?"
    assert record.rounds[0].answer == "dog at <region2> is the 1st dog person at <region1> has ."
    assert record.rounds[1].answer == "person at <region1> looks at dog at <region2> ."
    assert record.boxes.tolist() == [[35, 5, 60, 70], [62, 30, 95, 70]]
    assert report.filtered == {"question not about several objects": 1}


def test_the_single_form_leaves_out_a_rationale_about_other_objects(tmp_path):
    (record,), report = conversations(tmp_path, "single")
    check_record(record)
    assert record.boxes.tolist() == [[62, 30, 95, 70]]
    assert [(turn.question, turn.answer) for turn in record.rounds] == [
        ("Is <region1> happy ?", "Yes , dog at <region1> is happy .")]
    assert report.filtered == {"question not about one object": 1}


def test_an_object_named_twice_is_one_region(tmp_path):
    item = fixtures.vcr_item("Does 3 see 3 ?", ["Does", [2], "see", [2], "?"], "3 does .", [[2], "does", "."],
                             "So .", ["So", "."], fixtures.OBJECTS)
    (record,), _ = conversations(tmp_path, "single", [item])
    assert record.rounds[0].question == "Does <region1> see <region1> ?" and len(record.boxes) == 1


@pytest.mark.parametrize(("text", "tokens", "expected"), [
    ("3 and 1 's 10 dogs", [[0, 2], "'s", "10", "dogs"], "{3} and {1} 's 10 dogs"),
    ("1, 2 sit", [[0, 1], "sit"], "{1}, {2} sit"),
    ("at 10:30 1 left", ["at", "10:30", [0], "left"], "at 10:30 {1} left"),
])
def test_alignment_follows_the_token_list(text, tokens, expected):
    assert align(text, tokens, 3) == expected


@pytest.mark.parametrize("tokens", [["2", "men"], [[0], "men"], [[1], "and", [2]], ["men"]])
def test_strings_that_do_not_match_their_tokens_are_filtered_not_guessed(tokens):
    with pytest.raises(Filtered):
        align("2 and 1", tokens, 3)


def test_unaligned_questions_are_counted(tmp_path):
    bad = fixtures.SINGLE | {"question_orig": "Is 2 happy ?"}
    records, report = conversations(tmp_path, "all", [bad, fixtures.MULTI])
    assert len(records) == 1 and report.filtered == {"string and token list differ": 1}


@pytest.mark.parametrize("change", [
    {"question": ["Is", [9], "happy", "?"]}, {"objects": ["person"]}, {"img_fn": "m/absent.jpg"}, {"answer_label": 7},
    {"rationale_label": -1},
])
def test_malformed_lines_are_named_by_number(tmp_path, change):
    with pytest.raises(RecordError, match="train.jsonl:2"):
        conversations(tmp_path, "all", [fixtures.MULTI, fixtures.SINGLE | change])


@pytest.mark.parametrize(("line", "words"), [
    (b"\xff", "utf-8"), (b"[" * 100_000, "recursion"), (b"7", "int"), (b"{}", "has no 'img_fn'"),
    (b"", "Expecting value"),
])
def test_lines_that_are_no_questions_are_named_by_number(tmp_path, line, words):
    values = fixtures.vcr(tmp_path, "all")
    values["annotations"].write_bytes(values["annotations"].read_bytes() + line + b"\n")
    with pytest.raises(RecordError, match=f"train.jsonl:3: .*{words}"):
        fixtures.source(Vcr, values, tmp_path)


@pytest.mark.parametrize(("boxes", "words"), [
    ([[0.1, 0.1, 0.5, 0.9]] * 3, "as if normalised: .*expected pixels"), ([[5, 5, 30, 70]] * 2, "3 objects but boxes"),
    ([[5, 5, 30, 70]] * 2 + [[100, 5, 120, 70]], "outside the image of 100x80"),
    ([[5, 5, 30, 70]] * 2 + [[9, 9, 9, 20]], "no area"),
])
def test_boxes_that_cannot_be_the_pictures_are_named(tmp_path, boxes, words):
    values = fixtures.vcr(tmp_path, "all")
    fixtures.write(tmp_path / "vcr1images" / "m" / "a.json", {"boxes": boxes, "names": fixtures.OBJECTS})
    with pytest.raises(RecordError, match=f"train.jsonl:1: .*{words}"):
        fixtures.source(Vcr, values, tmp_path)


def test_boxes_are_clipped_to_the_picture(tmp_path):
    values = fixtures.vcr(tmp_path, "all")
    boxes = [[-9, 5, 30, 99], [35, -0.5, 60, 70], [62, 30, 103, 80.5]]
    fixtures.write(tmp_path / "vcr1images" / "m" / "a.json", {"boxes": boxes, "names": fixtures.OBJECTS})
    record, *_ = fixtures.source(Vcr, values, tmp_path).records(0, np.random.default_rng(0))
    assert record.boxes.tolist() == [[0, 5, 30, 80], [35, 0, 60, 70], [62, 30, 100, 80]]


def test_token_lists_count_from_zero(tmp_path):
    assert untokenise(["Why", "is", [0, 2], "'s", "dog", "here", "?"], 3) == "Why is {1} and {3}'s dog here?"


def test_the_choice_forms_ask_with_letters(tmp_path):
    (record, _), _ = conversations(tmp_path, "answer")
    check_record(record)
    assert record.rounds[0].answer == "(C)"
    assert "Why do 2 women watch <region2> and <region3>?" in record.rounds[0].question
    assert "(C) <region3> is the 1st dog <region2> has." in record.rounds[0].question
    (record, _), _ = conversations(tmp_path, "rationale")
    assert record.rounds[0].answer == "(A)"
    assert "Answer: <region3> is the 1st dog <region2> has." in record.rounds[0].question
    assert "(A) <region2> looks at <region3>." in record.rounds[0].question


def test_an_image_with_many_questions_makes_several_visits(tmp_path):
    vcr = fixtures.source(Vcr, fixtures.vcr(tmp_path, "all", [fixtures.MULTI] * 5) | {"per_visit": 2}, tmp_path)
    assert [len(vcr.records(p, np.random.default_rng(0))) for p in range(len(vcr))] == [2, 2, 1]

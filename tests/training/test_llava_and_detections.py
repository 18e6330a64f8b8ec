"""LLaVA conversations, the yes/no additions, and the detector results they draw on."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
import training_fixtures as fixtures

from training.data.detections import load_class_names, load_detections, load_pickle, pack, save_detections
from training.data.llava import Llava, yes_no
from training.data.record import RecordError, check_record


def visits(llava, count=40):
    return [llava.records(0, np.random.default_rng(seed))[0] for seed in range(count)]


def test_half_of_the_visits_introduce_the_detected_regions(tmp_path):
    records = visits(fixtures.source(Llava, fixtures.llava(tmp_path), tmp_path))
    introduced = [record for record in records if len(record.boxes)]
    assert 10 <= len(introduced) <= 30
    for record in introduced:
        check_record(record)
        assert record.boxes.tolist() == [[10, 8, 50, 40], [50, 40, 90, 72]], "the low and the thin box are left out"
        assert "<region1> may feature a dog, <region2> may feature an owl" in record.rounds[0].question


def test_all_conversations_of_an_image_are_in_one_visit_without_the_image_marker(tmp_path):
    (record,) = visits(fixtures.source(Llava, fixtures.llava(tmp_path), tmp_path), 1)
    told = [(turn.question.split("\n")[-1], turn.answer) for turn in record.rounds if turn.task == "conversation"]
    assert sorted(told) == [
        ("Describe the scene.", "A calm room."), ("What is the dog doing?", "It sleeps."), ("Where?", "On the sofa."),
    ]


def test_yes_no_additions_do_not_accumulate(tmp_path):
    llava = fixtures.source(Llava, fixtures.llava(tmp_path), tmp_path)
    for record in visits(llava):
        added = [turn.answer for turn in record.rounds if turn.task == "yes_no"]
        assert len(added) == 2 and len(record.rounds) == 5


def test_yes_is_said_of_what_was_detected_and_no_of_the_rest(tmp_path):
    llava = fixtures.source(Llava, fixtures.llava(tmp_path), tmp_path)
    for record in visits(llava):
        for turn in record.rounds:
            if turn.task == "yes_no":
                seen = re.search(r"\b(dog|owl)\b", turn.question)
                assert turn.answer.startswith("Yes" if seen else "No")
                assert "bow (weapon)" in turn.question or seen
                name = seen.group() if seen else "bow (weapon)"
                assert name in turn.answer


def test_an_image_without_detections_still_has_a_no_question():
    (turn,) = yes_no(np.random.default_rng(0), ["dog", "owl"], [])
    assert turn.answer.startswith("No")


def test_where_no_detection_is_good_the_best_are_used(tmp_path):
    results = fixtures.detections()
    results["results"][0]["pred_bboxes"] = [[0.1, 0.1, 0.5, 0.5, s] for s in (0.05, 0.2, 0.1, 0.15)]
    values = fixtures.llava(tmp_path, results) | {"fallback_regions": 2, "box_share": 1.0}
    (record,) = visits(fixtures.source(Llava, values, tmp_path), 1)
    assert "<region1> may feature an owl, <region2> may feature a bow (weapon)." in record.rounds[0].question


def test_conversations_without_detections_are_counted(tmp_path):
    results = fixtures.detections()
    results["results"][0]["filename"] = "other.jpg"
    llava = fixtures.source(Llava, fixtures.llava(tmp_path, results), tmp_path)
    assert len(llava) == 0 and llava.report.filtered == {"conversation without detector results": 2}


def test_conversations_without_an_image_are_counted(tmp_path):
    values = fixtures.llava(tmp_path)
    content = json.loads(values["annotations"].read_text())
    talk = {"id": "text", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}
    values["annotations"].write_text(json.dumps([*content, talk, talk | {"image": None}]))
    report = fixtures.source(Llava, values, tmp_path).report
    assert report.kept == 1 and report.filtered == {"conversation without an image": 2}


@pytest.mark.parametrize(("change", "words"), [
    ({"conversations": None}, "llava bad: conversations is None, expected a list"),
    ({"conversations": [{"from": "human"}, {"from": "gpt"}]}, "llava bad: has no 'value'"),
    ({"conversations": ["a", "b"]}, "llava bad: conversations is .*expected a list of objects"),
    ({"image": 7}, "llava bad: "), ({"image": "absent.jpg"}, "llava bad: image absent.jpg is not in"),
])
def test_what_an_entry_lacks_is_said_in_the_files_terms(tmp_path, change, words):
    values = fixtures.llava(tmp_path)
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]
    item = {"id": "bad", "image": "000000000033.jpg", "conversations": turns} | change
    values["annotations"].write_text(json.dumps([item]))
    with pytest.raises(RecordError, match=words):
        fixtures.source(Llava, values, tmp_path)


@pytest.mark.parametrize("turns", [
    [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}],
    [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}],
    [{"from": "human", "value": "x"}],
    [],
])
def test_malformed_conversations_are_named(tmp_path, turns):
    values = fixtures.llava(tmp_path)
    content = [{"id": "bad", "image": "000000000033.jpg", "conversations": turns}]
    values["annotations"].write_text(json.dumps(content))
    with pytest.raises(RecordError, match="llava bad"):
        fixtures.source(Llava, values, tmp_path)


def test_a_class_list_must_have_as_many_names_as_labels(tmp_path):
    results = fixtures.detections() | {"class_names": ["dog", "bow_(weapon)owl"]}
    with pytest.raises(RecordError, match="label 2 but only 2 class names"):
        fixtures.source(Llava, fixtures.llava(tmp_path, results), tmp_path)
    results["class_names"] = ["dog", "<bbox>", "owl"]
    with pytest.raises(RecordError, match="class name holds the reserved marker '<bbox>'"):
        fixtures.source(Llava, fixtures.llava(tmp_path / "c", results), tmp_path)
    names = tmp_path / "names.txt"
    names.write_text("dog\nbow\n")
    with pytest.raises(RecordError, match="label 2 but only 2 class names"):
        fixtures.source(Llava, fixtures.llava(tmp_path / "b", fixtures.detections()["results"])
                        | {"class_names": names}, tmp_path / "b")


def test_class_names_of_a_detector_follow_the_order_of_its_ids(tmp_path):
    path = fixtures.write(tmp_path / "lvis.json", {"categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}]})
    assert load_class_names(path) == ("a", "b")


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_detections_are_the_same_after_writing_and_reading(tmp_path, suffix):
    detections = pack(fixtures.detections()["results"], fixtures.detections()["class_names"])
    save_detections(detections, tmp_path / f"d{suffix}")
    again = load_detections(tmp_path / f"d{suffix}")
    assert again.filenames == detections.filenames and again.class_names == detections.class_names
    np.testing.assert_allclose(again.boxes, detections.boxes, atol=1e-6)
    np.testing.assert_array_equal(again.labels, detections.labels)


def test_the_releases_pickle_is_converted(tmp_path):
    (result,) = fixtures.detections()["results"]
    boxes = np.asarray(result["pred_bboxes"], np.float32)
    arrays = result | {"pred_bboxes": boxes, "labels": np.asarray(result["labels"])}
    for protocol in (2, 4, 5):
        path = tmp_path / f"p{protocol}.pkl"
        path.write_bytes(pickle.dumps([arrays], protocol))
        np.testing.assert_allclose(load_pickle(path).boxes, arrays["pred_bboxes"])


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_of_anything_but_arrays_is_refused_unexecuted(tmp_path, capsys):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps([Harmful()]))
    with pytest.raises(RecordError, match="builtins.print is not allowed"):
        load_pickle(path)
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(RecordError, match="convert a pickle"):
        load_detections(path)


@pytest.mark.parametrize(("name", "content"), [
    ("d.json", b""), ("d.json", b"{}"), ("d.json", b"\xff"), ("d.json", b"[" * 100_000), ("d.json", b"[7]"),
    ("d.npz", b""), ("d.npz", b"PK\3\4" + b"x" * 50), ("d.npz", b"\x93NUMPY"), ("d.pkl", b"\x80\5"),
    ("d.pkl", b"no pickle"), ("d.pkl", b"\x80\4\x8a\xff" + b"9" * 300 + b"."), ("names.json", b"{}"),
    ("names.json", b"{"), ("names.txt", b"\xff"),
])
def test_damaged_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    load = load_class_names if "names" in name else load_pickle if name == "d.pkl" else load_detections
    with pytest.raises(RecordError, match=name):
        load(path)


def test_an_archive_of_which_bytes_changed_is_named(tmp_path):
    path = tmp_path / "d.npz"
    save_detections(pack(fixtures.detections()["results"]), path)
    whole, rng, refused = np.frombuffer(path.read_bytes(), np.uint8), np.random.default_rng(0), 0
    for _ in range(200):
        content = whole.copy()
        content[rng.integers(0, len(content), 3)] ^= rng.integers(1, 256, 3, dtype=np.uint8)
        path.write_bytes(content.tobytes())
        try:
            load_detections(path)
        except RecordError as error:
            assert "d.npz" in str(error) or "detections" in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("change", [
    {"labels": [0]}, {"labels": [0.5] * 4}, {"pred_bboxes": [[1, 2, 3]]}, {"pred_bboxes": [[0, 0, 640, 480, 1]] * 4},
    {"labels": [-1] * 4},
])
def test_malformed_detections_are_refused(change):
    (result,) = fixtures.detections()["results"]
    with pytest.raises(RecordError, match="detections"):
        pack([result | change])

"""The file of one's own pictures: what is written is read again; a bad line, region or path costs only itself."""

from __future__ import annotations

import json
import os
import tracemalloc

import pytest
import training_fixtures as fixtures

from training.data.record import RecordError
from training.data.record_file import (
    FILE,
    Conversation,
    Judgement,
    PictureRecord,
    RecordWriter,
    RegionRecord,
    picture_path,
    read_records,
)
from training.data.report import Report

FULL = PictureRecord(
    "images/a.png", 100, 80, (
        RegionRecord("mug_3", (1.5, 2, 30, 40), {"size": [80, 100], "counts": [8, 92, 7900]}, "mug", {"colour": "rot"},
                     "eine rote Tasse 🙂", "person", 0.0, (Judgement("a bowl", "a mug", True, "Ada", 12.5),)),
        RegionRecord("2", (0, 0, 100, 80)),
    ), (Conversation((("What is <region 2>?", "The room."), ("Why?", "It is all of it.")), "model", 0.25),),
    {"bag": "x.mcap", "stamp": "1.000000002"}, ("low confidence",))


def read(path, limit: int = 0) -> tuple[list[PictureRecord], Report]:
    report = Report(limit)
    return list(read_records(path, report)), report


def test_what_is_written_is_read_again(tmp_path):
    with RecordWriter(tmp_path / "new" / "folder") as writer:
        assert writer.add_picture("a.png", b"content") == "images/a.png"
        writer.write(FULL)
        writer.write(PictureRecord("images/b.png", 7, 8))
        assert not (writer.folder / FILE).exists(), "an unfinished file must not look like a whole one"
    found, report = read(writer.folder / FILE)
    assert found == [FULL, PictureRecord("images/b.png", 7, 8)] and report.read == 2
    assert (writer.folder / "images" / "a.png").read_bytes() == b"content"
    with pytest.raises(RecordError, match="exists already; name another folder"):
        RecordWriter(writer.folder)


def test_a_file_that_was_not_finished_is_none(tmp_path):
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path) as writer:
        writer.write(FULL)
        raise KeyboardInterrupt
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(("line", "words"), [
    ("{", "Expecting"), ("7", "record is 7, expected an object"), ("[" * 100_000, ""), ("\udcff", ""),
    ('{"file": "a.png", "width": 9}', "has no 'height'"), ('{"width": 9, "height": 9}', "has no 'file'"),
    ('{"file": 7, "width": 9, "height": 9}', "file is '7', expected text"),
    ('{"file": "a", "width": 0.5, "height": 9}', "width 0.5 and height 9 are no size"),
    ('{"file": "a", "width": NaN, "height": 9}', "width is nan, expected a number"),
    ('{"file": "a", "width": true, "height": 9}', "width is True, expected a number"),
    ('{"file": "a", "width": 9, "height": 9, "regions": {}}', r"regions is \{\}, expected a list of at most 1000"),
    ('{"file": "a", "width": 9, "height": 9, "regions": [' + "0," * 1000 + "0]}", "regions is a list of 1001"),
])
def test_a_line_that_is_no_record_costs_only_itself(tmp_path, line, words):
    good = '{"file": "a.png", "width": 9, "height": 9}'
    (tmp_path / FILE).write_bytes("\n".join([good, line, "", good]).encode("utf-8", "surrogateescape"))
    found, report = read(tmp_path / FILE, 1)
    assert len(found) == 2 and (report.read, report.malformed) == (3, 1)
    assert report.errors[0].startswith(f"{FILE} line 2: ")
    with pytest.raises(RecordError, match=f"{FILE} line 2: .*{words}"):
        read(tmp_path / FILE)


@pytest.mark.parametrize(("changes", "words"), [
    ({"box": None}, "box is \\[\\]"), ({"box": [1, 2, 3]}, "expected \\[x1, y1, x2, y2\\]"),
    ({"box": [1, 2, 1e9, 4]}, "box is .*expected pixels"),
    ({"attributes": {str(number): "x" for number in range(1001)}}, "attributes has 1001 entries"),
    ({"box": [1, 2, "x", 4]}, "box is x"), ({"box": [1, 2, 1e999, 4]}, "box is inf"),
    ({"id": "<1>"}, "id is '<1>'"), ({"id": "first"}, "id 'first' is there twice"), ({"id": 7}, "id is '7'"),
    ({"id": "x" * 101}, "up to 100 characters"), ({"attributes": ["red"]}, "attributes is .*expected an object"),
    ({"attributes": {"colour": 3}}, "attributes.colour is '3'"), ({"confidence": 1.5}, "confidence is 1.5"),
    ({"description": "x" * 20_001}, "at most 20000 characters"), ({"judgements": [3]}, "judgement is 3"),
    ({"name": "\ud83d"}, "half a character"), ({"attributes": {"\udc00": "red"}}, "half a character"),
    ({"box": [1, 2, 10**400, 4]}, "expected a number"), ({"mask": [[1, 2, 1e999, 4, 5, 6]]}, "mask is inf"),
    ({"mask": {"size": [2, 2], "counts": "\ud83d"}}, "mask is .*run lengths"), ({"mask": [[[[1]]]]}, "mask is "),
    ({"mask": {"size": [2, 2], "counts": [1, 10**400]}}, "mask is .*run lengths"), ({"mask": 7}, "mask is 7"),
])
def test_a_bad_region_costs_only_itself(tmp_path, changes, words):
    regions = [{"id": "first", "box": [1, 2, 3, 4]}, {"box": [1, 2, 3, 4]} | changes, {"box": [1, 2, 3, 4]}]
    fixtures.records(tmp_path, {"file": "images/a.png", "width": 100, "height": 80, "regions": regions})
    (record,), report = read(tmp_path / FILE, 1)
    assert [region.id for region in record.regions] == ["first", "3"] and report.malformed == 1
    with pytest.raises(RecordError, match=f"line 1: region 2: .*{words}"):
        read(tmp_path / FILE)


@pytest.mark.parametrize(("value", "words"), [
    ([], "conversation is"), ({}, "has no 'rounds'"), ({"rounds": [["a"]]}, "expected \\[question, answer\\]"),
    ({"rounds": [["a", " "]]}, "answer is ' '"), ({"rounds": [["a", 7]]}, "answer is '7'"),
])
def test_a_bad_conversation_costs_only_itself(tmp_path, value, words):
    line = {"file": "images/a.png", "width": 100, "height": 80, "conversations": [{"rounds": [["a", "b"]]}, value]}
    fixtures.records(tmp_path, line)
    (record,), report = read(tmp_path / FILE, 1)
    assert [conversation.rounds for conversation in record.conversations] == [(("a", "b"),)]
    assert report.malformed == 1 and "line 1: conversation 2: " in report.errors[0]
    with pytest.raises(RecordError, match=words):
        read(tmp_path / FILE)


def test_what_no_reader_takes_is_not_written(tmp_path):
    with RecordWriter(tmp_path) as writer:
        long = PictureRecord("a.png", 9, 9, tuple(RegionRecord(str(number), (1, 2, 3, 4), description="x" * 20_000)
                                                  for number in range(500)))
        with pytest.raises(ValueError, match="its line has .* bytes, expected at most 8388608"):
            writer.write(long)
        writer.write(PictureRecord("b.png", 9, 9))
    assert [record.file for record in read(tmp_path / FILE)[0]] == ["b.png"]


def test_a_line_without_an_end_takes_no_memory(tmp_path):
    with (tmp_path / FILE).open("wb") as file:
        file.write(b'{"file": "a", "width": 9, "height": 9}\n')
        for _ in range(64):
            file.write(b"[" * (1 << 20))
        file.write(b'\n{"file": "b", "width": 9, "height": 9}\n')
    tracemalloc.start()
    found, report = read(tmp_path / FILE, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [record.file for record in found] == ["a", "b"]
    assert report.errors == [f"{FILE} line 2: it has more than {8 << 20} bytes"] and peak < 40 << 20


def test_pictures_never_lie_outside_the_folder(tmp_path):
    folder = tmp_path / "data"
    fixtures.image(folder / "images" / "a.png")
    outside = fixtures.image(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(outside)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    assert picture_path(folder, "images/a.png") == picture_path(folder, "images/../images/a.png")
    for name in ("../outside.png", str(outside), "link.png", "images/../../outside.png"):
        with pytest.raises(ValueError, match="is outside of the folder"):
            picture_path(folder, name)
    for name in ("b.png", "images", "loop.png", "pipe.png", "a\0b", "x" * 5000, "."):
        with pytest.raises(ValueError, match="is not in the folder"):
            picture_path(folder, name)


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        with pytest.raises(RecordError, match="cannot be read"):
            read(tmp_path / name)


def test_fields_that_are_not_known_are_left_out(tmp_path):
    line = {"file": "a", "width": 9, "height": 9, "licence": "CC0", "regions": [{"box": [0, 0, 1, 1], "depth": 3}]}
    (tmp_path / FILE).write_text(json.dumps(line))
    assert read(tmp_path / FILE)[0] == [PictureRecord("a", 9, 9, (RegionRecord("1", (0, 0, 1, 1)),))]

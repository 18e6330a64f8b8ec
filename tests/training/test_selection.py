"""Which pictures a person should look at: each reason under its budget, written into the records."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from training.data.__main__ import main
from training.data.record import RecordError
from training.data.record_file import (
    FILE,
    Conversation,
    Judgement,
    PictureRecord,
    RecordWriter,
    RegionRecord,
    read_records,
)
from training.data.report import Report
from training.data.selection import select_for_review


def region(**fields) -> RegionRecord:
    return RegionRecord("1", (0, 0, 9, 9), **fields)


def records(folder: Path, *pictures: tuple[RegionRecord | Conversation, ...]) -> Path:
    with RecordWriter(folder) as writer:
        for number, items in enumerate(pictures):
            writer.write(PictureRecord(
                f"{number}.jpg", 9, 9, tuple(item for item in items if isinstance(item, RegionRecord)),
                tuple(item for item in items if isinstance(item, Conversation)), review=("of before",)))
    return folder


def reviews(folder: Path) -> list[tuple[str, ...]]:
    return [record.review for record in read_records(folder / FILE, Report(0))]


def test_the_least_sure_texts_are_chosen_under_a_budget(tmp_path):
    confidences = (0.9, 0.1, 0.7, 0.3, None, 0.3)
    folder = records(tmp_path, *((region(source="model", confidence=value),) for value in confidences),
                     (region(source="person", confidence=0.0),))
    assert select_for_review(folder, 2)["low confidence"] == 2
    assert reviews(folder) == [(), ("low confidence",), (), ("low confidence",), (), (), ()]
    assert select_for_review(folder, 50)["low confidence"] == 4
    assert select_for_review(folder, 0)["low confidence"] == 0 and not any(reviews(folder))


def test_the_newest_thumbs_down_are_chosen(tmp_path):
    def judged(time: float, right: str = "") -> RegionRecord:
        return region(judgements=(Judgement("a cup", right, True, "Ada", time),))

    answer = Conversation((("Why?", "No."),), judgements=(Judgement("No.", "", True, "", 30.0),))
    folder = records(tmp_path, (judged(10),), (judged(20),), (answer,), (judged(40, "a mug"),))
    select_for_review(folder, 2)
    assert reviews(folder) == [(), ("thumbs down",), ("thumbs down",), ()]


def test_disagreement_is_found_among_people_answers_and_a_detector(tmp_path):
    people = region(judgements=(Judgement("a", "b", True), Judgement("a", "c", True)))
    agreed = region(judgements=(Judgement("a", "b", True), Judgement("a", "B", True)))
    answers = Conversation((("Red?", "Yes."),)), Conversation((("red?", "No."),))
    folder = records(tmp_path, (people,), (agreed,), answers, (region(name="mug", description="a red valve"),),
                     (region(name="mug", description="a red Mug"),))
    select_for_review(folder, 2)
    assert reviews(folder) == [("disagreement",), (), ("disagreement",), (), ()], "a detector's name counts less"
    select_for_review(folder, 3)
    assert reviews(folder)[3] == ("disagreement",)


def test_a_picture_may_have_several_reasons(tmp_path, capsys):
    folder = records(tmp_path / "new", (region(confidence=0.1, judgements=(Judgement("a", "", True),)),))
    assert main(["select", str(folder), "--review", "5"]) == 0
    assert "review 1: thumbs down\nreview 0: disagreement\nreview 1: low confidence" in capsys.readouterr().out
    assert reviews(folder) == [("thumbs down", "low confidence")]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / FILE)]
    assert modes == [0o700, 0o600], "also after it was written anew"
    assert main(["select", str(folder), "--review", "-1"]) == 1
    assert "--review is -1" in capsys.readouterr().err


def test_a_file_with_a_malformed_record_is_left_as_it_is(tmp_path):
    folder = records(tmp_path, (region(confidence=0.1),))
    with (folder / FILE).open("a") as file:
        file.write("{")
    before = (folder / FILE).read_text()
    with pytest.raises(RecordError, match="line 2"):
        select_for_review(folder, 5)
    assert (folder / FILE).read_text() == before

"""What is kept of a review, and what becomes of the records: also where they change meanwhile."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import training_fixtures as fixtures

pytest.importorskip("fastapi", reason="the packages of the web console are not installed")

from ros_gpt4roi.image_file import encode_image  # noqa: E402
from training.data.record import RecordError  # noqa: E402
from training.data.record_file import FILE, PictureRecord, read_records  # noqa: E402
from training.data.records import Records  # noqa: E402
from training.data.report import Report  # noqa: E402
from training.review.__main__ import main  # noqa: E402
from training.review.edits import Edits, unchanged  # noqa: E402
from training.review.store import STATE, ConflictError, Item, ReviewError, Store  # noqa: E402


def reviewed(store: Store, verdict: str = "accepted", **regions: dict) -> Item:
    """Ada opens the next record, changes fields of its regions, and judges it."""
    item = store.open("ada", "Ada", None, None, [])
    assert item is not None
    edits = item.edits or unchanged(item.record)
    for region in edits.regions:
        for name, value in regions.get(region.id, {}).items():
            setattr(region, name, value)
    store.save("ada", "Ada", item.id, item.version, edits, verdict)
    return item


def records(folder: Path) -> list[PictureRecord]:
    return list(read_records(folder / FILE, Report(0)))


def change_file(folder: Path, old: str, new: str) -> None:
    text = (folder / FILE).read_text()
    assert old in text
    (folder / FILE).write_text(text.replace(old, new))


def test_what_was_accepted_is_what_recipes_learn(tmp_path):
    fixtures.records(tmp_path)
    store = Store(tmp_path)
    assert stat.S_IMODE((tmp_path / STATE).stat().st_mode) == 0o600
    item = reviewed(store, mug_3={"description": "a chipped mug", "box": (50, 20, 91, 70)})
    assert store.export() == {"accepted": 1, "as they were": 1}
    assert store.counts() == {"open": 1, "accepted": 1, "rejected": 0}
    assert store.export() == {"as they were": 2}, "a second time, nothing is left to do"
    store.close()
    valve, mug = records(tmp_path)[0].regions
    assert [judged.wrong for judged in valve.judgements] == [False] and valve.box == item.record.regions[0].box
    assert (mug.name, mug.description, mug.box) == ("mug", "a chipped mug", (50, 20, 91, 70))
    options = {"annotations": tmp_path / FILE, "form": "texts", "sources": ["person"]}
    source = fixtures.source(Records, options, tmp_path)
    said = {turn.answer for record in source.records(0, fixtures.np.random.default_rng(0)) for turn in record.rounds}
    assert "<region1>, a red valve." in said or "<region2>, a red valve." in said


def test_two_reviewers_hold_different_records_and_an_old_version_is_not_saved(tmp_path):
    fixtures.records(tmp_path)
    store = Store(tmp_path)
    ada, bob = (store.open(name, name, None, None, []) for name in ("Ada", "Bob"))
    assert {ada.record.file, bob.record.file} == {"images/a.png", "images/b.png"}
    assert store.open("Eve", "Eve", None, None, []) is None, "both are held"
    assert store.open("Bob", "Bob", ada.id, None, []).holder == "Ada"
    with pytest.raises(ConflictError, match="Ada has this record"):
        store.save("Bob", "Bob", ada.id, ada.version, unchanged(ada.record), "")
    version = store.save("Ada", "Ada", ada.id, ada.version, unchanged(ada.record), "")
    store.keep("Ada", [])
    assert store.open("Bob", "Bob", ada.id, None, []).version == version
    with pytest.raises(ConflictError, match="changed by Ada meanwhile") as caught:
        store.save("Bob", "Bob", ada.id, ada.version, unchanged(ada.record), "rejected")
    assert caught.value.item.verdict == "" and store.item(ada.id).version == version


def test_a_record_that_changed_on_disk_costs_only_itself(tmp_path):
    fixtures.records(tmp_path)
    store = Store(tmp_path)
    first = reviewed(store, mug_3={"name": "jug"})
    second = reviewed(store, "rejected")
    change_file(tmp_path, "a red valve on the wall", "a blue valve")
    with pytest.raises(ConflictError, match="changed on disk meanwhile"):
        store.save("ada", "Ada", first.id, first.version + 1, unchanged(first.record), "accepted")
    again = store.open("ada", "Ada", None, None, [])
    assert again.id == first.id and again.verdict == "" and again.edits is None
    assert again.record.regions[0].description == "a blue valve" and again.lost.regions[1].name == "jug"
    assert store.export() == {"as they were": 1, "rejected": 1}
    assert [record.file for record in records(tmp_path)] == [first.record.file]
    with pytest.raises(ReviewError, match="not in"):
        store.item(second.id)


def test_an_export_that_ended_before_its_last_step_is_not_taken_for_a_change(tmp_path, monkeypatch):
    fixtures.records(tmp_path)
    store = Store(tmp_path)
    item = reviewed(store)
    monkeypatch.setattr(Store, "_settle", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        store.export()
    monkeypatch.undo()
    store.close()
    found = Store(tmp_path).item(item.id)
    assert (found.verdict, found.lost, found.edits) == ("accepted", None, None) and found.record.regions[0].judgements


def test_malformed_lines_and_parts_are_named_and_malformed_lines_stay(tmp_path, capsys):
    fixtures.records(tmp_path)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"file": \n' + json.dumps({"file": "c.png", "width": 9, "height": 9, "review": ["a"],
                                                "regions": [{"id": "1", "box": [0, 0, 1]}]}))
    (tmp_path / "c.png").write_bytes(encode_image(np.zeros((9, 9, 3), np.uint8), "PNG"))
    store = Store(tmp_path)
    assert len(store.problems) == 1 and "line 3" in store.problems[0]
    item = reviewed(store)
    assert item.record.file == "c.png" and "region 1: box is" in item.problems[0]
    assert main([str(tmp_path), "--export"]) == 0
    assert "1 records accepted" in capsys.readouterr().out
    lines = (tmp_path / FILE).read_text().splitlines()
    assert lines[2] == '{"file": ' and json.loads(lines[3])["regions"] == []


def test_what_was_judged_a_thousand_times_can_be_accepted_once_more(tmp_path):
    judged = [{"said": "a mug", "right": f"a cup {number}", "wrong": True, "time": number} for number in range(1000)]
    fixtures.records(tmp_path, {"file": "images/a.png", "width": 100, "height": 80, "regions": [
        {"id": "mug_3", "box": [1, 1, 9, 9], "description": "a cup", "judgements": judged}]})
    store = Store(tmp_path)
    reviewed(store, mug_3={"description": "a valve"})
    store.export()
    (region,) = records(tmp_path)[0].regions
    assert len(region.judgements) == 1000 and region.judgements[-1].right == "a valve"


@pytest.mark.parametrize(("change", "words"), [
    ({"box": (200, 0, 300, 5)}, "region mug_3: box"), ({"name": "<region1>"}, "reserved marker"),
    ({"attributes": {"<bbox>": "red"}}, "reserved marker"), ({"attributes": {"colour": "<bbox>"}}, "reserved marker"),
    ({"id": "other"}, "conversation 1 speaks of region 'mug_3'"), ({"id": "1"}, "there twice"),
])
def test_what_would_be_no_record_is_not_accepted(tmp_path, change, words):
    fixtures.records(tmp_path)
    store = Store(tmp_path)
    with pytest.raises(ReviewError, match=words):
        reviewed(store, mug_3=change)
    assert store.counts()["accepted"] == 0
    reviewed(store, "", mug_3=change)  # but nothing that was typed is lost


def test_what_nobody_can_have_seen_is_not_accepted(tmp_path):
    """A box that was wrong before anybody looked, and a picture that cannot be shown."""
    found = {"file": "c.png", "width": 9, "height": 9, "review": ["a"],
             "regions": [{"id": "1", "box": [20, 20, 30, 30], "name": "mug"}]}
    (tmp_path / FILE).write_text(json.dumps(found) + "\n")
    store = Store(tmp_path)
    with pytest.raises(ReviewError, match=r"c\.png.* is not in the folder"):
        reviewed(store)
    (tmp_path / "c.png").write_bytes(encode_image(np.zeros((9, 9, 3), np.uint8), "PNG"))
    with pytest.raises(ReviewError, match="region 1: box"):
        reviewed(store)
    reviewed(store, **{"1": {"box": (1, 2, 12, 8)}})
    assert store.counts()["accepted"] == 1


def test_a_folder_that_is_none_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "records.jsonl is not there" in capsys.readouterr().err
    fixtures.records(tmp_path)
    (tmp_path / STATE).write_bytes(b"no database" * 100)
    with pytest.raises(RecordError, match="cannot be used"):
        Store(tmp_path)
    with pytest.raises(ValueError):
        Edits.model_validate_json('{"regions": [{"id": "1", "box": [0, 0, NaN, 1]}], "conversations": []}')

"""A simulated operator: what they say of descriptions, the folder that comes of it, and what is called by its kind."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from ros_gpt4roi.sim.household.scene import HouseholdObject, HouseholdScene, State
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import SceneObject
from ros_gpt4roi.sim.worlds import HOUSEHOLD, TABLETOP
from training.data.record import RecordError
from training.data.record_file import FILE, read_records
from training.data.report import Report
from training.retraining import simulated
from training.retraining.corrections import find_corrections, key_phrase
from training.retraining.kinds_called import count_kinds, share
from training.retraining.simulated import Person, main
from training.retraining.worlds import WORLDS

WORLD = WORLDS[TABLETOP]
RING = SceneObject("ring", "red", "small", "matte", (1, 2, 30, 40), 1.0, (0.0, 0.0, 0.0), 1.0, 0)


@pytest.mark.parametrize(("said", "wrong"), [
    ("A small matte red ring.", False), ("a red ring, matte and small", False), ("A small matte red bowl.", True),
    ("A small matte red ring bowl.", True), ("A large matte red ring.", True), ("", True)])
def test_a_person_corrects_what_is_wrong_and_confirms_what_is_right(said, wrong):
    person = Person(WORLD, 1, seed=0, mistakes=0)
    judged = person.judge(RING, said)
    assert (judged.said, judged.wrong, judged.right) == (said, wrong, "A small matte red ring." if wrong else "")
    assert person.done == wrong and (person.corrected, person.confirmed) == (int(wrong), int(not wrong))


def test_five_per_cent_of_the_corrections_name_another_kind():
    def corrections() -> list[str]:
        person = Person(WORLD, 200, seed=3)
        texts = []
        while not person.done:
            texts.append(person.judge(RING, "A small matte red bowl.").right)
        assert person.mistaken == 10
        return texts

    texts = corrections()
    mistaken = [text for text in texts if text != "A small matte red ring."]
    assert len(texts) == 200 and len(mistaken) == 10 and texts == corrections()
    assert all(text.startswith("A small matte red ") and "ring" not in text for text in mistaken)


def test_a_person_does_not_wait_for_ever_for_something_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    silent = SimpleNamespace(describe=lambda frame: SimpleNamespace(descriptions=()), reset=lambda: None)
    monkeypatch.setattr(simulated, "_PATIENCE", 3)
    with pytest.raises(RecordError, match="data: after 0 corrections the descriptions of 3 scenes needed none"):
        simulated.write_corrections(tmp_path / "data", silent, Person(WORLD, 5, seed=0), seed=0)
    assert not (tmp_path / "data" / FILE).exists()


@pytest.mark.parametrize("corrections", ["0", "1000000000000"])
def test_so_many_corrections_are_refused(tmp_path: Path, capsys, corrections: str):
    with pytest.raises(SystemExit, match="2"):
        main(["--world", "household", "--out", str(tmp_path), "--corrections", corrections])
    assert f"--corrections {corrections} --seed 0, expected 1 to 1000000" in capsys.readouterr().err


def test_what_is_corrected_is_a_folder_that_is_retrained_from(root: Path, tmp_path: Path, capsys):
    folder = tmp_path / "data"
    assert main(["--model", str(root / "models" / "tabletop"), "--out", str(folder), "--corrections", "6"]) == 0
    corrected = find_corrections([folder], Report(0))
    shown = capsys.readouterr().out
    assert "6 corrections and " in shown and f"in {len(corrected.pictures)} pictures" in shown
    records = list(read_records(folder / FILE, Report(0)))
    with TabletopRenderer() as renderer:
        for record in records:
            scene = renderer.render(*record.origin["scene"].split()[:1], *map(int, record.origin["scene"].split()[1:]))
            assert [region.box for region in record.regions] == [item.box for item in scene.objects]
    judged = [region for record in records for region in record.regions if region.judgements]
    assert len(judged) == corrected.regions and sum(region.judgements[-1].wrong for region in judged) == 6
    assert not corrected.rejected and {region.source for region in judged} == {"person"}
    assert {"ring", "star"} & {key_phrase(region) for region in judged}
    assert main(["--out", str(folder)]) == 1 and "exists already" in capsys.readouterr().err


def test_kinds_are_counted_also_where_the_model_has_no_word_for_them(root: Path):
    pipeline = Pipeline.open(root / "models" / "tabletop", PipelineConfig(vision=VisionOptions(backend="torch")))
    counts = count_kinds(pipeline, WORLD, WORLD.split, seed=7, scenes=4)
    assert share(counts, WORLD.new_kinds) == 0.0 and share(counts, WORLD.old_kinds) > 0.6
    assert sum(count for _, count in counts.values()) > 10 and share(counts, ("cup",)) is None
    ended = [0]

    def end() -> None:
        ended[0] += 1
        if ended[0] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_kinds(pipeline, WORLD, WORLD.split, seed=7, scenes=4, check=end)


def test_a_person_of_the_household_knows_its_things_and_leaves_what_is_hardly_seen():
    world = WORLDS[HOUSEHOLD]
    popcorn = HouseholdObject("popcorn", ("red", "white"), "usual", (10, 10, 90, 120), 1.0, (0.0, 0.0, 0.1),
                              (0.1, 0.1, 0.2), 1.0, 0, State("upright"))
    hidden = dataclasses.replace(popcorn, visible=0.02, box=(10, 10, 14, 14))
    scene = HouseholdScene("unseen", 0, 0, 640, 480, np.zeros((480, 640, 3), np.uint8), np.zeros((480, 640), np.int8),
                           (popcorn, hidden), (1.0, 0.0, 0.5), 0)
    assert popcorn.kind in world.new_kinds and not {*world.new_kinds} & {*world.old_kinds}
    assert [world.can_tell(scene, item) for item in scene.objects] == [True, False]
    right = world.right_text(popcorn)
    assert world.kinds_called(right) == {"popcorn"} and world.is_right(popcorn, right)
    assert world.is_right(popcorn, f"{right} It stands on the table, left of region2, the bowl.")
    assert not world.is_right(popcorn, right.replace(world.word("popcorn"), "bowl"))
    judged = Person(world, 1, seed=0, mistakes=1).judge(popcorn, "A white ceramic bowl.")
    assert judged.wrong and judged.right != right and world.kinds_called(judged.right)

"""A simulated operator: what they say of descriptions, the folder that comes of it, and what is called by its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
from ros_gpt4roi.runtime.vision_stage import VisionOptions
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import KINDS, WORKSHOP_KINDS, SceneObject
from training.data.record_file import FILE, read_records
from training.data.report import Report
from training.evaluation.tabletop_kinds import count_kinds, share
from training.retraining.corrections import find_corrections, key_phrase
from training.retraining.simulated import SPLIT, Person, main

RING = SceneObject("ring", "red", "small", "matte", (1, 2, 30, 40), 1.0, (0.0, 0.0, 0.0), 1.0, 0)


@pytest.mark.parametrize(("said", "wrong"), [
    ("A small matte red ring.", False), ("a red ring, matte and small", False), ("A small matte red bowl.", True),
    ("A small matte red ring bowl.", True), ("A large matte red ring.", True), ("", True)])
def test_a_person_corrects_what_is_wrong_and_confirms_what_is_right(said, wrong):
    person = Person(1, seed=0, mistakes=0)
    judged = person.judge(RING, said)
    assert (judged.said, judged.wrong, judged.right) == (said, wrong, "A small matte red ring." if wrong else "")
    assert person.done == wrong and (person.corrected, person.confirmed) == (int(wrong), int(not wrong))


def test_five_per_cent_of_the_corrections_name_another_kind():
    def corrections() -> list[str]:
        person = Person(200, seed=3)
        texts = []
        while not person.done:
            texts.append(person.judge(RING, "A small matte red bowl.").right)
        assert person.mistaken == 10
        return texts

    texts = corrections()
    mistaken = [text for text in texts if text != "A small matte red ring."]
    assert len(texts) == 200 and len(mistaken) == 10 and texts == corrections()
    assert all(text.startswith("A small matte red ") and "ring" not in text for text in mistaken)


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
    counts = count_kinds(pipeline, SPLIT, seed=7, scenes=4)
    assert share(counts, WORKSHOP_KINDS) == 0.0 and share(counts, KINDS) > 0.6
    assert sum(count for _, count in counts.values()) > 10 and share(counts, ("cup",)) is None
    ended = [0]

    def end() -> None:
        ended[0] += 1
        if ended[0] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_kinds(pipeline, SPLIT, seed=7, scenes=4, check=end)

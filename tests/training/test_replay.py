"""What a retraining replays: scenes of the world that a model was trained on, and what is true of them."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import pytest

from ros_gpt4roi.sim.worlds import HOUSEHOLD, TABLETOP
from training.data.record_file import FILE, read_records
from training.data.report import Report
from training.retraining.replay import render_replay
from training.retraining.worlds import WORLDS

SCENES = 4
DESCRIBE = "Describe {region}."


@pytest.mark.parametrize("name", [TABLETOP, HOUSEHOLD])
def test_scenes_are_written_with_their_descriptions_and_conversations(name: str, tmp_path: Path):
    world = WORLDS[name]
    render_replay(tmp_path, world, "train", SCENES, 3, DESCRIBE)
    records = list(read_records(tmp_path / FILE, Report(0)))
    assert 1 < len(records) <= SCENES
    told = 0
    for record in records:
        height, width, _ = cv2.imread(str(tmp_path / record.file)).shape
        assert (width, height) == (record.width, record.height) == world.image_size
        ids = {region.id for region in record.regions}
        texts = {region.id: region.description for region in record.regions}
        for region in record.regions:
            assert set(re.findall(r"<region (\d+)>", region.description)) <= ids - {region.id}
            told += region.name in region.description
        asked = {f"Describe <region {number}>.": number for number in ids}
        described = [(asked[question], answer) for talk in record.conversations for question, answer in talk.rounds
                     if question in asked]
        assert described and all(answer == texts[number] for number, answer in described)
        assert any(question not in asked for talk in record.conversations for question, _ in talk.rounds)
    assert told > len(records)  # the others are hardly seen


def test_other_seeds_are_other_scenes(tmp_path: Path):
    found = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        render_replay(tmp_path / folder, WORLDS[TABLETOP], "train", 2, seed, DESCRIBE)
        found.append((tmp_path / folder / FILE).read_bytes())
    assert found[0] == found[1] != found[2]

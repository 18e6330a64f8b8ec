"""Probes are read from a model's folder, refused where they are no good, and an answer is compared by its words."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ros_gpt4roi.runtime.probes import ProbesError, contains, read_probes
from ros_gpt4roi.runtime.types import Answer, Status


def write(folder: Path, *entries: object) -> Path:
    (folder / "probes").mkdir()
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save(folder / "probes" / "0.png")
    (folder / "probes" / "probes.json").write_text(json.dumps({"probes": entries}))
    return folder


GOOD = {"image": "0.png", "boxes": [[1, 2, 30, 40], [5, 5, 20, 20]],
        "questions": [{"text": "What is region 1?", "answers": ["moka pot", "coffee maker"]},
                      {"text": "What is region 2?", "answers": ["cup"]}]}


def test_questions_share_their_pictures_frame(tmp_path: Path) -> None:
    first, second = read_probes(write(tmp_path, GOOD))
    assert first.frame is second.frame and first.frame.image.shape == (48, 64, 3)
    assert [(region.id, region.box) for region in first.frame.regions] == [("1", (1, 2, 30, 40)), ("2", (5, 5, 20, 20))]


def test_a_folder_without_probes_has_none(tmp_path: Path) -> None:
    assert read_probes(tmp_path) == []


@pytest.mark.parametrize(("text", "right"), [
    ("A Moka pot.", True), ("It is a coffee   maker, I think", True), ("a moka", False), ("a moka potato", False),
    ("", False)])
def test_an_answer_is_right_by_whole_words(tmp_path: Path, text: str, right: bool) -> None:
    probe = read_probes(write(tmp_path, GOOD))[0]
    assert probe.is_right(Answer(Status.OK, text)) is right
    assert not probe.is_right(Answer(Status.TIMEOUT, text))


@pytest.mark.parametrize(("text", "phrase", "right"), [
    ("这是一个红色的阀门。", "阀门", True), ("这是一个红色的阀。", "阀门", False), ("赤いバルブです", "バルブ", True),
    ("valve阀门2", "阀门", True), ("วาล์วสีแดง", "วาล์ว", True), ("", "阀门", False)])
def test_words_that_no_spaces_divide_are_found(text: str, phrase: str, right: bool) -> None:
    assert contains(text, phrase) is right


@pytest.mark.parametrize(("change", "message"), [
    ({"image": "../0.png"}, "not beside"), ({"image": "missing.png"}, "missing.png"),
    ({"boxes": [[1, 2, 3]]}, "four numbers"), ({"boxes": [[1, 2, 3, 10**400]]}, "too large"),
    ({"questions": [{"text": "?"}]}, "answers"),
    ({"questions": [{"text": "?", "answers": "a cup"}]}, "'a cup', expected a list"),
    ({"boxes": 3}, "probes.json")])
def test_what_is_wrong_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ProbesError, match=message):
        read_probes(write(tmp_path, {**GOOD, **change}))


def test_the_embedded_models_probes_are_right_nearly_always(root: Path) -> None:
    from ros_gpt4roi.runtime.pipeline import Pipeline, PipelineConfig
    from ros_gpt4roi.runtime.probes import count_right
    from ros_gpt4roi.runtime.request import Conversation, Question
    from ros_gpt4roi.runtime.vision_stage import VisionOptions
    folder = root / "models" / "tabletop"
    probes, pipeline = read_probes(folder), Pipeline.open(folder, PipelineConfig(vision=VisionOptions("torch")))
    right = count_right(probes, lambda probe: pipeline.ask(Conversation("", probe.frame), Question(probe.text)))
    assert len(probes) >= 50 and right >= 0.9 * len(probes)

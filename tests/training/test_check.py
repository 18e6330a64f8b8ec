"""The check command: counts, filters, first errors, and pictures of samples."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import training_fixtures as fixtures
import yaml
from PIL import Image

from ros_gpt4roi.annotate import region_colour
from training.data.__main__ import main
from training.data.detections import load_detections


def config(tmp_path, section) -> str:
    path = tmp_path / "stage.yaml"
    recipe = {
        "model": "tabletop", "train": {"kind": "mixture", **json.loads(json.dumps(section, default=str))},
        "validation": {"kind": "tabletop", "split": "validation", "scenes": 1, "seed": 0},
        "stages": [{"name": "stage1", "objective": {"kind": "conversation"}, "trainable": ["regions"]}],
    }
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def test_check_prints_counts_and_renders_samples(tmp_path, capsys):
    out = tmp_path / "pictures"
    assert main(["check", "--config", config(tmp_path, fixtures.section(tmp_path)), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "read 2, images kept 2, visits an epoch 2" in printed
    assert "filtered 1: crowd annotation" in printed and "14 visits an epoch" in printed
    pictures = sorted((out / "train").iterdir())
    assert len(pictures) == 14
    picture = np.asarray(Image.open(out / "train" / "0-coco-0.png"))
    assert picture.shape[1] == 640 and picture.shape[0] > 512, "the conversation is under the picture"
    assert (picture == region_colour("1")).all(-1).sum() > 100, "the first box is drawn"


def test_check_shows_the_first_errors(tmp_path, capsys):
    values = fixtures.coco(tmp_path)
    content = json.loads(values["annotations"].read_text())
    content["annotations"][0]["bbox"] = "none"
    values["annotations"].write_text(json.dumps(content))
    section = {"cache": tmp_path / "cache", "malformed_limit": 3, "sources": [{"type": "coco", **values}]}
    path = config(tmp_path, section)
    arguments = ["check", "--config", path, "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "malformed 1\n      coco 9: annotation 1: bbox is 'none'" in printed
    for content in fixtures.BROKEN_PICTURES.values():
        (tmp_path / "train2017" / "000000000025.jpg").write_bytes(content)
        assert main(arguments) == 1
        printed = capsys.readouterr().out
        assert "visit 1 failed: " in printed and "000000000025.jpg: " in printed


def test_check_shows_what_does_not_belong_together(tmp_path, capsys):
    values = fixtures.coco(tmp_path)
    fixtures.image(tmp_path / "train2017" / "000000000009.jpg", 50, 40)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (80, 100)).save(tmp_path / "train2017" / "000000000025.jpg", exif=exif)
    section = {"cache": tmp_path / "cache", "malformed_limit": 3, "sources": [{"type": "coco", **values}]}
    assert main(["check", "--config", config(tmp_path, section), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "malformed 1\n" in printed and "000000000009.jpg is 50x40, but its boxes were made for 100x80" in printed
    assert "noted 1: image turned by its EXIF orientation\n" in printed


def test_check_explains_a_section_that_cannot_be_used(tmp_path, capsys):
    section = {"cache": tmp_path / "cache", "sources": [{"type": "imagenet"}]}
    assert main(["check", "--config", config(tmp_path, section)]) == 1
    assert "sources[0]: type is 'imagenet', expected one of coco" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_convert_turns_a_pickle_into_a_safe_file(tmp_path, suffix):
    (result,) = fixtures.detections()["results"]
    arrays = result | {"pred_bboxes": np.asarray(result["pred_bboxes"]), "labels": np.asarray(result["labels"])}
    (tmp_path / "in.pkl").write_bytes(pickle.dumps([arrays]))
    (tmp_path / "names.txt").write_text("dog\nbow\nowl\n")
    out = tmp_path / f"out.{suffix}"
    assert main(["convert", str(tmp_path / "in.pkl"), str(out), "--class-names", str(tmp_path / "names.txt")]) == 0
    assert load_detections(out).class_names == ("dog", "bow", "owl")

"""The command that describes a picture file, with the embedded model and without ROS."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ros_gpt4roi.describe import main
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A rendered table as a PNG, and the true boxes of two things on it."""
    scene = TabletopRenderer(width=320, height=240).render("test", 0, 0)
    path = tmp_path_factory.mktemp("describe") / "table.png"
    assert cv2.imwrite(str(path), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    return path, [",".join(map(str, item.box)) for item in scene.objects[:2]]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_regions_are_described_and_questions_answered_as_one_conversation(picture, capsys) -> None:
    path, boxes = picture
    status, out, _ = run(capsys, path, "--json", "--ask", "What is region 2?", "--ask", "Why?", "--boxes", *boxes)
    report = json.loads(out)
    assert status == 0
    assert [entry["id"] for entry in report["descriptions"]] == ["1", "2"]
    assert all(entry["text"].startswith(("A ", "An ")) and 0 < entry["confidence"] <= 1
               for entry in report["descriptions"])
    first, second = report["answers"]
    assert first["status"] == "OK" and first["region_ids"] == ["2"]
    assert second["status"] == "OK" and second["text"]
    assert report["size"] == [320, 240] and set(report["seconds"]) == {"preprocess", "vision", "language"}


def test_an_explanation_shows_what_was_spliced_in_and_every_token(picture, capsys) -> None:
    path, boxes = picture
    status, out, _ = run(capsys, path, "--explain", "--json", "--boxes", *boxes)
    entry = json.loads(out)["descriptions"][0]
    assert status == 0
    assert "⟪49 image tokens⟫" in entry["prompt"] and entry["prompt"].count("⟪embedding of region") == 2
    written = "".join(token["text"] for token in entry["tokens"])
    assert written.startswith(entry["text"]) and written.endswith("<|end|>")
    for token in entry["tokens"]:  # greedy: what was taken is the likeliest
        text, probability = token["alternatives"][0]
        assert text == token["text"] and probability == pytest.approx(token["probability"], abs=1e-4)
        assert [p for _, p in token["alternatives"]] == sorted((p for _, p in token["alternatives"]), reverse=True)
    status, out, _ = run(capsys, path, "--explain", "--boxes", *boxes)
    assert status == 0 and "vision stage: " in out and "language model: int8" in out and "prompt: " in out


@pytest.mark.parametrize("part", ["image", "regions"])
def test_a_blanked_part_reaches_the_model_as_zeros(picture, capsys, part: str) -> None:
    path, boxes = picture
    status, out, _ = run(capsys, path, "--json", "--explain", "--blank", part, "--boxes", *boxes)
    report = json.loads(out)
    assert status == 0 and f"{part} blanked" in report["components"]["vision stage"]
    assert ("norm 0⟫" in report["descriptions"][0]["prompt"]) == (part == "regions")


def test_a_qwen3_vl_of_transformers_reads_regions_in_words(picture, capsys, tiny_qwen: Path) -> None:
    path, boxes = picture
    how = (path, "--model", tiny_qwen, "--json", "--explain", "--boxes", *boxes)
    status, out, _ = run(capsys, *how, "--ask", "What is region 2?", "--ask", "Why?")
    report = json.loads(out)
    assert status == 0 and all(entry["text"] for entry in (*report["descriptions"], *report["answers"]))
    assert 'Describe region 1 {"bbox_2d": [' in report["descriptions"][0]["prompt"]
    assert "image tokens⟫" in report["answers"][1]["prompt"] and "What is region 2 {" in report["answers"][1]["prompt"]
    assert run(capsys, *how, "--blank", "image")[0] == 0
    status, _, err = run(capsys, *how, "--blank", "regions")
    assert status == 2 and "reads regions in words" in err


def test_what_an_answer_finds_is_reported_and_drawn(picture, capsys, make_qwen, tmp_path: Path) -> None:
    model = make_qwen(says=['[{"bbox_2d": [100, 100, 200', ', 300], "label": "red mug"}]'])
    saved, path = tmp_path / "found.png", picture[0]
    status, out, _ = run(capsys, path, "--model", model, "--json", "--save", saved, "--ask", "Find the red mug.")
    [answer] = json.loads(out)["answers"]
    assert status == 0 and answer["text"] == "red mug (region 2)" and answer["region_ids"] == ["2"]
    assert answer["regions"] == [{"id": "2", "box": [32, 24, 64, 72]}]
    drawn, plain = cv2.imread(str(saved))[:240], cv2.imread(str(path))
    assert np.any(drawn[48, 60:68] != plain[48, 60:68]), "its right side"


def test_without_boxes_the_whole_picture_is_one_region(picture, capsys) -> None:
    status, out, _ = run(capsys, picture[0], "--json")
    [entry] = json.loads(out)["descriptions"]
    assert status == 0 and entry["box"] == [0, 0, 320, 240]


def test_the_annotated_picture_is_saved(picture, capsys, tmp_path: Path) -> None:
    path, boxes = picture
    saved = tmp_path / "annotated.png"
    assert run(capsys, path, "--save", saved, "--boxes", *boxes)[0] == 0
    drawn = cv2.imread(str(saved))
    assert drawn.shape == (240, 320, 3) and np.any(drawn != cv2.imread(str(path)))
    status, _, err = run(capsys, path, "--save", tmp_path / "annotated.xyz", "--boxes", *boxes)
    assert status == 2 and "annotated.xyz" in err


def test_a_question_that_cannot_be_answered_says_why(picture, capsys) -> None:
    status, out, _ = run(capsys, picture[0], "--ask", "What is region 9?")
    assert status == 1 and "UNKNOWN_REGION" in out and "'9'" in out


def test_a_bad_box_costs_only_itself(picture, capsys) -> None:
    path, boxes = picture
    status, out, err = run(capsys, path, "--json", "--boxes", boxes[0], "900,1,950,9", boxes[1])
    report = json.loads(out)
    assert status == 1 and [entry["id"] for entry in report["descriptions"]] == ["1", "3"]
    [refusal] = report["refused"]
    assert "region 2" in refusal and "900" in refusal and "outside" in refusal and refusal in err


@pytest.mark.parametrize("arguments, expected", [
    (["/nowhere.png"], "/nowhere.png"), (["{picture}", "--boxes", "1,2,3"], "'1,2,3'"),
    (["{picture}", "--boxes", "0,0,0.5,0.5"], "normalised"),
    (["{picture}", "--model", "nothing"], "'nothing'"),
    (["{picture}", "--detections", "/nowhere.yaml"], "/nowhere.yaml")])
def test_input_that_cannot_be_used_is_named(picture, capsys, arguments: list[str], expected: str) -> None:
    status, _, err = run(capsys, *(item.format(picture=picture[0]) for item in arguments))
    assert status == 2 and expected in err


def test_it_runs_without_ros(root: Path) -> None:
    """No module of ROS is imported on the way."""
    code = "import sys, ros_gpt4roi.describe; sys.exit(any(name.split('.')[0] == 'rclpy' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

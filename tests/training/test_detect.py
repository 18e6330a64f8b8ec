"""Detector boxes: what is written, and that an interrupted run goes on."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import training_fixtures as fixtures

from training.data.detections import load_detections
from training.data.record import RecordError
from training.detect import Detector, Found, detect, main

SETTINGS = {"detector": "test"}


class Counting:
    """Finds the same boxes in every image and remembers how many images it was shown; stops at ``limit``."""

    def __init__(self, limit: int | None = None):
        self.limit, self.seen = limit, 0

    def __call__(self, images):
        found = []
        for image in images:
            if self.seen == self.limit:
                raise KeyboardInterrupt
            self.seen += 1
            height, width = image.shape[:2]
            boxes = [[0, 0, width / 2, height], [10, 10, width + 9, height], [1, 1, 5, 5], [2, 2, 9, 9]]
            found.append(Found(np.array(boxes, float), np.array([0.5, 0.9, 0.01, 0.8]), np.array([1, 3, 1, 2])))
        return found


def folder(tmp_path, count=3):
    for number in range(count):
        fixtures.image(tmp_path / "images" / "part" / f"{number}.png", 100 + number, 80)
    return tmp_path / "images"


def run(find, tmp_path, settings=None, limit=0):
    names = ("__background__", "dog", "N/A", "owl")
    return detect(Detector(find, names), tmp_path / "images", tmp_path / "out.npz", settings or SETTINGS, 0.05, 100, 1,
                  limit)


def test_boxes_are_normalised_sorted_and_of_real_classes(tmp_path):
    folder(tmp_path)
    assert run(Counting(), tmp_path) == 3
    found = load_detections(tmp_path / "out.npz")
    assert found.filenames == ("part/0.png", "part/1.png", "part/2.png") and found.class_names == ("dog", "owl")
    np.testing.assert_allclose(found.boxes[found.rows(0)], [[0.1, 0.125, 1, 1, 0.9], [0, 0, 0.5, 1, 0.5]], atol=1e-5)
    assert found.labels[found.rows(0)].tolist() == [1, 0], "no N/A, nothing under the least score"
    assert not (tmp_path / "out.npz.partial").exists()


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path):
    folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(limit=2), tmp_path)
    partial = tmp_path / "out.npz.partial"
    partial.write_bytes(partial.read_bytes()[:-7])  # killed while it wrote the second image
    find = Counting()
    run(find, tmp_path)
    assert find.seen == 2
    resumed = load_detections(tmp_path / "out.npz")
    (tmp_path / "out.npz").unlink()
    run(Counting(), tmp_path)
    whole = load_detections(tmp_path / "out.npz")
    assert resumed.filenames == whole.filenames and np.array_equal(resumed.boxes, whole.boxes)


def test_a_partial_file_of_another_detector_is_refused(tmp_path):
    folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(Counting(limit=1), tmp_path)
    with pytest.raises(RecordError, match="another detector"):
        run(Counting(), tmp_path, settings={"detector": "other"})


def test_unreadable_images_are_left_out_up_to_a_limit(tmp_path):
    images = folder(tmp_path)
    for name, content in fixtures.BROKEN_PICTURES.items():
        (images / f"{name}.jpg").write_bytes(content)
    (images / "folder.jpg").mkdir()
    os.mkfifo(images / "pipe.png")
    bad = len(fixtures.BROKEN_PICTURES) + 2
    with pytest.raises(RecordError, match="no picture.jpg"):
        run(Counting(), tmp_path, limit=bad - 1)
    assert run(Counting(), tmp_path, limit=bad) == 3


def test_a_box_that_is_no_number_is_left_out(tmp_path):
    folder(tmp_path, 1)

    def find(images):
        return [Found(np.array([[np.nan, 0, 9, 9], [1, 1, 9, 9]]), np.array([0.9, 0.8]), np.array([1, 1]))]

    run(find, tmp_path)
    np.testing.assert_allclose(load_detections(tmp_path / "out.npz").boxes[:, 4], [0.8])


def test_a_damaged_partial_file_is_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "out.npz.partial").write_text("{\n")
    with pytest.raises(RecordError, match="out.npz.partial is damaged"):
        run(Counting(), tmp_path)


def test_the_command_explains_what_is_missing(tmp_path, capsys):
    images = folder(tmp_path)
    arguments = [str(images), "--detector", "fasterrcnn_resnet50_fpn", "--out", str(tmp_path / "o.npz"), "--weights"]
    assert main([*arguments, str(tmp_path / "absent.pth")]) == 1
    assert "absent.pth does not exist" in capsys.readouterr().err
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    assert main([*arguments, str(tmp_path / "other.pth")]) == 1
    assert "does not fit fasterrcnn_resnet50_fpn of 91 classes" in capsys.readouterr().err


@pytest.mark.slow
def test_torchvisions_detector_runs_from_a_local_file(tmp_path):
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    images = folder(tmp_path, 2)
    (tmp_path / "names.txt").write_text("__background__\ndog\nowl\n")
    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    out = tmp_path / "boxes.json"
    assert main([str(images), "--detector", "fasterrcnn_mobilenet_v3_large_320_fpn", "--weights",
                 str(tmp_path / "weights.pth"), "--class-names", str(tmp_path / "names.txt"), "--out", str(out),
                 "--score", "0", "--device", "cpu"]) == 0
    found = load_detections(out)
    assert len(found.filenames) == 2 and found.class_names == ("dog", "owl") and len(found.boxes)


@pytest.mark.slow
def test_rt_detr_runs_from_a_local_folder(tmp_path):
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig

    images = folder(tmp_path, 2)
    backbone = RTDetrResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1],
                                  layer_type="basic", out_features=["stage2", "stage3", "stage4"])
    config = RTDetrConfig(backbone_config=backbone, encoder_in_channels=[16, 16, 16], encoder_hidden_dim=32, d_model=32,
                          encoder_ffn_dim=32, encoder_attention_heads=2, decoder_in_channels=[32, 32, 32],
                          decoder_ffn_dim=32, decoder_attention_heads=2, decoder_layers=1, num_queries=10,
                          num_feature_levels=3, id2label={0: "dog", 1: "owl"}, label2id={"dog": 0, "owl": 1})
    torch.manual_seed(0)
    RTDetrForObjectDetection(config).save_pretrained(tmp_path / "model")
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    out = tmp_path / "boxes.npz"
    assert main([str(images), "--detector", "transformers", "--weights", str(tmp_path / "model"), "--out", str(out),
                 "--score", "0", "--device", "cpu"]) == 0
    found = load_detections(out)
    assert len(found.filenames) == 2 and found.class_names == ("dog", "owl") and len(found.boxes)

"""Stored frames: read as every other image file, bad ones named."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from ros_gpt4roi.engine import EngineError
from ros_gpt4roi.engine.precision.calibration import default_frames_folder, load_frames
from ros_gpt4roi.model.checkpoint import read_config
from ros_gpt4roi.paths import find_model

PREPROCESS = read_config(find_model("tabletop")).preprocess


def frames_folder(folder, image="0.png", boxes=((1, 1, 20, 20),)):
    (folder / "frames.json").write_text(json.dumps({"frames": [{"image": image, "boxes": boxes}]}))
    return folder


def test_the_frames_that_come_with_the_package_are_read():
    frames = load_frames(default_frames_folder(), PREPROCESS)
    assert frames and all(frame.boxes.max() <= 1 and frame.image.dtype == np.uint8 for frame in frames)


def test_16_bit_frames_keep_their_brightness(tmp_path):
    Image.fromarray(np.full((40, 60), 0x8000, np.uint16)).save(tmp_path / "0.png")
    (frame,) = load_frames(frames_folder(tmp_path), PREPROCESS)
    assert np.abs(frame.image.astype(int) - 128).max() <= 1


@pytest.mark.parametrize("make", [
    lambda path: path.write_bytes(b"no picture"), lambda path: path.write_bytes(b""), os.mkfifo, os.mkdir,
    lambda path: None,
], ids=["no picture", "empty", "pipe", "folder", "absent"])
def test_a_frame_that_cannot_be_read_is_named(tmp_path, make):
    make(tmp_path / "0.png")
    with pytest.raises(EngineError, match="frames.json, entry .*0.png: "):
        load_frames(frames_folder(tmp_path), PREPROCESS)

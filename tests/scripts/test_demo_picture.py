"""The README's moving picture can be made again, and the one that is there is what the script makes."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from demo_picture import BAR_HEIGHT, captioned  # noqa: E402


def is_the_demo(path: Path) -> bool:
    with Image.open(path) as picture:
        width, height = picture.size  # a legend, where labels find no room, makes it higher
        return (width == 640 and 544 <= height < 900 and getattr(picture, "n_frames", 1) > 40
                and path.stat().st_size < 2e6)


def test_the_readmes_picture_is_there(root: Path) -> None:
    assert is_the_demo(root / "docs" / "images" / "demo.webp")


def test_a_long_answer_fits_below_the_picture() -> None:
    frame = np.zeros((20, 640, 3), np.uint8)
    for answer in ("A mug.", "It is a box of macaroni and cheese: it holds pasta that is boiled and eaten. " * 2):
        bar = captioned(frame, "What is region 2 used for?", answer)[len(frame):]
        assert bar.shape == (BAR_HEIGHT, 640, 3) and (bar[:, :-8] != 30).any() and (bar[:, -8:] == 30).all()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_picture_is_recorded_from_the_nodes(root: Path, tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, root / "scripts" / "demo_picture.py", "--world", "tabletop",
                           tmp_path / "demo.webp"], capture_output=True, text=True, timeout=580)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("? ") == made.stdout.count("> ") == 3, made.stdout
    assert is_the_demo(tmp_path / "demo.webp")

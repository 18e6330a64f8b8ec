"""The README's moving picture can be made again, and the one that is there is what the script makes."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")


def is_the_demo(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.size == (640, 544) and getattr(picture, "n_frames", 1) > 40 and path.stat().st_size < 2e6


def test_the_readmes_picture_is_there(root: Path) -> None:
    assert is_the_demo(root / "docs" / "images" / "demo.webp")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_picture_is_recorded_from_the_nodes(root: Path, tmp_path: Path) -> None:
    made = subprocess.run([sys.executable, root / "scripts" / "demo_picture.py", tmp_path / "demo.webp"],
                          capture_output=True, text=True, timeout=580)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("? ") == made.stdout.count("> ") == 3, made.stdout
    assert is_the_demo(tmp_path / "demo.webp")

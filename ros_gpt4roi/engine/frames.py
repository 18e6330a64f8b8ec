"""Stored frames with their boxes: what engines are calibrated on and compared with PyTorch on.

A folder of images and a frames.json: {"frames": [{"image": "0.jpg", "boxes": [[x1, y1, x2, y2], …]}, …]}, boxes in
pixels of their image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..image_file import read_image
from ..model.config import PreprocessConfig
from ..model.preprocess import normalise_boxes, preprocess_frame
from ..paths import find
from .errors import EngineError

FRAMES_FILE = "frames.json"


@dataclass(frozen=True, eq=False)
class StoredFrame:
    """image: uint8 RGB [1, S, S, 3]. boxes: float32 [1, N, 4] in units of the image. name: for messages."""

    name: str
    image: np.ndarray
    boxes: np.ndarray


def default_frames_folder() -> Path:
    """Frames that come with the package. Raises FileNotFoundError where it was installed without them."""
    return find(f"engines/probe/{FRAMES_FILE}").parent


def load_frames(folder: Path, config: PreprocessConfig) -> list[StoredFrame]:
    """Reads a folder and brings its frames to the network's input size.

    Raises EngineError that names the file and what was expected.
    """
    listing = folder / FRAMES_FILE
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))["frames"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{listing}: {error!r}, expected {{\"frames\": [{{\"image\": …, \"boxes\": …}}]}}") from error
    frames = [_frame(folder, entry, config) for entry in entries]
    if not frames:
        raise EngineError(f"{listing}: no frames, expected at least one")
    return frames


def _frame(folder: Path, entry: dict, config: PreprocessConfig) -> StoredFrame:
    try:
        path = folder / entry["image"]
        image = read_image(path)
        boxes = normalise_boxes(np.asarray(entry["boxes"], np.float32), image.shape[1], image.shape[0])
        if not len(boxes):
            raise ValueError("no boxes, expected at least one")
        pixels = preprocess_frame(image, config)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{folder / FRAMES_FILE}, entry {entry!r}: {error}") from error
    return StoredFrame(path.name, pixels[None], boxes[None])

"""A camera frame and its boxes → the network's inputs. The only copy: training, the robot and the benchmarks call it.

Mean and standard deviation are applied inside the network, so what leaves here is a quarter of the bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

import cv2
import numpy as np

from .config import PreprocessConfig

# Raised whenever the code below changes what a frame becomes: a checkpoint remembers what it was trained with.
REVISION = 1

_FILTERS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def preprocess_frame(frame: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """Resize a frame to the network's square input.

    Args:
        frame: uint8 RGB [H, W, 3], or an array-like of it.
        config: Image size and interpolation.

    Returns:
        uint8 RGB [S, S, 3], S = config.image_size, C-contiguous.

    Raises:
        ValueError: The frame is not such an array.
    """
    frame = check_frame(frame)
    size = config.image_size
    if frame.shape[:2] == (size, size):
        return np.ascontiguousarray(frame)
    interpolation = config.interpolation
    # Area averaging only makes sense downwards; upwards OpenCV would fall back to nearest-like blocks.
    if interpolation == "area" and (frame.shape[0] < size or frame.shape[1] < size):
        interpolation = "linear"
    return cv2.resize(frame, (size, size), interpolation=_FILTERS[interpolation])


def check_frame(frame: np.ndarray) -> np.ndarray:
    """Turn an array-like into an array. Raises ValueError where it is not uint8 RGB [H, W, 3]."""
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise ValueError(f"frame is {frame.dtype} {frame.shape}, expected uint8 RGB [H, W, 3]")
    return frame


def normalise_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Turn boxes in pixels into boxes in units of the image.

    Args:
        boxes: [N, 4], x1 y1 x2 y2 in pixels, origin at the outer corner of the frame's top left pixel.
        width: Of the frame, in pixels.
        height: Of the frame, in pixels.

    Returns:
        float32 [N, 4], 0..1 inside the image; boxes that reach outside stay so.

    Raises:
        ValueError: A box is not four finite numbers with x1 < x2 and y1 < y2; the message holds the box.
    """
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    bad = ~(np.isfinite(boxes).all(1) & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3]))
    if bad.any():
        place = int(np.argmax(bad))
        raise ValueError(f"box {place} is {boxes[place].tolist()}, expected finite x1 < x2 and y1 < y2 in pixels")
    return boxes / np.array([width, height, width, height], dtype=np.float32)


def preprocess_hash(config: PreprocessConfig) -> str:
    """Hash (SHA-256, hex) what decides what a frame becomes; checkpoints store it, and it is checked on load."""
    serialised = json.dumps({"revision": REVISION, **dataclasses.asdict(config)}, sort_keys=True)
    return hashlib.sha256(serialised.encode()).hexdigest()

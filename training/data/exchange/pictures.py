"""What all formats need: pictures that are copied, and masks as pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ros_gpt4roi.regular_file import read_regular
from training.data.record_file import RecordWriter
from training.data.segmentation import segmentation_region
from training.errors import training_packages

with training_packages():
    from pycocotools import mask as coco_masks

_PICTURE_BYTES = 256 << 20


def copy_picture(writer: RecordWriter, path: str | Path, number: int) -> str:
    """Copy a picture into a folder of records.

    Args:
        writer: Of the folder.
        path: The picture.
        number: Its place there, which names it.

    Returns:
        What `PictureRecord.file` is to be.

    Raises:
        ValueError: It cannot be read, or is larger than 256 MiB.
    """
    try:
        content = read_regular(path, _PICTURE_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return writer.add_picture(f"{number:06d}{Path(path).suffix.lower()}", content)


def mask_pixels(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """Draw a region's mask.

    Args:
        mask: A segmentation (see `segmentation_region`).
        size: (width, height) of the picture.

    Returns:
        bool [H, W].

    Raises:
        ValueError: It is none, or of another size.
    """
    segmentation_region(mask, size)
    width, height = size
    drawn = isinstance(mask, list) or isinstance(mask["counts"], list)
    runs = coco_masks.frPyObjects(mask, height, width) if drawn else mask
    return coco_masks.decode(coco_masks.merge(runs) if isinstance(runs, list) else runs).astype(bool)

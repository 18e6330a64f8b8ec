"""COCO's segmentations: polygons, and run lengths of masks, as a list or as COCO's compressed text."""

from __future__ import annotations

from typing import Any

import numpy as np

from ros_gpt4roi import run_lengths
from ros_gpt4roi.image_file import MAX_PIXELS
from ros_gpt4roi.model.region_shapes import RegionShape, mask_region, polygon_region


def segmentation_region(segmentation: Any, size: tuple[int, int]) -> RegionShape:
    """Make a region of an annotation's segmentation.

    Args:
        segmentation: [[x1, y1, x2, y2, …], …], polygons that belong together, or {"size": [height, width], "counts"},
            lengths of alternating runs of outside and inside, down the columns.
        size: (width, height) of the image, pixels.

    Returns:
        Its tight box, and a mask that divides this box.

    Raises:
        ValueError: It is neither, encloses nothing, or does not belong to an image of this size.
    """
    if isinstance(segmentation, dict):
        return mask_region(decode_mask(segmentation, size))
    polygons = isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation)
    if not polygons or any(len(part) % 2 for part in segmentation):
        raise ValueError(f"segmentation is {str(segmentation)[:80]}, expected polygons [[x, y, …], …] or run lengths")
    shape = polygon_region(*(np.asarray(part, np.float64).reshape(-1, 2) for part in segmentation))
    if min(shape.box[:2]) < -1 or shape.box[2] > size[0] + 1 or shape.box[3] > size[1] + 1:
        raise ValueError(f"segmentation reaches to {list(shape.box)}, outside the image of {size[0]}x{size[1]}")
    return shape


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Write a mask as run lengths.

    Args:
        mask: [H, W]; inside is what is at least 0.5.

    Returns:
        {"size": [height, width], "counts": [outside, inside, …]}.
    """
    return {"size": list(mask.shape), "counts": run_lengths.encode(mask >= 0.5).tolist()}


def decode_mask(encoded: dict[str, Any], size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask from run lengths.

    Args:
        encoded: {"size": [height, width], "counts"}, the counts a list or COCO's text.
        size: (width, height) that it must have; None: any.

    Returns:
        bool [H, W].

    Raises:
        ValueError: It has another size, or the runs do not fill it.
    """
    shape, counts = encoded.get("size"), encoded.get("counts")
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"mask has size {shape!r}, expected [height, width]")
    height, width = shape
    if height * width > MAX_PIXELS:
        raise ValueError(f"mask is of {width}x{height}, expected at most {MAX_PIXELS} pixels")
    if size is not None and (width, height) != size:
        raise ValueError(f"mask is of {width}x{height}, but the image is {size[0]}x{size[1]}")
    runs = run_lengths.decompress(counts) if isinstance(counts, str) else counts
    return run_lengths.decode(run_lengths.check(runs, width, height), width, height)

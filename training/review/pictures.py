"""Pictures and masks as a browser shows them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ros_gpt4roi.image_file import encode_image, read_header, read_image
from ros_gpt4roi.regular_file import read_regular
from training.data.record_file import PictureRecord, picture_path
from training.data.segmentation import decode_mask

_MOST_BYTES = 4 << 20
_MOST_PIXELS = 2_500_000
_SIGNATURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_JPEG_QUALITY = 90


def shown_picture(folder: Path, record: PictureRecord) -> tuple[bytes, str]:
    """A record's picture: the file as it is, where browsers show it at once, else a JPEG of it.

    Args:
        folder: Of the records.
        record: The record.

    Returns:
        Content, and its media type.

    Raises:
        ValueError: It is missing, outside the folder, no picture, or of another size than the record's.
    """
    path = check_picture(folder, record)
    pixels = record.width * record.height
    if pixels <= _MOST_PIXELS and path.stat().st_size <= _MOST_BYTES:
        content = read_regular(path, _MOST_BYTES)
        for signature, kind in _SIGNATURES.items():
            if content.startswith(signature):
                return content, kind
    image = read_image(path)
    if (scale := (_MOST_PIXELS / pixels) ** 0.5) < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return encode_image(image, quality=_JPEG_QUALITY), "image/jpeg"


def check_picture(folder: Path, record: PictureRecord) -> Path:
    """The path of a record's picture. Raises ValueError where `shown_picture` cannot show it."""
    path = picture_path(folder, record.file)
    header = read_header(path)
    if header[:2] != (record.width, record.height):
        raise ValueError(f"picture {record.file[:200]!r} has {header.width}x{header.height} pixels, but the record "
                         f"says {record.width}x{record.height}")
    return path


def outlines(record: PictureRecord) -> dict[str, list[list[float]]]:
    """The masks of a record's regions.

    Returns:
        Region's id → polygons [x, y, x, y, …] in pixels, to be filled where an odd number of them overlap.
    """
    found = {}
    for region in record.regions:
        try:
            if isinstance(region.mask, dict):
                found[region.id] = _traced(decode_mask(region.mask, (record.width, record.height)))
            elif isinstance(region.mask, list):
                found[region.id] = [[float(value) for value in part] for part in region.mask]
        except (ValueError, TypeError):  # a mask that cannot be used costs only itself
            continue
    return found


def _traced(mask: np.ndarray) -> list[list[float]]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [(contour.reshape(-1, 2) + 0.5).ravel().tolist() for contour in contours]

"""Image files ↔ RGB arrays: the one place that opens pictures for training, evaluation, calibration and commands.

Camera messages are another matter (`image_messages.py`): they carry no file, and their orientation tags are not used.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .regular_file import open_regular

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 80_000_000
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageFileError(ValueError):
    """An image that cannot be used; the message names the file, what is wrong and what was expected."""


class ImageHeader(NamedTuple):
    """What an image's header says.

    Attributes:
        width: Columns of the upright image, pixels.
        height: Rows of the upright image, pixels.
        orientation: EXIF orientation of the stored pixels, 1 (upright) to 8; from 5 on, sides are swapped.
    """

    width: int
    height: int
    orientation: int


def read_header(source: str | Path | bytes) -> ImageHeader:
    """Read an image's size and orientation without decoding it.

    Args:
        source: A file in one of `FORMATS`, or its content.

    Returns:
        Its header; `read_image` gives an array of exactly this size.

    Raises:
        ImageFileError: The file is missing, no regular file, no such image, or of more than `MAX_PIXELS` pixels.
    """
    with _opened(source) as (_, header):
        return header


def read_image(source: str | Path | bytes, name: str | None = None) -> np.ndarray:
    """Decode an image, turned upright by its EXIF orientation.

    Annotation tools, browsers, OpenCV and detectron2 turn pictures too, so boxes are in pixels of the upright one. Of
    an animation the first frame is read; transparency is dropped; 16 bits a channel are scaled to 8.

    Args:
        source: A file in one of `FORMATS`, or its content.
        name: What error messages call it; by default its path.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        ImageFileError: As of `read_header`; also where the pixels are damaged, or have no known white (floating point
            and 32-bit images).
    """
    with _opened(source, name) as (image, header):
        pixels = _rgb(image)
        if header.orientation in _TURNS:
            pixels = pixels.transpose(_TURNS[header.orientation])
        return np.asarray(pixels)


def encode_image(pixels: np.ndarray, image_format: str = "JPEG", quality: int = 95) -> bytes:
    """Write an image as a file has it.

    Args:
        pixels: uint8 RGB [H, W, 3].
        image_format: "JPEG" or "PNG".
        quality: Of a JPEG, per cent.

    Returns:
        What the file holds.

    Raises:
        ImageFileError: The format cannot hold an image of this size.
    """
    content = io.BytesIO()
    try:
        Image.fromarray(pixels).save(content, image_format, quality=quality)
    except (OSError, ValueError) as error:
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise ImageFileError(f"an image of {size} cannot be written as a {image_format}: {error}") from error
    return content.getvalue()


def picture_path(folder: Path, name: str) -> Path:
    """Find the picture of a training record.

    Args:
        folder: Of the file of records.
        name: The picture's path from there, as the record has it.

    Returns:
        Its path.

    Raises:
        ValueError: It is outside of the folder, also by a symbolic link, or not there.
    """
    try:
        path, folder = (folder / name).resolve(), folder.resolve()
        inside, there = path.is_relative_to(folder), path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links that go round
        inside, there = True, False
    if not inside:
        raise ValueError(f"picture {name[:200]!r} is outside of the folder {folder}")
    if not there:
        raise ValueError(f"picture {name[:200]!r} is not in the folder {folder}")
    return path


@contextmanager
def _opened(source: str | Path | bytes, name: str | None = None) -> Iterator[tuple[Image.Image, ImageHeader]]:
    name = name or ("image" if isinstance(source, bytes) else str(source))
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else _open_regular(source) as file:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageFileError(f"{name}: {image.width}x{image.height} pixels, expected at most {MAX_PIXELS}")
                orientation = _orientation(image)
                size = image.size if orientation < 5 else image.size[::-1]
                yield image, ImageHeader(*size, orientation)
    except ImageFileError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them run into
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageFileError(f"{name}: cannot be read as an image: {detail}") from error


def _open_regular(path: str | Path) -> io.BufferedReader:
    file = open_regular(path)
    if os.fstat(file.fileno()).st_size:
        return file
    file.close()
    raise ValueError("the file is empty")


def _orientation(image: Image.Image) -> int:
    # Pillow turns TIFF images itself. Of a PNG only what stands before the pixels: the rest would mean decoding it.
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata that cannot be parsed turn nothing, as in every viewer
        return 1
    return value if value in _TURNS else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # 65535 → 255, rounded to nearest: x · 255 / 65535 = x / 257, which is never half way.
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known white, expected 8 or 16 bits a channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return image.convert("RGB")

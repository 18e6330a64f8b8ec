"""Image files: whatever a picture can be becomes RGB, and whatever a decoder can raise names the file."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ros_gpt4roi import image_file
from ros_gpt4roi.image_file import ImageFileError, read_header, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG file of 8-bit RGB with any chunks behind its header."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "lossless.webp"])
def test_lossless_formats_come_back_as_they_were(tmp_path, name):
    path = saved(tmp_path / name, Image.fromarray(PIXELS), **({"lossless": True} if "webp" in name else {}))
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, PIXELS)
    assert np.array_equal(read_image(path.read_bytes()), PIXELS), "from memory, too"
    assert read_header(path) == (60, 40, 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_kind_of_8_bit_picture_becomes_rgb(tmp_path, mode):
    ending = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    image = Image.fromarray(np.full((40, 60, 3), 255, np.uint8)).convert(mode)
    pixels = read_image(saved(tmp_path / f"a.{ending}", image))
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8 and pixels.min() >= 254, "white stays white"


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(PIXELS).quantize(16), transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(path)
    assert np.array_equal(pixels, np.asarray(Image.fromarray(PIXELS).quantize(16).convert("RGB")))


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, name):
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
    assert np.abs(read_image(path).reshape(-1, 3).mean(0) - [255, 0, 0]).max() < 3


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "rgb.png", "rgb.tif"])
def test_16_bits_a_channel_are_scaled_to_8(tmp_path, name):
    wide = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(40, 60)
    cv2.imwrite(str(tmp_path / name), np.repeat(wide[..., None], 3, 2) if "rgb" in name else wide)
    pixels = read_image(tmp_path / name)
    assert np.abs(pixels - (wide[..., None] / 257)).max() <= 1
    assert (pixels == 255).mean() < 0.01


@pytest.mark.parametrize("name", ["a.tif", "a.pfm"])
def test_floating_point_pictures_are_refused(tmp_path, name):
    cv2.imwrite(str(tmp_path / name), PIXELS[..., 0].astype(np.float32) / 255)
    with pytest.raises(ImageFileError, match=f"{name}: .*'F' have no known white, expected 8 or 16 bits"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_opencv_turns_them(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / name, Image.fromarray(PIXELS), exif=exif, **({"lossless": True} if "webp" in name else {}))
    pixels = read_image(path)
    np.testing.assert_allclose(pixels, cv2.imread(str(path))[..., ::-1], atol=1)
    assert read_header(path) == (pixels.shape[1], pixels.shape[0], orientation)


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_orientation_of_a_tiff_is_applied_once(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.tif", Image.fromarray(PIXELS), exif=exif)
    pixels = read_image(path)
    assert np.array_equal(pixels, PIXELS[::-1, ::-1] if orientation == 3 else np.rot90(PIXELS, -1))
    assert read_header(path)[:2] == (pixels.shape[1], pixels.shape[0])


def test_metadata_that_cannot_be_parsed_turns_nothing(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(PIXELS), exif=b"Exif\0\0no TIFF header")
    assert read_header(path) == (60, 40, 1) and read_image(path).shape == (40, 60, 3)


def damaged(folder: Path, kind: str) -> Path:
    path = folder / "bad.png"
    whole = saved(folder / "good.png", Image.fromarray(PIXELS)).read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to nothing":
        path.symlink_to(folder / "absent")
    elif kind != "absent":
        path.write_bytes({
            "empty": b"", "text": b"no picture at all", "cut": whole[:len(whole) // 2], "only the signature": whole[:8],
            "broken chunk": whole[:60] + b"\xff" * 40 + whole[100:],
            "chunk of bad name": png(60, 40, chunk(b"\0\1\2\3", b"x" * 9)),
            "broken pixels": png(60, 40, chunk(b"IDAT", b"no deflate stream")),
            "no pixels": png(60, 40), "no size": png(0, 40, chunk(b"IDAT", zlib.compress(b""))),
            "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
            "cut TIFF": b"II*\0\xff\xff\xff\x7f", "cut JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
            "cut WebP": b"RIFF\x10\0\0\0WEBPVP8 ", "cut GIF": b"GIF89a\1\0", "cut BMP": b"BM" + b"\xff" * 20,
            "ppm of words": b"P6 wide high 255\n",
        }[kind])
    return path


@pytest.mark.parametrize("kind", [
    "absent", "folder", "pipe", "device", "link to nothing", "empty", "text", "cut", "only the signature",
    "broken chunk", "chunk of bad name", "broken pixels", "no pixels", "no size", "postscript", "cut TIFF", "cut JPEG",
    "cut WebP", "cut GIF", "cut BMP", "ppm of words",
])
def test_whatever_is_wrong_is_one_error_that_names_the_file(tmp_path, kind):
    path = damaged(tmp_path, kind)
    with pytest.raises(ImageFileError, match="bad.png: "):
        read_image(path)


@pytest.mark.filterwarnings("ignore")
def test_no_damage_to_a_file_raises_anything_else(tmp_path):
    """Every format with bytes overwritten, cut and repeated at random: an image or an ImageFileError."""
    rng, refused = np.random.default_rng(1), 0
    for name in ("a.jpg", "a.png", "a.webp", "a.bmp", "a.tif", "a.gif", "a.ppm"):
        whole = np.frombuffer(saved(tmp_path / name, Image.fromarray(PIXELS)).read_bytes(), np.uint8)
        for _ in range(60):
            content = whole.copy()
            places = rng.integers(0, min(len(content), 400), rng.integers(1, 30))
            content[places] = rng.integers(0, 256, len(places))
            content = content[:rng.integers(1, len(content) + 1)] if rng.random() < 0.3 else content
            try:
                assert read_image(content.tobytes(), name).dtype == np.uint8
            except ImageFileError:
                refused += 1
    assert refused > 50, "damage must really have been met"


@pytest.mark.parametrize("side", [9000, 30_000, 2_000_000_000])
def test_a_claimed_size_is_refused_before_memory_is_taken(tmp_path, monkeypatch, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, chunk(b"IDAT", zlib.compress(b"\0" * 1000))))
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: decoded.append(image.size))
    with pytest.raises(ImageFileError, match="bomb.png"):
        read_header(path)
    with pytest.raises(ImageFileError, match="bomb.png"):
        read_image(path)
    assert not decoded


def test_the_limit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, "MAX_PIXELS", 2399)
    path = saved(tmp_path / "large.png", Image.fromarray(PIXELS))
    with pytest.raises(ImageFileError, match="large.png: 60x40 pixels, expected at most 2399"):
        read_image(path)

"""Malformed images, depth images and calibrations."""

from __future__ import annotations

import struct
import zlib
from random import Random

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ros_gpt4roi.image_messages import ENCODINGS

from .kinds import HUGE, MAX_PIXELS, ODD_TEXTS, Sample, kind, odd_number

_IMAGES = "image", "depth/image"

# --- images and depth images -----------------------------------------------------------------------------------------


@kind("unknown encoding", *_IMAGES)
def _(random: Random, sample: Sample) -> Image:
    message = sample.message()
    message.encoding = random.choice(("64FC1", "8UC3", "RGB8", "jpeg", "bayer", *ODD_TEXTS))
    return message


@kind("another encoding than the data's", *_IMAGES)
def _(random: Random, sample: Sample) -> Image:
    message = sample.message()
    message.encoding, message.is_bigendian = random.choice((*ENCODINGS, "16UC1", "32FC1")), random.choice((0, 1, 255))
    return message


@kind("wrong step", *_IMAGES)
def _(random: Random, sample: Sample) -> Image:
    message = sample.message()
    message.step = random.choice((0, 1, message.step - 1, message.step + 1, *HUGE))
    return message


@kind("wrong size", *_IMAGES)
def _(random: Random, sample: Sample) -> Image:
    message, name = sample.message(), random.choice(("width", "height"))
    setattr(message, name, random.choice((0, 1, getattr(message, name) + 1, *HUGE)))
    return message


@kind("data of another length", *_IMAGES)
def _(random: Random, sample: Sample) -> Image:
    message = sample.message()
    if random.random() < 0.5:
        del message.data[random.randrange(len(message.data)):]
    else:
        message.data.frombytes(random.randbytes(random.randint(1, 1000)))
    return message


@kind("tiny", *_IMAGES)
def _(random: Random, sample: Sample) -> Image:
    width, height, encoding = random.randint(1, 3), random.randint(1, 3), random.choice((*ENCODINGS, "16UC1", "32FC1"))
    message = Image(header=sample.header, width=width, height=height, step=width * 4, encoding=encoding)
    message.data.frombytes(random.randbytes(width * 4 * height))
    return message


@kind("too many pixels", *_IMAGES)
def _(random: Random, sample: Sample) -> Image:
    width, height = random.choice(((MAX_PIXELS + 1, 1), (1, MAX_PIXELS + 1), (1001, 1000)))
    encoding, size = ("mono8", 1) if sample.input == "image" else ("16UC1", 2)
    message = Image(header=sample.header, width=width, height=height, step=width * size, encoding=encoding)
    message.data.frombytes(bytes(width * height * size))
    return message


@kind("values that are no distances", "depth/image")
def _(random: Random, sample: Sample) -> Image:
    message = sample.message()
    with np.errstate(over="ignore"):
        values = np.array([odd_number(random) for _ in range(message.width)]).astype(np.float32)
    message.encoding, message.step = "32FC1", message.width * 4
    del message.data[:]
    message.data.frombytes(np.tile(values, message.height).view(np.uint8))
    return message


@kind("numbers that are no calibration", "camera_info")
def _(random: Random, sample: Sample) -> CameraInfo:
    message = sample.message()
    for numbers in (message.k, message.p):
        for _ in range(random.choice((0, 1, 9))):
            numbers[random.randrange(len(numbers))] = odd_number(random)
    message.width += random.choice((0, 0, 1))
    message.binning_x, message.roi.x_offset = random.choice((0, 0, 2, 2**32 - 1)), random.choice((0, 0, 7, 2**32 - 1))
    return message


@kind("distortion that is none", "camera_info")
def _(random: Random, sample: Sample) -> CameraInfo:
    message = sample.message()
    message.distortion_model = random.choice(("plumb_bob", "rational_polynomial", "equidistant", *ODD_TEXTS))
    number = random.choice((lambda: 0.1, lambda: odd_number(random)))
    message.d = [number() for _ in range(random.choice((0, 1, 3, 4, 5, 6, 8, 12, 13, 14, 1000)))]
    return message


# --- compressed images -----------------------------------------------------------------------------------------------


def _compressed(sample: Sample, data: bytes, name: str = "jpeg") -> CompressedImage:
    message = CompressedImage(header=sample.header, format=name)
    message.data.frombytes(data)
    return message


def _encoded(sample: Sample, name: str, *options: int) -> bytes:
    return cv2.imencode(f".{name}", sample.pixels[..., ::-1], options)[1].tobytes()


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _with_size(data: bytes, width: int, height: int) -> bytes:
    if data[:4] == b"\x89PNG":
        return data[:8] + _png_chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[33:]
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height % 2**16, width % 2**16) + data[place + 4:]


@kind("unknown format", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    name = random.choice(("h264", "16UC1; compressedDepth png", "gif", "JPEGXL", *ODD_TEXTS))
    return _compressed(sample, _encoded(sample, "jpg"), name)


@kind("cut", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    name = random.choice(("jpg", "png"))
    data = _encoded(sample, name)
    return _compressed(sample, data[:random.randrange(len(data))], name)


@kind("bytes changed", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    name = random.choice(("jpg", "png"))
    data = bytearray(_encoded(sample, name))
    for _ in range(random.choice((1, 3, 30))):
        data[random.randrange(len(data))] = random.randrange(256)
    return _compressed(sample, bytes(data), name)


@kind("decompression bomb", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    side, name = random.choice((1001, 16_000, 30_000, 65_535)), random.choice(("jpg", "png"))
    return _compressed(sample, _with_size(_encoded(sample, name), side, side), name)


@kind("size that is not the data's", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    name = random.choice(("jpg", "png"))
    width, height = random.choice(((0, 0), (1, 1), (0, 100), (999, 999), (10, 900), (900, 10)))
    return _compressed(sample, _with_size(_encoded(sample, name), width, height), name)


@kind("bomb in a png's text", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    data = _encoded(sample, "png")
    name, head = random.choice(((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")))
    return _compressed(sample, data[:33] + _png_chunk(name, head + zlib.compress(bytes(2**24), 9)) + data[33:], "png")


@kind("hundreds of scans", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    data = _encoded(sample, "jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    place = data.index(b"\xff\xda")
    return _compressed(sample, data[:place] + data[place:-2] * random.choice((10, 100, 300)) + data[-2:])


@kind("unusual pixels", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    pixels: np.ndarray = random.choice((
        sample.pixels.astype(np.uint16) * 257, sample.pixels[..., 0], sample.pixels[..., 0].astype(np.uint16) * 257,
        np.dstack([sample.pixels, sample.pixels[..., :1]]), sample.pixels[:1, :1]))
    return _compressed(sample, cv2.imencode(".png", pixels)[1].tobytes(), "png")


@kind("no picture", "image/compressed")
def _(random: Random, sample: Sample) -> CompressedImage:
    data = random.choice((b"", b"\xff", b"\xff\xd8", b"\xff\xd8" + b"\xff" * 5000, b"\x89PNG\r\n\x1a\n", b"GIF89a",
                          b"\xff\xd8\xff\xe0\x00\x00" * 500, random.randbytes(random.randrange(5000))))
    return _compressed(sample, data, random.choice(("jpeg", "png", "bgr8; jpeg compressed bgr8")))

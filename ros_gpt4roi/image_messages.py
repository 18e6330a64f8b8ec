"""Image messages ↔ numpy RGB.

cv_bridge converts where its compiled part imports; elsewhere the same conversions are done here, to the same result.
"""
from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header


class ImageError(ValueError):
    """An image message that can not be read. The text names the offending value and what was expected."""


MAX_PIXELS = 7680 * 4320  # an 8K picture; decoded, it takes 100 MB
_MAX_JPEG_SCANS = 64  # progressive ones have about ten; each is a pass over all pixels, whatever its bytes
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Markers that begin a JPEG's frame header: SOF0 to SOF15 without DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# Bytes a pixel, by the encoding names of sensor_msgs/image_encodings.hpp.
_PIXEL_BYTES = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 2,
    "yuv422": 2, "uyvy": 2, "yuv422_yuy2": 2, "yuyv": 2,
    "bayer_rggb8": 1, "bayer_bggr8": 1, "bayer_gbrg8": 1, "bayer_grbg8": 1,
}
ENCODINGS = tuple(_PIXEL_BYTES)

# OpenCV names a Bayer pattern by the second and third pixel of the second row, ROS by the first four pixels.
_CONVERSIONS = {
    "bgr8": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB, "mono8": cv2.COLOR_GRAY2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY, "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2, "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB, "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB, "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}


@lru_cache(maxsize=1)
def _cv_bridge() -> Any:
    """cv_bridge's converter, or None where its compiled part is missing (then it converts nothing)."""
    try:
        import cv_bridge
        from cv_bridge.boost import cv_bridge_boost  # noqa: F401
    except Exception:  # compiled for another NumPy, it raises whatever NumPy does
        return None
    return cv_bridge.CvBridge()


def check_image(message: Image, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Holds the message's fields to one another and to the limit, without touching the pixels.

    Returns:
        Width and height in pixels.

    Raises:
        ImageError: the fields contradict each other, or the image is not supported or too large.
    """
    width, height, step, encoding = message.width, message.height, message.step, message.encoding
    pixel_bytes = _PIXEL_BYTES.get(encoding)
    if pixel_bytes is None:
        raise ImageError(f"image encoding {encoding[:40]!r} is not supported; expected one of {', '.join(ENCODINGS)}")
    if width == 0 or height == 0:
        raise ImageError(f"image size {width}x{height} is empty")
    if pixel_bytes == 2 and encoding != "mono16" and width % 2:
        raise ImageError(f"image width {width} is odd; {encoding} holds pixels in pairs")
    if encoding.startswith("bayer") and min(width, height) < 4:
        raise ImageError(f"image size {width}x{height} is too small for {encoding}; expected at least 4x4")
    if step < width * pixel_bytes:
        raise ImageError(f"image step {step} is too small; expected at least {width * pixel_bytes} for {width} pixels "
                         f"of {encoding}")
    if len(message.data) != step * height:
        raise ImageError(f"image data has {len(message.data)} bytes; expected {step * height} for step {step} and "
                         f"height {height}")
    _check_pixels(width, height, max_pixels)
    return width, height


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"image size {width}x{height} is {width * height} pixels; expected at most {max_pixels} "
                         "(image.max_pixels)")


def check_compressed(message: CompressedImage, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Reads the header of a jpeg or png, without decoding it.

    Returns:
        Width and height in pixels.

    Raises:
        ImageError: the message holds no jpeg or png, or one that is too large to be decoded.
    """
    name = message.format.lower()
    # "jpeg", "png", or image_transport's "bgr8; jpeg compressed bgr8"; depth streams carry a header of their own.
    if "depth" in name or not any(known in name for known in ("jpeg", "jpg", "png")):
        raise ImageError(f"compressed image format {message.format[:60]!r} is not supported; expected jpeg or png")
    if not message.data:
        raise ImageError(f"compressed image of format {message.format[:60]!r} has no data")
    data = memoryview(message.data)
    size = _png_size(data) or _jpeg_size(data)
    if size is None or 0 in size:
        raise ImageError(f"compressed image of format {message.format[:60]!r} and {len(data)} bytes can not be "
                         "decoded: it has no header of a jpeg or png with a size")
    _check_pixels(*size, max_pixels)
    scans = bytes(data).count(b"\xff\xda")  # a marker, since the data of a scan has a zero after every 0xff
    if data[0] == 0xFF and scans > _MAX_JPEG_SCANS:
        raise ImageError(f"jpeg has {scans} scans; expected at most {_MAX_JPEG_SCANS}")
    return size


# Headers alone: a library that opens the whole file would inflate a png's text and profiles, in a callback.

def _png_size(data: memoryview) -> tuple[int, int] | None:
    if data[:8] != _PNG_SIGNATURE or data[12:16] != b"IHDR" or len(data) < 24:
        return None
    return struct.unpack(">II", data[16:24])


def _jpeg_size(data: memoryview) -> tuple[int, int] | None:
    """Of the first frame header, behind segments that follow one another without a gap."""
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[place + 5:place + 9])
            return width, height
        elif marker == 0xDA or marker < 0xC0 or 0xD0 <= marker <= 0xD9:  # no segment that may stand before the frame's
            return None
        else:
            place += 2 + struct.unpack(">H", data[place + 2:place + 4])[0]
    return None


class MessageImage:
    """The pixels of an image message, converted where they are asked for: an array-like, uint8 RGB [H, W, 3].

    The message is held, not what is made of it: a jpeg stays as small as it came. `numpy.asarray` gives the pixels;
    that may take milliseconds, so callbacks look at `shape` alone. Safe from any thread.

    Args:
        message: the message; not changed after it was handed over.
        max_pixels: the most pixels that are taken.
        on_error: called once, on the thread that asked first, where the pixels can't be had.

    Raises:
        ImageError: the message's header says that it can't be read; the same comes from `numpy.asarray` for what shows
            in its pixels only.
    """

    def __init__(self, message: Image | CompressedImage, max_pixels: int = MAX_PIXELS,
                 on_error: Callable[[str], None] = lambda error: None) -> None:
        compressed = isinstance(message, CompressedImage)
        check: Callable[[Any, int], tuple[int, int]] = check_compressed if compressed else check_image
        width, height = check(message, max_pixels)
        self.shape = (height, width, 3)
        self.nbytes = len(message.data)
        self.broken = False
        self._message, self._on_error = message, on_error
        self._read: Callable[[Any], np.ndarray] = _decode if compressed else _convert
        self._lock = threading.Lock()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            pixels = self._read(self._message)
            if pixels.shape != self.shape:
                raise ImageError(f"image of {self.shape[1]}x{self.shape[0]} by its header has "
                                 f"{pixels.shape[1]}x{pixels.shape[0]} pixels")
        except ImageError as error:
            with self._lock:
                first, self.broken = not self.broken, True
            if first:
                self._on_error(str(error))
            raise
        # NumPy 1 calls this with a type alone, and knows no `copy=None` of its own.
        return np.array(pixels, dtype) if copy else np.asarray(pixels, dtype)


def _convert(message: Image) -> np.ndarray:
    """rgb8 is a read-only view of the message's buffer; everything else is converted into a new array."""
    encoding = message.encoding
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    rows = rows[:, :message.width * _PIXEL_BYTES[encoding]]
    if encoding == "rgb8":
        view = rows.reshape(message.height, message.width, 3)
        view.flags.writeable = False
        return view
    bridge = _cv_bridge()
    try:
        if bridge is not None and not message.is_bigendian:  # big-endian images crash it on NumPy 2
            return bridge.imgmsg_to_cv2(message, "rgb8")
        if encoding == "mono16":
            # 65535 → 255, rounded to nearest: x · 255 / 65535 = x / 257, which is never half way.
            wide = rows.view(">u2" if message.is_bigendian else "<u2").astype(np.uint32)
            return cv2.cvtColor(((wide + 128) // 257).astype(np.uint8), cv2.COLOR_GRAY2RGB)
        pixels = rows.reshape(message.height, message.width, -1)
        return cv2.cvtColor(pixels, _CONVERSIONS[encoding])
    except Exception as error:  # OpenCV's and cv_bridge's errors share no base class
        raise ImageError(f"image of {message.width}x{message.height} {encoding} can not be converted: "
                         f"{error}") from error


def _decode(message: CompressedImage) -> np.ndarray:
    # Boxes are given in the sensor's pixels, so an orientation tag must not turn the picture.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"compressed image of {len(message.data)} bytes is refused: {error}") from error
    if image is None:
        raise ImageError(f"compressed image of format {message.format[:60]!r} and {len(message.data)} bytes can not be "
                         f"decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def rgb_to_image(image: np.ndarray, header: Header, encoding: str = "rgb8") -> Image:
    """Makes an Image of uint8 RGB [H, W, 3]; encoding is rgb8 or bgr8. Raises ImageError."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"array of {image.dtype} {list(image.shape)} is no image; expected uint8 [H, W, 3]")
    if encoding not in ("rgb8", "bgr8"):
        raise ImageError(f"encoding {encoding!r} can not be written; expected rgb8 or bgr8")
    pixels = image if encoding == "rgb8" else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    message = Image(header=header, height=image.shape[0], width=image.shape[1], encoding=encoding,
                    step=image.shape[1] * 3)
    message.data.frombytes(np.ascontiguousarray(pixels))  # 40 times faster than assigning bytes
    return message


def rgb_to_compressed(image: np.ndarray, header: Header, image_format: str = "jpeg") -> CompressedImage:
    """Encodes uint8 RGB [H, W, 3] as jpeg or png. Raises ImageError."""
    if image_format not in ("jpeg", "png"):
        raise ImageError(f"compressed image format {image_format!r} can not be written; expected jpeg or png")
    done, data = cv2.imencode("." + image_format, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ImageError(f"array of {image.dtype} {list(image.shape)} can not be encoded as {image_format}")
    message = CompressedImage(header=header, format=image_format)
    message.data.frombytes(data)
    return message

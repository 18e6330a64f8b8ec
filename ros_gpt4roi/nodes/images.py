"""Image messages ↔ numpy RGB.

cv_bridge converts where its compiled part imports; elsewhere the same conversions are done here, to the same result.
"""
from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header


class ImageError(ValueError):
    """An image message that can not be read. The text names the offending value and what was expected."""


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
def _cv_bridge() -> object | None:
    """cv_bridge's converter, or None where its compiled part is missing (then it converts nothing)."""
    try:
        import cv_bridge
        from cv_bridge.boost import cv_bridge_boost  # noqa: F401
    except ImportError:
        return None
    return cv_bridge.CvBridge()


def check_image(message: Image) -> None:
    """Holds the message's fields to one another without touching the pixels. Raises ImageError."""
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


def image_to_rgb(message: Image) -> np.ndarray:
    """Returns the pixels as uint8 RGB [H, W, 3].

    rgb8 is a read-only view of the message's buffer, with the padding of its rows left out; everything else is
    converted into a new array. Raises ImageError.
    """
    check_image(message)
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


def check_compressed(message: CompressedImage) -> None:
    """Holds the format's name to what can be decoded. Raises ImageError."""
    name = message.format.lower()
    # "jpeg", "png", or image_transport's "bgr8; jpeg compressed bgr8"; depth streams carry a header of their own.
    if "depth" in name or not any(known in name for known in ("jpeg", "jpg", "png")):
        raise ImageError(f"compressed image format {message.format[:60]!r} is not supported; expected jpeg or png")
    if not message.data:
        raise ImageError(f"compressed image of format {message.format[:60]!r} has no data")


def compressed_to_rgb(message: CompressedImage) -> np.ndarray:
    """Decodes a jpeg or png into uint8 RGB [H, W, 3]. Raises ImageError."""
    check_compressed(message)
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

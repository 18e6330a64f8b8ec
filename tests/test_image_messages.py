"""Image messages to RGB and back: every encoding against an independent reference, and every way to be malformed."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("sensor_msgs.msg", reason="no ROS 2 in this environment")
from camera import claim_size  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi import image_messages as images  # noqa: E402
from ros_gpt4roi.image_messages import (  # noqa: E402
    ENCODINGS,
    ImageError,
    MessageImage,
    check_compressed,
    check_image,
    rgb_to_compressed,
    rgb_to_image,
)

HEIGHT, WIDTH = 24, 32


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """A smooth picture, so that demosaicing and subsampled colour lose little of it."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    planes = [128 + 100 * np.sin(x / 9 + phase) * np.cos(y / 7 + phase) for phase in (0.0, 1.0, 2.0)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def message(data: np.ndarray, encoding: str, padding: int = 0, bigendian: bool = False) -> Image:
    """An Image of rows [H, bytes], each followed by `padding` bytes of rubbish."""
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(data.shape[0], -1)
    padded = np.concatenate([rows, np.full((rows.shape[0], padding), 0xA5, np.uint8)], axis=1)
    result = Image(height=data.shape[0], width=WIDTH, encoding=encoding, step=padded.shape[1],
                   is_bigendian=int(bigendian))
    result.data.frombytes(padded.tobytes())
    return result


def yuv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """BT.601 limited range, by its definition."""
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    luma = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    y_plane, u_plane, v_plane = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in (luma, u, v))
    return y_plane, u_plane, v_plane


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """The sensor's single plane under a filter whose first two rows read `pattern`."""
    plane = np.empty(rgb.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        row, column = divmod(place, 2)
        plane[row::2, column::2] = rgb[row::2, column::2, "rgb".index(colour)]
    return plane


def encoded(rgb: np.ndarray, encoding: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Raw rows, the RGB they should give, and the error a lossy encoding may leave."""
    alpha = np.full((HEIGHT, WIDTH, 1), 77, np.uint8)
    grey = rgb[..., :1]
    if encoding == "rgb8":
        return rgb, rgb, 0
    if encoding == "bgr8":
        return rgb[..., ::-1], rgb, 0
    if encoding == "rgba8":
        return np.concatenate([rgb, alpha], -1), rgb, 0
    if encoding == "bgra8":
        return np.concatenate([rgb[..., ::-1], alpha], -1), rgb, 0
    if encoding == "mono8":
        return grey[..., 0], grey.repeat(3, -1), 0
    if encoding == "mono16":
        wide = grey[..., 0].astype(np.uint16) * 257 + 100
        return wide, np.rint(wide[..., None] * (255 / 65535)).astype(np.uint8).repeat(3, -1), 0
    if encoding.startswith("bayer"):
        return mosaic(rgb, encoding[6:10]), rgb, 14
    luma, u, v = yuv(rgb)
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma_place = 1 if encoding in ("yuv422", "uyvy") else 0
    packed[..., luma_place] = luma
    packed[:, 0::2, 1 - luma_place] = u[:, 0::2]
    packed[:, 1::2, 1 - luma_place] = v[:, 0::2]
    return packed, rgb, 14


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_gives_the_picture(rgb: np.ndarray, encoding: str, padding: int) -> None:
    rows, expected, tolerance = encoded(rgb, encoding)
    result = np.asarray(MessageImage(message(rows, encoding, padding)))
    assert result.dtype == np.uint8 and result.shape == (HEIGHT, WIDTH, 3)
    inner = (slice(2, -2), slice(2, -2)) if tolerance else ()  # a demosaiced border has no neighbours
    difference = np.abs(result.astype(int) - expected)[inner]
    assert difference.max() <= tolerance


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cv_bridge_and_our_own_conversion_agree(rgb: np.ndarray, encoding: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv_bridge.boost.cv_bridge_boost", reason="cv_bridge's compiled part is not installed")
    rows, _, _ = encoded(rgb, encoding)
    with_bridge = np.asarray(MessageImage(message(rows, encoding, 6)))
    monkeypatch.setattr(images, "_cv_bridge", lambda: None)
    np.testing.assert_array_equal(np.asarray(MessageImage(message(rows, encoding, 6))), with_bridge)


def test_mono16_of_the_other_byte_order(rgb: np.ndarray) -> None:
    wide, expected, _ = encoded(rgb, "mono16")
    result = np.asarray(MessageImage(message(wide.astype(">u2"), "mono16", 6, bigendian=True)))
    np.testing.assert_array_equal(result, expected)


def test_rgb8_is_read_without_a_copy(rgb: np.ndarray) -> None:
    source = message(rgb, "rgb8", padding=6)
    view = np.asarray(MessageImage(source))
    assert not view.flags.owndata and not view.flags.writeable
    source.data[0] = (source.data[0] + 1) % 256
    assert view[0, 0, 0] == source.data[0]


@pytest.mark.parametrize("changes, parts", [
    ({"encoding": "32FC1"}, ["'32FC1'", "rgb8"]),
    ({"encoding": ""}, ["''", "rgb8"]),
    ({"encoding": "x" * 10_000}, ["'xxx", "rgb8"]),
    ({"width": 0}, ["0x24"]),
    ({"step": 95}, ["step 95", "96"]),
    ({"step": 97}, ["2304 bytes", "2328"]),
    ({"height": 25}, ["2304 bytes", "2400"]),
    ({"height": 23}, ["2304 bytes", "2208"]),
    ({"encoding": "yuv422", "width": 31}, ["31", "yuv422"]),
    ({"encoding": "bayer_rggb8", "width": 2}, ["2x24", "bayer_rggb8"]),
    ({"width": 4_000_000_000}, ["step 96", "12000000000"]),
])
def test_malformed_images_name_what_is_wrong(rgb: np.ndarray, changes: dict, parts: list[str]) -> None:
    broken = message(rgb, "rgb8")
    for name, value in changes.items():
        setattr(broken, name, value)
    with pytest.raises(ImageError) as caught:
        np.asarray(MessageImage(broken))
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name, tolerance", [("png", 0), ("jpeg", 12)])
def test_compressed_images_survive_the_round_trip(rgb: np.ndarray, name: str, tolerance: int) -> None:
    header = Header(frame_id="camera")
    compressed = rgb_to_compressed(rgb, header, name)
    assert compressed.header == header
    result = np.asarray(MessageImage(compressed))
    assert np.abs(result.astype(int) - rgb).max() <= tolerance
    compressed.format = f"bgr8; {name} compressed bgr8"  # as image_transport writes it
    np.testing.assert_array_equal(np.asarray(MessageImage(compressed)), result)


def test_an_orientation_tag_does_not_turn_the_picture(rgb: np.ndarray) -> None:
    pillow = pytest.importorskip("PIL.Image")
    import io
    tagged = pillow.fromarray(rgb)
    exif = tagged.getexif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    stream = io.BytesIO()
    tagged.save(stream, "jpeg", exif=exif, quality=95)
    source = CompressedImage(format="jpeg")
    source.data.frombytes(stream.getvalue())
    assert np.asarray(MessageImage(source)).shape == rgb.shape


@pytest.mark.parametrize("name, data, part", [
    ("webp", b"abc", "'webp'"),
    ("16UC1; compressedDepth png", b"abc", "compressedDepth"),
    ("jpeg", b"", "no data"),
    ("jpeg", b"\xff\xd8\xff\xe0 this is no picture", "can not be decoded"),
])
def test_malformed_compressed_images_name_what_is_wrong(name: str, data: bytes, part: str) -> None:
    broken = CompressedImage(format=name)
    broken.data.frombytes(data)
    with pytest.raises(ImageError, match=part):
        np.asarray(MessageImage(broken))


def jpeg(rgb: np.ndarray, *flags: int) -> bytearray:
    return bytearray(cv2.imencode(".jpg", rgb, flags)[1].tobytes())


def compressed(data: bytes, name: str = "jpeg") -> CompressedImage:
    result = CompressedImage(format=name)
    result.data.frombytes(data)
    return result


@pytest.mark.parametrize("flags", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)])
@pytest.mark.parametrize("before", [b"", b"\xff\xff", b"\xff\xfe\x00\x09comment",
                                    b"\xff\xe1\x00\x08\xff\xc0\x00\x11\x08\x00"])
def test_the_size_is_read_from_the_header(rgb: np.ndarray, flags: tuple, before: bytes) -> None:
    data = jpeg(rgb, *flags)
    picture = compressed(data[:2] + before + data[2:])
    assert check_compressed(picture) == (WIDTH, HEIGHT)
    assert np.asarray(MessageImage(picture)).shape == rgb.shape


@pytest.mark.parametrize("name", ["jpeg", "png"])
@pytest.mark.parametrize("width, height", [(16000, 16000), (30000, 30000), (65000, 600)])
def test_a_picture_that_claims_too_many_pixels_is_refused_by_its_header(rgb: np.ndarray, name: str, width: int,
                                                                        height: int,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = claim_size(rgb_to_compressed(rgb, Header(), name), width, height)
    monkeypatch.setattr(images.cv2, "imdecode", None)  # whoever decodes it all the same fails
    with pytest.raises(ImageError, match=rf"{width}x{height} is .*at most 33177600 \(image.max_pixels\)"):
        MessageImage(bomb)
    assert check_compressed(bomb, width * height) == (width, height)


def test_a_raw_image_of_too_many_pixels_is_refused(rgb: np.ndarray) -> None:
    assert check_image(message(rgb, "rgb8"), WIDTH * HEIGHT) == (WIDTH, HEIGHT)
    with pytest.raises(ImageError, match="image.max_pixels"):
        check_image(message(rgb, "rgb8"), WIDTH * HEIGHT - 1)


def test_a_jpeg_of_endless_scans_is_refused(rgb: np.ndarray) -> None:
    data = jpeg(rgb, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data[data.rindex(b"\xff\xda"):-2]
    assert np.asarray(MessageImage(compressed(data))).shape == rgb.shape
    with pytest.raises(ImageError, match="scans; expected at most 64"):
        check_compressed(compressed(data[:-2] + last * 100 + data[-2:]))


@pytest.mark.parametrize("data", [
    b"\xff\xd8\xff\xda\x00\x08", b"\xff\xd8\xff\xc0\x00\x11\x08\x00", b"\xff\xd8" + b"\xff" * 100,
    b"\xff\xd8\xff\xe0\x00\x00" * 99,
    b"\xff\xd8\xff\xd0\xff\xc0\x00\x11\x08\x00\x08\x00\x08", b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x00\x00\x08\x03",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDX" + b"\x01" * 13,
    b"BM" + bytes(60),
])
def test_a_header_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="no header of a jpeg or png"):
        check_compressed(compressed(data))


def test_pixels_are_converted_when_they_are_asked_for(rgb: np.ndarray) -> None:
    picture = MessageImage(rgb_to_compressed(rgb, Header(), "png"))
    assert picture.shape == rgb.shape
    np.testing.assert_array_equal(np.asarray(picture), rgb)
    np.testing.assert_array_equal(np.asarray(MessageImage(message(rgb[..., ::-1], "bgr8", 6))), rgb)


def test_what_shows_only_in_the_pixels_is_told_once(rgb: np.ndarray) -> None:
    told: list[str] = []
    data = rgb_to_compressed(rgb, Header(), "png").data[:60]
    picture = MessageImage(compressed(data, "png"), on_error=told.append)
    assert not picture.broken and told == []
    for _ in range(2):
        with pytest.raises(ImageError, match="can not be decoded"):
            np.asarray(picture)
    assert picture.broken and len(told) == 1 and "can not be decoded" in told[0]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_what_is_written_is_read_back(rgb: np.ndarray, encoding: str) -> None:
    header = Header(frame_id="camera")
    written = rgb_to_image(rgb[:, ::2], header, encoding)  # not contiguous
    assert written.header == header and written.encoding == encoding and written.step == WIDTH // 2 * 3
    np.testing.assert_array_equal(np.asarray(MessageImage(written)), rgb[:, ::2])


@pytest.mark.parametrize("image, encoding", [
    (np.zeros((4, 4), np.uint8), "rgb8"), (np.zeros((4, 4, 3), np.float32), "rgb8"),
    (np.zeros((4, 4, 3), np.uint8), "mono8"),
])
def test_what_can_not_be_written_is_refused(image: np.ndarray, encoding: str) -> None:
    with pytest.raises(ImageError):
        rgb_to_image(image, Header(), encoding)
    with pytest.raises((ImageError, cv2.error)):
        rgb_to_compressed(image, Header(), encoding)

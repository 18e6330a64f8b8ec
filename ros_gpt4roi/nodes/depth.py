"""Depth images and the camera's calibration as they arrive, positions of a frame's regions as they leave."""
from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.messages import seconds_text
from ros_gpt4roi.model.region_shapes import ShapeError
from ros_gpt4roi.runtime.regions import BoxError
from ros_gpt4roi.runtime.types import Frame, Region

from .conversions import NANOSECONDS, stamp_ns
from .diagnostics import Problems
from .frame_buffer import FrameBuffer
from .positions import Calibration, CalibrationError, Position, locate

# encoding → its NumPy type without the byte order, and what a 1 means in metres (REP 118)
_ENCODINGS = {"16UC1": ("u2", 0.001), "32FC1": ("f4", 1.0)}


@dataclass(frozen=True)
class DepthParameters(Configuration):
    """How depth finds its image."""

    slop_s: float = setting(0.02, "How far the stamps of image and depth may lie apart; 0 asks for equal stamps.",
                            at_least=0, at_most=10, unit="seconds")
    rectified: bool = setting(False, "The images are rectified: `camera_info` is read by its P, not by its K and D.")


class DepthSource:
    """Keeps depth images for as long as frames need them, and says where regions are.

    Nothing is computed when a message arrives: its fields are held to one another, and it is kept. Thread-safe: the
    executor's thread brings messages, the worker's asks for positions.

    Args:
        parameters: How depth finds its image.
        keep_s: How long depth images are kept, in seconds; one that belongs to a frame of a question for as long as it.
        max_bytes: The most bytes of depth images that are kept.
        problems: Receives what can not be used.
    """

    def __init__(self, parameters: DepthParameters, keep_s: float, max_bytes: int, problems: Problems) -> None:
        self._parameters, self._problems = parameters, problems
        self._lock = threading.Lock()
        self._buffer: FrameBuffer[Image, None] = FrameBuffer(keep_s, max_bytes, round(parameters.slop_s * NANOSECONDS))
        # By a frame's pixels, which frames with other regions share.
        self._held: WeakKeyDictionary[object, Image] = WeakKeyDictionary()
        self._info: CameraInfo | None = None
        self._received = 0

    def on_depth(self, message: Image) -> None:
        """Subscription callback."""
        self._received += 1
        if problem := _depth_problem(message):
            self._problems.report("depth refused", problem)
            return
        with self._lock:
            self._buffer.add_image(stamp_ns(message.header.stamp), message, len(message.data))

    def on_camera_info(self, message: CameraInfo) -> None:
        """Subscription callback."""
        self._info = message

    def hold(self, frame: Frame) -> Image | None:
        """Keeps the depth of a frame for as long as somebody has its picture, and returns it if there is one."""
        with self._lock:
            depth = self._held.get(frame.image)
            if depth is None and (found := self._buffer.find(frame.stamp_ns)) is not None:
                depth = self._held[frame.image] = found.image
            return depth

    def positions(self, frame: Frame, regions: Iterable[Region]) -> dict[str, Position]:
        """Where regions of a frame are, by their ids; none of those whose depth is not known."""
        depth, info = self.hold(frame), self._info
        if not self._received:
            return {}
        if depth is None:
            self._problems.report("frame without depth", f"no depth image within {self._parameters.slop_s:g} s "
                                                         f"(depth.slop_s) of the image of "
                                                         f"{seconds_text(frame.stamp_ns)} s; "
                                                         f"{self._newest()}")
            return {}
        if info is None:
            self._problems.report("depth not used", "depth images arrive, but no camera_info has arrived yet")
            return {}
        try:
            _check_fits("depth image", depth, frame)
            calibration = _calibration(info, frame, self._parameters.rectified)
        except CalibrationError as error:
            self._problems.report("depth not used", str(error))
            return {}
        kind, unit_m = _ENCODINGS[depth.encoding]
        order = ">" if depth.is_bigendian else "<"
        rows = np.frombuffer(depth.data, np.uint8).reshape(depth.height, depth.step)
        pixels = rows[:, :depth.width * np.dtype(kind).itemsize].view(order + kind)
        found = {}
        for region in regions:
            mask = None
            try:
                if region.mask is not None:
                    mask = region.mask.shape(region.box, depth.width, depth.height).mask
            except ShapeError:  # nothing of it is in its box: it is described no more than located
                continue
            if (position := locate(pixels, unit_m, region.box, calibration, mask)) is not None:
                found[region.id] = position
        return found

    def pixel(self, frame: Frame, point: tuple[float, float, float]) -> tuple[float, float]:
        """Where a point of the camera's optical frame, in metres, shows in a frame. Raises BoxError if it does not."""
        try:
            if self._info is None:
                raise CalibrationError("a point in space was given, but no camera_info has arrived yet")
            return _calibration(self._info, frame, self._parameters.rectified).project(point)
        except CalibrationError as error:
            raise BoxError(str(error)) from error

    def clear(self) -> None:
        """Forgets all depth images; the counters stay."""
        with self._lock:
            self._buffer.clear()

    def statistics(self) -> dict[str, int]:
        """Counters since the start."""
        return {"depth images received": self._received}

    def _newest(self) -> str:
        with self._lock:
            newest = self._buffer.newest()
        return "none is held" if newest is None else f"the newest is of {seconds_text(newest.stamp_ns)} s"


def _depth_problem(message: Image) -> str:
    """What is wrong with a depth image; empty where nothing is."""
    if message.encoding not in _ENCODINGS:
        return (f"depth encoding {message.encoding[:40]!r} is not supported; expected 16UC1 (millimetres) or 32FC1 "
                "(metres)")
    needed = message.width * np.dtype(_ENCODINGS[message.encoding][0]).itemsize
    if not needed or not message.height:
        return f"depth image size {message.width}x{message.height} is empty"
    if message.step < needed or message.step % np.dtype(_ENCODINGS[message.encoding][0]).itemsize:
        return f"depth image step {message.step} does not fit; expected {needed} for {message.width} pixels"
    if len(message.data) != message.step * message.height:
        return (f"depth image data has {len(message.data)} bytes; expected {message.step * message.height} for step "
                f"{message.step} and height {message.height}")
    return ""


def _check_fits(what: str, message: Image | CameraInfo, frame: Frame) -> None:
    """Raises CalibrationError where a message is not of the camera that made the frame."""
    height, width = frame.image.shape[:2]
    if (message.width, message.height) != (width, height):
        raise CalibrationError(f"{what} is of {message.width}x{message.height}, but the image is of {width}x{height}; "
                               "expected the same: depth that is aligned to the colour camera, and the calibration of "
                               "its images")
    if message.header.frame_id != frame.frame_id:
        raise CalibrationError(f"{what} is of frame {message.header.frame_id[:80]!r}, but the image of "
                               f"{frame.frame_id[:80]!r}; expected the same: depth that is aligned to the colour "
                               "camera, and the calibration of its images")


def _calibration(info: CameraInfo, frame: Frame, rectified: bool) -> Calibration:
    """The calibration of a frame. Raises CalibrationError where it is of something else, or none."""
    _check_fits("camera_info", info, frame)
    if info.binning_x > 1 or info.binning_y > 1 or info.roi.x_offset or info.roi.y_offset:
        raise CalibrationError("camera_info has binning or a region of interest; expected that of the whole image")
    if rectified:
        p = info.p.tolist()
        return Calibration((p[0], p[5]), (p[2], p[6]))
    k = info.k.tolist()
    return Calibration((k[0], k[4]), (k[2], k[5]), info.distortion_model, tuple(info.d))

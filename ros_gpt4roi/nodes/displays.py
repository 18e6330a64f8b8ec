"""Descriptions as the messages that RViz, rqt, Foxglove and nodes which know only vision_msgs show or read."""
from __future__ import annotations

from types import ModuleType
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA
from vision_msgs.msg import (
    BoundingBox3D,
    Detection2D,
    Detection2DArray,
    Detection3D,
    Detection3DArray,
)
from visualization_msgs.msg import ImageMarker, Marker, MarkerArray

from ros_gpt4roi.annotate import region_colour
from ros_gpt4roi.messages import box_to_message, hypothesis
from ros_gpt4roi.runtime.types import Description, FrameDescriptions, Region

from .conversions import Positions

_LINE_WIDTH = 2.0  # pixels
_CROSS = 5.0  # pixels from a point to the ends of the cross that marks it
_FONT_SIZE = 16.0  # pixels
_TEXT_HEIGHT = 0.025  # of letters in space, in distances from the camera
_TEXT_GROUND = 0.7  # opacity of the ground of texts


def described_detections(result: FrameDescriptions) -> Detection2DArray:
    """The regions as detections whose class is their description, with its confidence as score."""
    message = Detection2DArray(header=result.frame.header)
    for description in result.descriptions:
        message.detections.append(Detection2D(
            header=message.header, id=description.region.id, bbox=box_to_message(description.region.box),
            results=[hypothesis(description.text, description.confidence)]))
    return message


def described_detections_3d(result: FrameDescriptions, positions: Positions) -> Detection3DArray:
    """The regions whose position is known, as `described_detections`; a box is as deep as its depths are spread."""
    message = Detection3DArray(header=result.frame.header)
    for description in result.descriptions:
        position = positions.get(description.region.id)
        if position is None:
            continue
        x, y, z = position.point
        pose = Pose(position=Point(x=x, y=y, z=z))  # a new orientation turns nothing
        result_in_space = hypothesis(description.text, description.confidence)
        result_in_space.pose.pose = pose
        box = BoundingBox3D(center=pose, size=Vector3(x=position.size[0], y=position.size[1], z=2 * position.spread))
        message.detections.append(Detection3D(header=message.header, id=description.region.id, bbox=box,
                                              results=[result_in_space]))
    return message


def text_markers(result: FrameDescriptions, positions: Positions) -> MarkerArray:
    """Ids and texts in space, in place of all that were sent before."""
    markers = [Marker(header=result.frame.header, action=Marker.DELETEALL)]
    for number, description in enumerate(result.descriptions):
        region, position = description.region, positions.get(description.region.id)
        if position is None:
            continue
        x, y, z = position.point
        marker = Marker(header=result.frame.header, ns="regions", id=number, type=Marker.TEXT_VIEW_FACING,
                        action=Marker.ADD, color=_colour(ColorRGBA, region), text=_text(description))
        # Above the region, as large as it looks the same from the camera at any distance.
        marker.pose.position = Point(x=x, y=y - position.size[1] / 2, z=z)
        marker.scale.z = _TEXT_HEIGHT * z
        markers.append(marker)
    return MarkerArray(markers=markers)


def image_marker(result: FrameDescriptions) -> ImageMarker:
    """The boxes of a frame, or outlines of masks, as one list of lines; a point is a cross."""
    message = ImageMarker(header=result.frame.header, ns="regions", type=ImageMarker.LINE_LIST,
                          action=ImageMarker.ADD, scale=_LINE_WIDTH)
    for description in result.descriptions:
        lines = _lines(description.region, result)
        message.points += [Point(x=x, y=y) for line in lines for x, y in line]
        message.outline_colors += [_colour(ColorRGBA, description.region)] * (2 * len(lines))
    return message


def image_annotations(foxglove: ModuleType, result: FrameDescriptions) -> Any:
    """Boxes, ids and texts as foxglove_msgs/ImageAnnotations.

    Args:
        foxglove: The module foxglove_msgs.msg.
        result: The descriptions.
    """
    header: Any = result.frame.header
    stamp: Time = header.stamp
    message = foxglove.ImageAnnotations()
    for description in result.descriptions:
        region = description.region
        colour = _colour(foxglove.Color, region)
        message.points.append(foxglove.PointsAnnotation(
            timestamp=stamp, type=foxglove.PointsAnnotation.LINE_LIST, outline_color=colour, thickness=_LINE_WIDTH,
            points=[foxglove.Point2(x=x, y=y) for line in _lines(region, result) for x, y in line]))
        message.texts.append(foxglove.TextAnnotation(
            timestamp=stamp, position=foxglove.Point2(x=float(region.box[0]), y=float(region.box[1])),
            text=_text(description), font_size=_FONT_SIZE,
            text_color=foxglove.Color(r=1.0, g=1.0, b=1.0, a=1.0),
            background_color=_colour(foxglove.Color, region, _TEXT_GROUND)))
    return message


def _text(description: Description) -> str:
    return f"{description.region.id}: {description.text}" if description.text else description.region.id


def _lines(region: Region, result: FrameDescriptions) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """What marks a region: a point's cross, a mask's outlines, or the sides of the box."""
    x1, y1, x2, y2 = map(float, region.box)
    if region.is_point:
        return [((x1 - _CROSS, y1), (x1 + _CROSS, y1)), ((x1, y1 - _CROSS), (x1, y1 + _CROSS))]
    outlines = [[(x1, y1), (x2, y1), (x2, y2), (x1, y2)]]
    if region.mask is not None:
        height, width = result.frame.image.shape[:2]
        outlines = [[(x, y) for x, y in outline.tolist()] for outline in region.mask.outlines(width, height)]
    return [line for corners in outlines for line in zip(corners, corners[1:] + corners[:1])]


def _colour(kind: type, region: Region, opacity: float = 1.0) -> Any:
    """kind: A message of r, g, b and a in 0..1."""
    red, green, blue = (value / 255 for value in region_colour(region.id))
    return kind(r=red, g=green, b=blue, a=opacity)

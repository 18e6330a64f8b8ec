"""Clicks that stock tools publish, as questions about what was clicked on."""
from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import replace

from geometry_msgs.msg import Point, PointStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.subscription import Subscription

from ros_gpt4roi.runtime.pointing import points
from ros_gpt4roi.runtime.regions import BoxError, check_box, name_regions
from ros_gpt4roi.runtime.request import DescriptionRequest, Question
from ros_gpt4roi.runtime.scheduler import Scheduler
from ros_gpt4roi.runtime.types import Answer, Frame, FrameDescriptions, Region, Status

from .depth import DepthSource
from .diagnostics import Problems
from .frame_source import FrameSource
from .process import shown
from .topics import question_events

_DEPTH = 10


class Clicks:
    """Answers a click on the newest frame: with the description of what was clicked on, or with an answer about it.

    A click inside regions, which is inside the masks of those that have one, is about the smallest of them; any other
    is about the point itself. Once a question about "this" has come, answered or refused because nothing was pointed
    at, each click asks it of what was clicked on.

    Args:
        node: The node.
        frames: Gives the newest frame.
        depth: Says where points in space show in the image.
        scheduler: Takes the requests.
        publish: Publishes an answer.
        tell: Publishes what a click asks: the frame, the region, the question in words and its name.
        problems: Receives what the middleware lost.
        is_active: Whether the node takes work.
    """

    def __init__(self, node: LifecycleNode, frames: FrameSource, depth: DepthSource, scheduler: Scheduler,
                 publish: Callable[[Answer], object], tell: Callable[[Frame, Region, str, str], None],
                 problems: Problems, is_active: Callable[[], bool]) -> None:
        self._node, self._frames, self._depth, self._scheduler = node, frames, depth, scheduler
        self._publish, self._tell, self._is_active = publish, tell, is_active
        self._question = ""
        # rqt_image_view names its topic by that of the image it shows, after remapping.
        shown_images = [node.resolve_topic_name(name) for name in ("image", "annotated_image")]
        topics = [*((Point, f"{image}_mouse_left", self._on_pixel) for image in shown_images),
                  (PointStamped, "clicked_point", self._on_point)]
        self._subscriptions: list[Subscription] = [
            node.create_subscription(kind, name, callback, _DEPTH,
                                     event_callbacks=question_events(node, name, problems))
            for kind, name, callback in topics]

    def destroy(self) -> None:
        """Takes the subscriptions back."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        del self._frames, self._depth, self._scheduler  # what holds this object may not keep a model

    def on_answer(self, question: Question, answer: Answer) -> None:
        """Hears every question and its answer: the last about "this" that only lacks a region is what a click asks."""
        if question.points_nowhere or answer.status == Status.OK and points(question.text):
            self._question = question.text

    def forget(self) -> None:
        """A click gets a description, until the next question about "this"."""
        self._question = ""

    def _on_pixel(self, message: Point) -> None:
        self._answer(lambda frame: (message.x, message.y))

    def _on_point(self, message: PointStamped) -> None:
        point, name = message.point, message.header.frame_id

        def pixel(frame: Frame) -> tuple[float, float]:
            if name != frame.frame_id and (name or point.z):
                raise BoxError(f"clicked point is of frame {name[:80]!r}, expected pixels (z = 0) or a point in space, "
                               f"of the camera's frame {frame.frame_id[:80]!r}")
            if not point.z:  # of an image, not of a scene
                return point.x, point.y
            return self._depth.pixel(frame, (point.x, point.y, point.z))
        self._answer(pixel)

    def _answer(self, pixel: Callable[[Frame], tuple[float, float]]) -> None:
        name = f"click {uuid.uuid4().hex}"
        try:
            if not self._is_active():
                self._publish(Answer(Status.FAILED, "", f"node {self._node.get_name()} is not active", query_id=name))
                return
            frame = self._frames.newest()
            if frame is None:
                self._publish(Answer(Status.NO_FRAME, "", "no image has arrived yet", query_id=name))
                return
            frame, region = _clicked(frame, *pixel(frame))
            self._depth.hold(frame)
            self._tell(frame, region, self._question or f"Describe region {region.id}.", name)
            if self._question:
                question = Question(self._question, name, frame=frame, subject=region.id)
                question.future.add_done_callback(lambda done: self._publish(done.result()))
                self._scheduler.submit(question)
            else:
                described = DescriptionRequest(frame=replace(frame, regions=(region,)))
                described.future.add_done_callback(
                    lambda done: self._publish(_as_answer(done.result(), frame, region, name)))
                self._scheduler.submit(described)
        except BoxError as error:
            self._publish(Answer(Status.INVALID, "", str(error), query_id=name))
        except Exception as error:  # whoever clicked waits for an answer
            self._publish(Answer(Status.FAILED, "", shown(error), query_id=name))


def _clicked(frame: Frame, x: float, y: float) -> tuple[Frame, Region]:
    """What was clicked on: the smallest region around the pixel, or the point, which the frame then has as well.

    Raises BoxError for a click outside the image.
    """
    height, width = frame.image.shape[:2]
    if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= width and 0 <= y <= height):
        raise BoxError(f"click at ({x:g} {y:g}) is outside the image of {width}x{height}")
    around = [region for region in frame.regions if region.contains(x, y, width, height)]
    if around:
        return frame, min(around, key=lambda region: (region.box[2] - region.box[0]) * (region.box[3] - region.box[1]))
    (point,), _ = name_regions([("", (x, y, x, y), "", 1.0)], lambda box: (check_box(box, width, height), None),
                               {region.id for region in frame.regions})
    return replace(frame, regions=(point, *frame.regions)), point


def _as_answer(result: FrameDescriptions, frame: Frame, region: Region, name: str) -> Answer:
    """The description of what was clicked on, about the frame with all its regions."""
    text, confidence, error = "", 0.0, result.error
    for description in result.descriptions:
        text, confidence = description.text, description.confidence
    status = result.status
    if status == Status.OK and not result.descriptions:
        status, error = Status.INVALID, "; ".join(result.refused) or "there is no description of it"
    named = (region.id,) if status == Status.OK else ()  # only an answer asserts something
    return Answer(status, text, error, named, query_id=name, frame=frame, confidence=confidence)

"""Malformed detections, regions that askers draw, and clicks."""

from __future__ import annotations

from random import Random

from geometry_msgs.msg import Point, Point32, PointStamped, Polygon
from ros_gpt4roi_interfaces.msg import Region, RegionMask
from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray

from ros_gpt4roi.messages import box_to_message, hypothesis

from .kinds import HUGE, ODD_TEXTS, Sample, kind, odd_header, odd_number

_GOOD = box_to_message((40, 40, 60, 60))
_CLICKS = "image_mouse_left", "annotated_image_mouse_left", "clicked_point"


def _box(x: float, y: float, width: float, height: float, theta: float = 0.0) -> BoundingBox2D:
    message = BoundingBox2D(size_x=width, size_y=height)
    message.center.position.x, message.center.position.y, message.center.theta = x, y, theta
    return message


def _odd_box(random: Random) -> BoundingBox2D:
    numbers = [random.uniform(5, 100) for _ in range(4)] + [0.0]
    for _ in range(random.randint(1, 5)):
        numbers[random.randrange(5)] = odd_number(random)
    return _box(*numbers)


def odd_regions(random: Random) -> list[Region]:
    """Regions as an asker draws them, one or more of which can not be."""
    if random.random() < 0.1:
        return [Region(bbox=_GOOD)] * random.choice((257, 400))
    return [Region(id=random.choice(("", "1", *ODD_TEXTS)), bbox=_odd_box(random), label=random.choice(ODD_TEXTS),
                   score=odd_number(random)) for _ in range(random.randint(1, 8))]


def odd_masks(random: Random) -> list[Region]:
    """Regions whose mask can not be."""
    def coordinate() -> float:
        return random.choice((float("nan"), float("inf"), -3e38, 3e38, -5.0, 0.0, 0.5, random.uniform(0, 300)))

    def outline() -> Polygon:
        count = random.choice((0, 1, 2, 3, 500))
        return Polygon(points=[Point32(x=coordinate(), y=coordinate()) for _ in range(count)])

    mask = RegionMask(polygons=[outline() for _ in range(random.choice((0, 1, 5)))])
    if not mask.polygons or random.random() < 0.5:
        mask.width, mask.height = random.choice((1, 64, *HUGE)), random.choice((0, 1, 48, *HUGE))
        mask.counts = [random.choice((0, 1, 64 * 48, 2**32 - 1)) for _ in range(random.choice((0, 1, 2, 1000)))]
    region = Region(bbox=random.choice((BoundingBox2D(), _GOOD, _odd_box(random))), mask=mask)
    return [region] * random.choice((1, 1, 20))


@kind("impossible boxes", "detections")
def _(random: Random, sample: Sample) -> Detection2DArray:
    return Detection2DArray(header=sample.header, detections=[
        Detection2D(bbox=_odd_box(random)) for _ in range(random.randint(1, 20))])


@kind("normalised boxes", "detections")
def _(random: Random, sample: Sample) -> Detection2DArray:
    return Detection2DArray(header=sample.header, detections=[
        Detection2D(bbox=_box(random.random(), random.random(), random.random() / 2, random.random() / 2))
        for _ in range(5)])


@kind("hundreds of boxes", "detections")
def _(random: Random, sample: Sample) -> Detection2DArray:
    one = Detection2D(id=random.choice(("", "cup", "\x1b[31m")), bbox=_GOOD, results=[hypothesis("cup", 0.5)])
    return Detection2DArray(header=sample.header, detections=[one] * random.choice((501, 700)))


@kind("strange ids and labels", "detections")
def _(random: Random, sample: Sample) -> Detection2DArray:
    return Detection2DArray(header=sample.header, detections=[
        Detection2D(id=random.choice(ODD_TEXTS), bbox=_box(40.0 + 10 * place, 50.0, 20.0, 20.0),
                    results=[hypothesis(random.choice(ODD_TEXTS), odd_number(random))])
        for place in range(random.randint(1, 12))])


@kind("hundreds of hypotheses", "detections")
def _(random: Random, sample: Sample) -> Detection2DArray:
    one = Detection2D(bbox=_GOOD, results=[hypothesis("cup", 0.5)] * random.choice((0, 200)))
    return Detection2DArray(header=sample.header, detections=[one])


@kind("outside of everything", *_CLICKS)
def _(random: Random, sample: Sample) -> Point | PointStamped:
    message = sample.message()
    point = message.point if isinstance(message, PointStamped) else message
    for _ in range(random.randint(1, 3)):
        setattr(point, random.choice("xyz"), odd_number(random))
    return message


@kind("point of another frame", "clicked_point")
def _(random: Random, sample: Sample) -> PointStamped:
    return PointStamped(header=odd_header(random), point=Point(x=odd_number(random), y=odd_number(random), z=1.0))

"""Regions and their texts, drawn onto a frame: labels at their boxes, and a legend below where boxes are crowded."""
from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .runtime.types import Region

# Distinct on dark and light grounds, and in print (RGB).
_PALETTE = ((230, 75, 53), (0, 122, 194), (0, 150, 110), (225, 150, 0), (130, 80, 180), (200, 60, 140), (110, 110, 0),
            (0, 140, 160))
_WHITE, _LEGEND_GROUND = (255, 255, 255), (30, 30, 30)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MOST_LINES = 3  # of a text
_WRAPS = (0.4, 0.25, 0.6)  # how broad a label may be, in widths of the picture, in order of preference
_MOST_COVERED = 0.25  # of the box of any region that a label lies on, where no place is free

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class Label:
    """A text and its place.

    Attributes:
        region: What the text is about.
        lines: The text, broken into lines; what is cut off shows as dots.
        rectangle: The place (x1, y1, x2, y2) that the text takes with its border, in pixels.
    """

    region: Region
    lines: tuple[str, ...]
    rectangle: Rectangle


@dataclass(frozen=True)
class Layout:
    """Where the texts of a picture go. No two rectangles overlap, and none leaves the picture or the legend.

    Attributes:
        labels: What is drawn in the picture: id and text, or the id alone where the text is in the legend.
        legend: Texts that had no room in the picture; their rectangles lie below it.
        omitted: How many regions the legend had no room for.
        height: Height of picture and legend, in pixels.
    """

    labels: tuple[Label, ...]
    legend: tuple[Label, ...]
    omitted: int
    height: int


def region_colour(identifier: str) -> tuple[int, int, int]:
    """The RGB colour of a region, the same in every frame and process for the same id."""
    return _PALETTE[zlib.crc32(identifier.encode()) % len(_PALETTE)]


def arrange(width: int, height: int, regions: Sequence[tuple[Region, str]]) -> Layout:
    """Finds a place for the text of every region.

    A label lies at its box, covers no other label and not much of any box. A region whose text finds no such place is
    labelled with its id alone, where there is room for that, and its text goes into a legend below the picture.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        regions: Regions and their texts; boxes in pixels of the picture.
    """
    font = _Font(width, height)
    boxes = np.array([_inside(region.box, width, height) for region, _ in regions]).reshape(-1, 4)
    taken = np.zeros((0, 4), int)
    labels: list[Label] = []
    crowded: set[int] = set()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for place in np.argsort(areas, kind="stable"):  # a small box leaves its label the fewest places
        region, text = regions[place]
        whole = f"{region.id}: {text}" if text else region.id
        wrapped = [font.wrap(whole, round(width * share)) for share in _WRAPS]
        uncut = [lines for lines in wrapped if " ".join(lines) == " ".join(whole.split())]
        variants = [*((lines, 0.0) for lines in uncut or wrapped), *((lines, _MOST_COVERED) for lines in wrapped)]
        for lines, most_covered in [*variants, ([font.cut(region.id, width // 3)], None)]:
            rectangle = _free_place(boxes, place, font.size(lines), (width, height), taken, most_covered)
            if rectangle is not None:
                taken = np.vstack((taken, rectangle))
                labels.append(Label(region, tuple(lines), rectangle))
                break
        if rectangle is None or most_covered is None and text:
            crowded.add(place)
    legend, end = _legend(font, width, height, [item for place, item in enumerate(regions) if place in crowded])
    return Layout(tuple(labels), legend, len(crowded) - len(legend), end)


def annotate(image: np.ndarray, regions: Iterable[tuple[Region, str]], least_height: int = 0) -> np.ndarray:
    """Draws each region's box, or the outline of its mask, id and text.

    Args:
        image: uint8 RGB [H, W, 3]; it is not changed.
        regions: Regions and their texts; boxes in pixels of the image.
        least_height: Height of the picture to be made, so that it is as high as others before it.

    Returns:
        uint8 RGB [max(H + height of a legend, least_height), W, 3]. The image's pixels keep their place.
    """
    height, width = image.shape[:2]
    regions = list(regions)
    layout = arrange(width, height, regions)
    canvas = np.full((max(layout.height, least_height), width, 3), _LEGEND_GROUND, np.uint8)
    canvas[:height] = image
    picture = canvas[:height]  # what is drawn here ends at the image's border
    line = 1 if layout.legend else max(2, round(min(width, height) / 300))
    for region, _ in regions:
        _outline(picture, region, line)
    font = _Font(width, height)
    for label in layout.labels:  # after all the boxes, so that no line crosses a text
        font.write(picture, label)
    for label in layout.legend:
        font.write(canvas, label)
    if layout.omitted:
        font.write_below(canvas, f"and {layout.omitted} more", layout.height)
    return canvas


def _outline(picture: np.ndarray, region: Region, line: int) -> None:
    height, width = picture.shape[:2]
    if region.mask is not None:
        outlines = [np.rint(outline).astype(np.int32) for outline in region.mask.outlines(width, height)]
        cv2.polylines(picture, outlines, True, region_colour(region.id), line, cv2.LINE_AA)
        return
    # Boxes may reach far outside; OpenCV takes 32-bit corners only.
    x1, y1, x2, y2 = (int(round(v)) for v in np.clip(region.box, -1, max(width, height) + 1))
    if region.is_point:
        cv2.circle(picture, (x1, y1), max(3, min(width, height) // 80), region_colour(region.id), line, cv2.LINE_AA)
    else:
        cv2.rectangle(picture, (x1, y1), (x2, y2), region_colour(region.id), line, cv2.LINE_AA)


class _Font:
    """The size of texts in a picture, and how they are written."""

    def __init__(self, width: int, height: int) -> None:
        self.scale = max(0.35, min(width, height) / 1100)
        self.pad = max(2, round(6 * self.scale))
        (_, self.ascent), descent = cv2.getTextSize("Ag|", _FONT, self.scale, 1)
        self.line_height = self.ascent + descent + self.pad // 2

    def width(self, text: str) -> int:
        return cv2.getTextSize(text, _FONT, self.scale, 1)[0][0]

    def size(self, lines: Sequence[str]) -> tuple[int, int]:
        """Width and height of lines with their border."""
        return max(map(self.width, lines)) + 2 * self.pad, self.line_height * len(lines) + self.pad

    def cut(self, text: str, limit: int) -> str:
        """The text, or as much of its beginning as fits, with dots behind it."""
        if self.width(text) <= limit:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle] + "...") <= limit else (low, middle - 1)
        return text[:low] + "..."

    def wrap(self, text: str, limit: int) -> list[str]:
        """Breaks a text into at most three lines of at most `limit` pixels."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".lstrip()
            if lines[-1] and self.width(longer) > limit:
                lines.append(word)
            else:
                lines[-1] = longer
        if len(lines) > _MOST_LINES:
            lines[_MOST_LINES - 1:] = [lines[_MOST_LINES - 1] + "..."]
        return [self.cut(line, limit) for line in lines]

    def write(self, canvas: np.ndarray, label: Label) -> None:
        x1, y1, x2, y2 = label.rectangle
        cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), region_colour(label.region.id), cv2.FILLED)
        for number, line in enumerate(label.lines):
            origin = x1 + self.pad, y1 + self.pad + number * self.line_height + self.ascent
            cv2.putText(canvas, line, origin, _FONT, self.scale, _WHITE, 1, cv2.LINE_AA)

    def write_below(self, canvas: np.ndarray, text: str, end: int) -> None:
        """Writes a last line of the legend, which ends at that row."""
        origin = self.pad, end - self.line_height + self.ascent
        cv2.putText(canvas, text, origin, _FONT, self.scale, _WHITE, 1, cv2.LINE_AA)


def _inside(box: Sequence[float], width: int, height: int) -> Rectangle:
    """The part of a box that lies in the picture."""
    x1, y1, x2, y2 = np.rint(np.clip(box, 0, (width, height, width, height))).astype(int).tolist()
    return x1, y1, x2, y2


def _free_place(boxes: np.ndarray, own: int, size: tuple[int, int], picture: tuple[int, int], taken: np.ndarray,
                most_covered: float | None) -> Rectangle | None:
    """The best place for a label of that size at its own box, or None: it never lies on what is taken.

    A text covers at most a part of its own box, and of each other one at most `most_covered`. An id, for which that is
    None, may cover all of one. Both rather cover their own box than another.
    """
    corners = np.array(list(_corners(boxes[own], size, picture)))
    places = np.hstack((corners, corners + size))
    inside = (corners >= 0).all(1) & (corners + size <= picture).all(1)
    places = places[inside & ~_overlaps(places, taken).any(1)]
    areas = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1)
    covered = _overlaps(places, boxes) / areas
    covered[:, areas == 1] = 0  # a point
    if most_covered is not None:
        limits = np.full(len(boxes), most_covered)
        limits[own] = _MOST_COVERED
        fits = (covered <= limits).all(1)
        places, covered = places[fits], covered[fits]
    if not len(places):
        return None
    covered[:, own] /= 2
    x1, y1, x2, y2 = places[int(np.argmin(covered.sum(1)))].tolist()  # the first of equal ones
    return x1, y1, x2, y2


def _corners(box: np.ndarray, size: tuple[int, int], picture: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Upper left corners of a label along the sides of its box, first the usual ones; some are out of the picture."""
    x1, y1, x2, y2 = box.tolist()
    (across, down), (width, height) = size, picture
    lefts = [min(max(left, 0), width - across) for left in (x1, x2 - across, *range(x1 + across, x2, across))]
    tops = [min(max(top, 0), height - down) for top in (y1, y2 - down, *range(y1 + down, y2, down))]
    for top in (y1 - down, y2, y1, y2 - down):  # above, below, inside along the upper and the lower edge
        yield from ((left, top) for left in lefts)
    for left in (x2, x1 - across, x1, x2 - across):
        yield from ((left, top) for top in tops)


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Area that rectangles [M, 4] share with others [N, 4], [M, N]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.prod(np.maximum(high - low, 0), axis=2)


def _legend(font: _Font, width: int, height: int,
            regions: Sequence[tuple[Region, str]]) -> tuple[tuple[Label, ...], int]:
    """The labels of a legend that is at most as high as the picture, and where it ends."""
    labels: list[Label] = []
    top, end = height, 2 * height - font.line_height
    for region, text in regions:
        lines = font.wrap(f"{region.id}: {text}" if text else region.id, width - 2 * font.pad)
        bottom = top + font.size(lines)[1]
        if bottom > end:
            break
        labels.append(Label(region, tuple(lines), (0, top, width, bottom)))
        top = bottom
    return tuple(labels), top + (font.line_height + font.pad if len(labels) < len(regions) else 0)

"""A look at the data before a long run: counts, what the filters took, the first errors, and samples as pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ros_gpt4roi.annotate import annotate, region_colour
from ros_gpt4roi.runtime.types import Region
from training.data.mixture import Mixture, Visit
from training.data.record import Record, references

_BLACK, _GREY = (0, 0, 0), (136, 136, 136)
_WIDTH = 640
_LINE = 14


def check(mixture: Mixture, samples: int, out: Path) -> tuple[str, int]:
    """Read a few visits of every source and render them.

    Args:
        mixture: What is looked at.
        samples: Visits of each source.
        out: Folder for the pictures.

    Returns:
        The text to print, and how many of these visits failed.
    """
    lines, failures = [], 0
    out.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(mixture.parts):
        source, report = part.source, part.source.report
        lines.append(f"{number} {source.kind}: {', '.join(str(path) for path in source.inputs())}")
        lines.append(f"    read {report.read}, images kept {report.kept}, visits an epoch {part.visits}")
        lines += [f"    {line}" for line in report.lines()]
        places = np.linspace(0, len(source) - 1, min(samples, len(source))).astype(int)
        boxes, rounds = [], []
        for place in dict.fromkeys(places.tolist()):
            try:
                record = mixture.visit(Visit(number, place))
            except ValueError as error:
                failures += 1
                lines.append(f"    visit {place} failed: {error}")
                continue
            boxes.append(len(record.boxes))
            rounds.append(len(record.rounds))
            path = out / f"{number}-{source.kind}-{place}.png"
            render(record).save(path)
        if boxes:
            means = f"{np.mean(boxes):.1f} regions and {np.mean(rounds):.1f} rounds a visit"
            lines.append(f"    {len(boxes)} samples: {means}")
    lines.append(f"{len(mixture)} visits an epoch; pictures in {out}")
    return "\n".join(lines), failures


def render(record: Record) -> Image.Image:
    """Draw a record: the image with its numbered boxes, their masks and points, and the conversation under it."""
    picture = Image.fromarray(np.asarray(record.image))
    scale = _WIDTH / picture.width
    picture = picture.resize((_WIDTH, max(1, round(picture.height * scale))))
    regions = [Region(str(number), tuple(box)) for number, box in enumerate((record.boxes * scale).tolist(), 1)]
    for region, mask in zip(regions, record.masks, strict=False):
        if mask is not None:
            x1, y1, x2, y2 = map(round, region.box)
            stencil = Image.fromarray((mask * 128).astype(np.uint8)).resize((max(1, x2 - x1), max(1, y2 - y1)))
            picture.paste(region_colour(region.id), (x1, y1), stencil)
    picture = Image.fromarray(annotate(np.asarray(picture), [(region, "") for region in regions]))
    text = _conversation(record)
    page = Image.new("RGB", (_WIDTH, picture.height + _LINE * len(text) + 8), "white")
    page.paste(picture)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default()
    for number, point in record.points.items():
        x, y = np.multiply(point, scale)
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=region_colour(str(number)))
    for line, (words, colour) in enumerate(text):
        draw.text((6, picture.height + 4 + _LINE * line), words, fill=colour, font=font)
    return page


def _conversation(record: Record) -> Sequence[tuple[str, tuple[int, int, int]]]:
    """(line, colour) of the conversation; an answer takes the colour of the region that its round names first."""
    lines = [(record.source, _GREY)]
    for turn in record.rounds:
        named = references(turn.question + turn.answer)
        colour = region_colour(str(named[0])) if named else _BLACK
        for mark, words, tint in (("Q", turn.question, _BLACK), ("A", turn.answer, colour)):
            wrapped = [row for part in words.split("\n") for row in textwrap.wrap(part, 100) or [""]]
            lines += [(f"{mark if row == 0 else ' '} {part}", tint) for row, part in enumerate(wrapped)]
    return lines

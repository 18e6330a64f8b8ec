"""Regions from a command line or a file: boxes in words, a JSON list, or a recorded `vision_msgs/Detection2DArray`."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from . import run_lengths
from .regular_file import read_regular
from .runtime.masks import Mask
from .runtime.types import Region

_LARGEST_FILE = 16 << 20  # bytes; a frame's detections take kilobytes


class RegionFileError(ValueError):
    """Regions that cannot be read; the message names where they stand, their value and what was expected."""


def parse_box(text: str) -> Region:
    """Reads `x1,y1,x2,y2` (a box) or `x,y` (a point), in pixels of the picture.

    Args:
        text: the numbers, separated by commas.

    Returns:
        The region, without an id.

    Raises:
        RegionFileError: where these are not two or four numbers.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 4):
        raise RegionFileError(f"box {text!r}: expected x1,y1,x2,y2 or a point x,y in pixels")
    x1, y1, x2, y2 = numbers * 2 if len(numbers) == 2 else numbers
    return Region("", (x1, y1, x2, y2))


def read_detections(path: Path) -> list[Region]:
    """Reads the regions of a file.

    Args:
        path: JSON or YAML that holds either a list of mappings with `box` ([x1, y1, x2, y2] in pixels) and optionally
            `id`, `label`, `score`, and COCO's `segmentation` (polygons, or run lengths), beside which there need be no
            `box`; or one message as `ros2 topic echo --once /detections` prints it (`vision_msgs/Detection2DArray`).

    Returns:
        The regions in the file's order; those without an id have an empty one.

    Raises:
        RegionFileError: naming the file, the entry and what was expected.
    """
    try:
        text = read_regular(path, _LARGEST_FILE).decode("utf-8")
        # `ros2 topic echo` ends a message with the line that begins another YAML document.
        found = json.loads(text) if path.suffix == ".json" else next(iter(yaml.safe_load_all(text)))
    except (OSError, ValueError, yaml.YAMLError, StopIteration, RecursionError) as error:
        raise RegionFileError(f"{path}: {error}, expected JSON or YAML with boxes") from error
    if isinstance(found, dict) and isinstance(found.get("detections"), list):
        entries, read = found["detections"], _from_message
    elif isinstance(found, list):
        entries, read = found, _from_mapping
    else:
        raise RegionFileError(f"{path}: {type(found).__name__}, expected a list of {{box: [x1, y1, x2, y2]}} or a "
                              "vision_msgs/Detection2DArray")
    regions = []
    for place, entry in enumerate(entries, 1):
        try:
            regions.append(read(entry))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RegionFileError(f"{path}, entry {place}: {error!r} in {str(entry)[:200]}") from error
    return regions


def _from_mapping(entry: dict[str, Any]) -> Region:
    mask = _mask(entry["segmentation"]) if entry.get("segmentation") else None
    box = entry["box"] if mask is None else entry.get("box", [0.0] * 4)
    if len(box) != 4:
        raise ValueError(f"box has {len(box)} numbers, expected 4")
    x1, y1, x2, y2 = map(float, box)
    return Region(_text(entry.get("id")), (x1, y1, x2, y2), _text(entry.get("label")),
                  float(entry.get("score", 0.0)), mask)


def _mask(segmentation: Any) -> Mask:
    if isinstance(segmentation, dict):
        (height, width), counts = segmentation["size"], segmentation["counts"]
        return Mask.of_runs(width, height, run_lengths.decompress(counts) if isinstance(counts, str) else counts)
    return Mask.of_polygons([np.reshape(np.asarray(part, np.float64), (-1, 2)) for part in segmentation])


def _from_message(entry: dict[str, Any]) -> Region:
    box, centre = entry["bbox"], entry["bbox"]["center"]["position"]
    x, y, half_x, half_y = (float(v) for v in (centre["x"], centre["y"], box["size_x"] / 2, box["size_y"] / 2))
    hypotheses = [result["hypothesis"] for result in entry.get("results") or []]
    nothing: dict[str, Any] = {"class_id": "", "score": 0.0}
    best = max(hypotheses, key=lambda hypothesis: hypothesis["score"], default=nothing)
    return Region(_text(entry.get("id")), (x - half_x, y - half_y, x + half_x, y + half_y), _text(best["class_id"]),
                  float(best["score"]))


def _text(value: Any) -> str:
    return "" if value is None else str(value)

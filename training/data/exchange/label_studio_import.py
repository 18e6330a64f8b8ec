"""Tasks of Label Studio, as its export format JSON has them, to records."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from training.data.coco_format import declared_size, stream
from training.data.exchange.brush import decode_brush
from training.data.exchange.label_studio_export import CONVERSATIONS, DESCRIPTION, IMAGE
from training.data.exchange.pictures import copy_picture
from training.data.record import Filtered, RecordError
from training.data.record_file import RecordWriter, from_json, parts_of, picture_path
from training.data.report import Report
from training.data.segmentation import encode_mask, segmentation_region
from training.data.source import image_size

_SHAPES = {f"{shape}{labels}" for shape in ("rectangle", "polygon", "brush") for labels in ("", "labels")} | {"labels"}
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the names of uploaded files
_TURN = re.compile(r"^([QA]):", re.MULTILINE)

Json = dict[str, Any]


def import_label_studio(tasks: Path, images: Path, out: Path, report: Report) -> None:
    """Make a folder of pictures and records of tasks.

    Where a task has annotations, the newest is taken, else the newest prediction. Nothing is fetched: of a picture's
    address its path alone is used.

    Args:
        tasks: The file.
        images: Folder of the pictures, which are copied.
        out: Folder to make.
        report: Counts what is read and what is left out.

    Raises:
        RecordError: The file cannot be read or holds no tasks, or the folder has records already.
    """
    with RecordWriter(out) as writer:
        for task in stream(tasks, "item"):
            report.read += 1
            where = f"task {task.get('id', report.read) if isinstance(task, dict) else report.read}"
            with report.item(where):
                _convert(task, where, images, writer, report)
        if not report.read:
            raise RecordError(f"{tasks} holds no tasks: expected a list, as Label Studio's export format JSON has it")


def _convert(task: Any, where: str, images: Path, writer: RecordWriter, report: Report) -> None:
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise ValueError("it has no data; expected the export format JSON, not JSON-MIN")
    results, source = _results(task, report)
    address = _address(task["data"])
    path = _find(images, address)
    sizes = [declared_size({"width": result.get("original_width"), "height": result.get("original_height")})
             for result in results]
    size = image_size(str(path), next((declared for declared in sizes if declared), None), report)
    groups: dict[str, list[Json]] = {}
    conversations: list[Json] = []
    for result in results:
        with report.item(where):
            if not isinstance(result.get("value"), dict):
                raise ValueError(f"result has the value {str(result.get('value'))[:80]}, expected an object")
            if result.get("from_name") == CONVERSATIONS and result.get("type") == "textarea":
                for text in _texts(result["value"]["text"]):
                    with report.item(where):
                        conversations.append({"rounds": _rounds(text), "source": source or _predicted(result)})
            elif result.get("type") not in (*_SHAPES, "textarea", "choices"):
                raise Filtered(f"result of type {str(result.get('type'))[:40]}, which records have no place for")
            else:
                groups.setdefault(str(result["id"]), []).append(result)
    regions: dict[str, Json] = {}
    masks: list[tuple[str, Json]] = []
    for name, group in groups.items():
        with report.item(f"{where}: region {name[:100]}"):
            region = _region(name, group, size, source, report)
            parent = next((str(result["parentID"]) for result in group if result.get("parentID")), "")
            if parent and "mask" in region:
                masks.append((parent, region))
            else:
                regions[name] = region
    for parent, region in masks:  # a brush that belongs to a box is the box's mask
        if parent in regions:
            regions[parent]["mask"] = region["mask"]
        else:
            regions[region["id"]] = region
    origin = task["data"].get("origin")
    if not isinstance(origin, dict) or not all(isinstance(text, str) for text in origin.values()):
        origin = {"label_studio": address}
    file = copy_picture(writer, path, report.kept)
    record = from_json(
        {"file": file, "width": size[0], "height": size[1], "regions": list(regions.values()),
         "conversations": conversations, "origin": origin}, parts_of(report, where))
    writer.write(record)
    report.kept += 1
    report.count("regions", len(record.regions))
    report.count("conversations", len(record.conversations))


def _results(task: Json, report: Report) -> tuple[list[Json], str]:
    """The results of its newest annotation, and "person"; else those of its newest prediction, and ""."""
    given = _objects(task.get("annotations"), "annotations")
    annotations = [item for item in given if not item.get("was_cancelled")]
    if given and not annotations:
        raise Filtered("task that was skipped")
    chosen = annotations or _objects(task.get("predictions"), "predictions")
    if len(chosen) > 1:
        report.note("task with several annotations or predictions, of which the newest is taken")
    newest = max(chosen, key=lambda item: (bool(item.get("ground_truth")), str(item.get("updated_at", ""))), default={})
    return _objects(newest.get("result"), "result"), "person" if annotations else ""


def _objects(value: Any, what: str) -> list[Json]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{what} is {str(value)[:80]}, expected a list of objects")
    return value


def _address(data: Json) -> str:
    """Where Label Studio has the picture."""
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    if IMAGE in texts:
        return texts[IMAGE]
    found = [value for value in texts.values() if urlsplit(unquote(value)).path.lower().endswith(_PICTURES)
             or "?d=" in value]
    if len(found) != 1:
        raise ValueError(f"data has {len(found)} pictures, expected one, or one called {IMAGE}")
    return found[0]


def _find(folder: Path, address: str) -> Path:
    """Find a picture by the end of its path that is there, the longest first."""
    parts = urlsplit(address)
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    names = [part for part in PurePosixPath(path).parts if part != "/"]
    if not names or parts.scheme == "data":
        raise ValueError(f"picture {address[:200]!r} has no path")
    for first in range(len(names)):
        tail = names[first:]
        for name in dict.fromkeys((tail[-1], _UPLOADED.sub("", tail[-1]))):
            try:
                return picture_path(folder, "/".join([*tail[:-1], name]))
            except ValueError:
                continue
    raise ValueError(f"picture {address[:200]!r} is not in the folder {folder}")


def _region(name: str, group: list[Json], size: tuple[int, int], source: str, report: Report) -> Json:
    """The fields of a region, of all results that have its id."""
    region: Json = {"id": name, "source": source}
    texts: dict[str, str] = {}
    choices: dict[str, str] = {}
    for result in group:
        kind, value = result["type"], result["value"]
        if result.get("image_rotation"):
            raise Filtered("region of a picture that was turned in the editor")
        if kind in _SHAPES:
            region |= _shape(value, size, report) | _label(value.get(kind), report)
            if not source:
                region |= {"source": _predicted(result), "confidence": result.get("score")}
        else:
            said = ", ".join(_texts(value["text" if kind == "textarea" else "choices"]))
            (texts if kind == "textarea" else choices)[str(result["from_name"])] = said
    if "box" not in region:
        raise Filtered("text or choice about a whole picture")
    if len(texts) == 1:  # the one text of a region describes it, whatever its control is called
        texts = {DESCRIPTION: next(iter(texts.values()))}
    return region | {"description": texts.pop(DESCRIPTION, ""), "attributes": texts | choices}


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"text is {str(value)[:80]}, expected texts")
    return texts


def _predicted(result: Json) -> str:
    """Who said what a prediction holds."""
    meta = result.get("meta")
    return meta.get("source", "model") if isinstance(meta, dict) else "model"


def _label(labels: Any, report: Report) -> Json:
    if not labels:
        return {}
    if not isinstance(labels, list):
        raise ValueError(f"labels are {str(labels)[:80]}, expected a list")
    if len(labels) > 1:
        report.note("region with several labels, of which the first is its name")
    return {"name": labels[0]}


def _shape(value: Json, size: tuple[int, int], report: Report) -> Json:
    """Box and perhaps mask, in pixels."""
    if "rle" in value:
        mask = encode_mask(decode_brush(value["rle"], size))
        return {"mask": mask, "box": list(map(float, segmentation_region(mask, size).box))}
    pixels = np.asarray(size) / 100
    if "points" in value:
        points = np.asarray(value["points"], np.float64).reshape(-1, 2) * pixels
    else:
        place = np.asarray([float(value[side]) for side in ("x", "y", "width", "height")])
        points = _corners(place[:2] * pixels, place[2:] * pixels, float(value.get("rotation") or 0))
    if not np.isfinite(points).all():
        raise ValueError(f"its shape is not finite: {str(value)[:200]}")
    points = np.clip(points, 0, size)
    low, high = points.min(axis=0), points.max(axis=0)
    if (high <= low).any():
        raise ValueError(f"its shape is empty or outside of the picture: {str(value)[:200]}")
    shape: Json = {"box": [*low.tolist(), *high.tolist()]}
    if "points" in value or value.get("rotation"):
        shape["mask"] = [points.reshape(-1).tolist()]
        segmentation_region(shape["mask"], size)
        if "points" not in value:
            report.note("rotated rectangle: its box is the one around it, its mask has its shape")
    return shape


def _corners(first: np.ndarray, sides: np.ndarray, rotation: float) -> np.ndarray:
    """Corners of a rectangle that is turned clockwise about its first one, the upper left, by degrees."""
    sine, cosine = math.sin(math.radians(rotation)), math.cos(math.radians(rotation))
    turned = np.asarray([(0, 0), (1, 0), (1, 1), (0, 1)]) * sides @ np.asarray([(cosine, sine), (-sine, cosine)])
    return first + turned


def _rounds(text: str) -> list[list[str]]:
    before, *parts = _TURN.split(text)
    if before.strip() or len(parts) % 4 or any(letter != "QA"[place % 2] for place, letter in enumerate(parts[::2])):
        raise ValueError(f"conversation is {text[:80]!r}, expected lines that begin with Q: and A: by turns")
    return [[parts[place].strip(), parts[place + 2].strip()] for place in range(1, len(parts), 4)]

"""Detector results: boxes, labels and scores of many images in one file, as JSON, npz or the release's pickle.

JSON: {"class_names": [...], "results": [{"filename", "pred_bboxes": [[x1, y1, x2, y2, score], …], "labels": [...]}]},
or the list of results alone. Boxes are normalised to 0..1 of the image's width and height. npz: the same in flat arrays
(`filenames`, `offsets` [N + 1], `boxes` [M, 5], `labels` [M], `class_names`). A pickle is the list of results; it is
read once, by an unpickler that admits numpy arrays and nothing else, and written again as npz.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ros_gpt4roi.regular_file import write_whole
from training.data.record import RecordError, explain

# numpy 1 and 2 name the same function by different modules.
_ADMITTED = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
}


@dataclass(frozen=True)
class Detections:
    """Results of a detector over a set of images.

    Attributes:
        filenames: N names.
        offsets: int64 [N + 1], image i's rows are offsets[i]:offsets[i + 1].
        boxes: float32 [M, 5], x1 y1 x2 y2 normalised to the image, score.
        labels: int64 [M], places in class_names.
        class_names: May be empty where the file has none; `named` sets them.
    """

    filenames: tuple[str, ...]
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = len(self.boxes)
        if self.boxes.shape != (rows, 5) or self.labels.shape != (rows,):
            raise RecordError(f"detections: boxes {list(self.boxes.shape)} and labels {list(self.labels.shape)}, "
                              "expected [M, 5] and [M]")
        if len(self.offsets) != len(self.filenames) + 1 or list(self.offsets[[0, -1]]) != [0, rows] or (
            np.diff(self.offsets) < 0
        ).any():
            raise RecordError(f"detections: offsets do not divide {rows} rows among {len(self.filenames)} images")
        sides = self.boxes[:, :4]
        if not np.isfinite(self.boxes).all() or sides.min(initial=0) < -1 or sides.max(initial=0) > 2:
            raise RecordError("detections: boxes must be normalised to 0..1 of the image")
        if rows and self.labels.min() < 0:
            raise RecordError(f"detections: label {self.labels.min()} is negative")
        if self.class_names and rows and self.labels.max() >= len(self.class_names):
            raise RecordError(f"detections: label {self.labels.max()} but only {len(self.class_names)} class names")
        if len(set(self.class_names)) != len(self.class_names):
            raise RecordError("detections: a class name is there twice")

    def named(self, class_names: Sequence[str]) -> Detections:
        """Return the same with class names; raises RecordError where there are fewer names than labels."""
        return Detections(self.filenames, self.offsets, self.boxes, self.labels, tuple(class_names))

    def rows(self, place: int) -> slice:
        """Return where the boxes and labels of the image at ``place`` are."""
        return slice(int(self.offsets[place]), int(self.offsets[place + 1]))


def pack(results: Sequence[dict[str, Any]], class_names: Sequence[str] = ()) -> Detections:
    """Detections of a list of results. Raises RecordError where one is malformed, naming it."""
    filenames, boxes, labels, offsets = [], [], [], [0]
    for place, result in enumerate(results):
        try:
            name = str(result["filename"])
            own = np.asarray(result["pred_bboxes"], np.float32).reshape(-1, 5)
            marks = np.asarray(result["labels"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"detections: result {place}: {explain(error)}") from None
        if marks.shape != (len(own),) or (len(own) and not np.issubdtype(marks.dtype, np.integer)):
            raise RecordError(f"detections: {name}: {len(own)} boxes and labels of {marks.dtype} {list(marks.shape)}")
        filenames.append(name)
        boxes.append(own)
        labels.append(marks.astype(np.int64))
        offsets.append(offsets[-1] + len(own))
    return Detections(
        tuple(filenames), np.asarray(offsets, np.int64), np.concatenate([np.zeros((0, 5), np.float32), *boxes]),
        np.concatenate([np.zeros(0, np.int64), *labels]), tuple(class_names),
    )


def load_detections(path: Path) -> Detections:
    """Read a .json or .npz file. Raises RecordError for anything else, a pickle included."""
    path = Path(path)
    if not path.is_file():
        raise RecordError(f"{path} does not exist")
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_bytes())
            if isinstance(content, list):
                return pack(content)
            return pack(content["results"], content.get("class_names", ()))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return Detections(
                    tuple(map(str, file["filenames"])), file["offsets"], file["boxes"], file["labels"],
                    tuple(map(str, file["class_names"])),
                )
    except Exception as error:  # a damaged archive raises whatever its parts run into
        raise RecordError(f"{path}: {explain(error)}") from error
    raise RecordError(f"{path}: expected .json or .npz; "
                      "convert a pickle once: python -m training.data convert in.pkl out.npz")


def save_detections(detections: Detections, path: Path) -> None:
    """Write .npz or .json, atomically."""
    path = Path(path)
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, filenames=np.asarray(detections.filenames, np.str_), offsets=detections.offsets,
            boxes=detections.boxes, labels=detections.labels, class_names=np.asarray(detections.class_names, np.str_),
        )
        content = buffer.getvalue()
    elif path.suffix == ".json":
        results = [
            {"filename": name, "pred_bboxes": detections.boxes[detections.rows(place)].round(6).tolist(),
             "labels": detections.labels[detections.rows(place)].tolist()}
            for place, name in enumerate(detections.filenames)
        ]
        content = json.dumps({"class_names": list(detections.class_names), "results": results}).encode()
    else:
        raise RecordError(f"{path}: expected .json or .npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def load_class_names(path: Path) -> tuple[str, ...]:
    """Read class names in the order of their labels.

    Args:
        path: A text file, one name a line, or a JSON file: a list, or one with COCO's and LVIS's "categories".

    Returns:
        The names.

    Raises:
        RecordError: It is none of these.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        content = json.loads(text)
        if isinstance(content, dict):
            # Labels are places in the order of the ids.
            content = [item["name"] for item in sorted(content["categories"], key=lambda item: item["id"])]
        return tuple(map(str, content))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"{path}: {explain(error)}, expected class names") from error


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed: only numpy arrays are")
        return super().find_class(module, name)


def load_pickle(path: Path) -> Detections:
    """Read the release's pickle, admitting numpy arrays only. Raises RecordError where it holds anything else."""
    try:
        with Path(path).open("rb") as file:
            content = _ArraysOnly(file).load()
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        raise RecordError(f"{path}: {explain(error)}") from error
    if not isinstance(content, list):
        raise RecordError(f"{path}: holds a {type(content).__name__}, expected a list of results")
    return pack(content)

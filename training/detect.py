"""Runs a detector over a folder of images.

    python -m training.detect IMAGES --detector NAME --weights PATH --out FILE

writes what training/data/detections.py reads. The detector comes from a local path: a state dict of one of
torchvision's Faster R-CNNs, or a folder of any of transformers' object detectors, such as RT-DETR. Finished images are
kept in FILE.partial; the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torchvision.models import detection
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from ros_gpt4roi.image_file import ImageFileError, read_image
from training.data.detections import load_class_names, pack, save_detections
from training.data.record import RecordError
from training.data.report import Malformed
from training.errors import tells_errors

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TORCHVISION = {
    "fasterrcnn_resnet50_fpn": detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "fasterrcnn_resnet50_fpn_v2": detection.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    "fasterrcnn_mobilenet_v3_large_fpn": detection.FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1,
    "fasterrcnn_mobilenet_v3_large_320_fpn": detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1,
}
_NO_CLASS = ("__background__", "N/A")


class Found(NamedTuple):
    """What a detector found in one image.

    Attributes:
        boxes: float32 [M, 4], x1 y1 x2 y2 in pixels.
        scores: float32 [M].
        labels: int64 [M], the detector's own.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detector(NamedTuple):
    """An object detector.

    Attributes:
        find: uint8 RGB images [H, W, 3] of any sizes → what is in each.
        names: Name of every label, by its number.
    """

    find: Callable[[Sequence[np.ndarray]], list[Found]]
    names: tuple[str, ...]


def torchvision_detector(name: str, weights: Path, class_names: Sequence[str] | None, device: str) -> Detector:
    """Load one of torchvision's detectors with local weights.

    Args:
        name: A key of `TORCHVISION`.
        weights: A state dict, .pth (only tensors are unpickled) or .safetensors.
        class_names: For weights that are not COCO's; label 0 is the background.
        device: Where it runs.

    Returns:
        The detector.

    Raises:
        RecordError: The weights cannot be read or do not fit.
    """
    names = tuple(class_names or TORCHVISION[name].meta["categories"])
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=len(names))
    state = _read(load_file if weights.suffix == ".safetensors" else _load_tensors, weights)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise RecordError(f"{weights} does not fit {name} of {len(names)} classes: {str(error)[:300]}") from error
    model.eval().to(device)

    @torch.inference_mode()
    def find(images: Sequence[np.ndarray]) -> list[Found]:
        batch = [torch.from_numpy(image.copy()).to(device).permute(2, 0, 1) / 255 for image in images]
        return [Found(*(out[key].cpu().numpy() for key in ("boxes", "scores", "labels"))) for out in model(batch)]

    return Detector(find, names)


def transformers_detector(folder: Path, score: float, device: str) -> Detector:
    """Load an object detector of transformers with its image processor.

    Args:
        folder: A local folder of both.
        score: Least score that it reports.
        device: Where it runs.

    Returns:
        The detector.

    Raises:
        RecordError: The folder cannot be read.
    """
    processor = _read(lambda path: AutoImageProcessor.from_pretrained(path, local_files_only=True), folder)
    model = _read(lambda path: AutoModelForObjectDetection.from_pretrained(path, local_files_only=True), folder)
    model.eval().to(device)
    names = model.config.id2label

    @torch.inference_mode()
    def find(images: Sequence[np.ndarray]) -> list[Found]:
        inputs = processor(images=list(images), input_data_format="channels_last", return_tensors="pt").to(device)
        sizes = [image.shape[:2] for image in images]
        results = processor.post_process_object_detection(model(**inputs), threshold=score, target_sizes=sizes)
        return [Found(*(out[key].cpu().numpy() for key in ("boxes", "scores", "labels"))) for out in results]

    return Detector(find, tuple(names[number] for number in range(len(names))))


def _load_tensors(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read(load: Callable[[Path], Any], path: Path) -> Any:
    if not path.exists():
        raise RecordError(f"{path} does not exist")
    try:
        return load(path)
    except Exception as error:  # every loader has its own ways to fail
        raise RecordError(f"{path}: {type(error).__name__}: {str(error)[:300]}") from error


def find_images(folder: Path) -> list[str]:
    """List all images under a folder by their endings.

    Args:
        folder: Searched with all its subfolders.

    Returns:
        Their paths relative to the folder, sorted.

    Raises:
        RecordError: There are none.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not names:
        raise RecordError(f"{folder}: no images ({', '.join(SUFFIXES)})")
    return names


def detect(detector: Detector, folder: Path, out: Path, settings: dict[str, Any], score: float, max_boxes: int,
           batch: int, malformed_limit: int) -> int:
    """Run a detector over a folder of images; goes on where an interrupted run stopped.

    Args:
        detector: What is run.
        folder: Searched with all its subfolders.
        out: The file to write, .npz or .json.
        settings: What the results depend on; the partial file of other settings is refused.
        score: Least score that is kept.
        max_boxes: Most boxes that are kept of an image.
        batch: Images the detector is given at once.
        malformed_limit: Images that may be unreadable; they are logged and left out.

    Returns:
        How many images have results.

    Raises:
        RecordError: There are no images, too many are unreadable, or the partial file belongs to other settings.
    """
    if out.suffix not in (".npz", ".json"):
        raise RecordError(f"{out}: expected .npz or .json")
    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    results = _resume(partial, settings)
    done = {result["filename"] for result in results}
    names = find_images(folder)
    # Labels without a class (torchvision's COCO has eleven) are dropped, the others counted from 0.
    kept = [number for number, name in enumerate(detector.names) if name not in _NO_CLASS]
    place = np.full(len(detector.names), -1)
    place[kept] = np.arange(len(kept))
    malformed = Malformed(malformed_limit)
    waiting = [name for name in names if name not in done]
    with partial.open("a", encoding="utf-8") as file, tqdm(total=len(names), initial=len(done), unit=" images") as bar:
        for begin in range(0, len(waiting), batch):
            readable: list[tuple[str, np.ndarray]] = []
            for name in waiting[begin:begin + batch]:
                try:
                    readable.append((name, read_image(folder / name)))
                except ImageFileError as error:
                    malformed.fail(str(error))
            for (name, image), found in zip(readable, detector.find([i for _, i in readable]) if readable else ()):
                results.append(_result(name, image, found, place, score, max_boxes))
                file.write(json.dumps(results[-1]) + "\n")
            file.flush()
            bar.update(min(batch, len(waiting) - begin))
    results.sort(key=lambda result: result["filename"])
    save_detections(pack(results, [detector.names[number] for number in kept]), out)
    partial.unlink()
    return len(results)


def _result(name: str, image: np.ndarray, found: Found, place: np.ndarray, score: float,
            max_boxes: int) -> dict[str, Any]:
    labels = place[found.labels]
    order = np.argsort(-found.scores, kind="stable")
    good = (found.scores >= score) & (labels >= 0) & np.isfinite(found.boxes).all(1)
    order = order[good[order]][:max_boxes]
    height, width = image.shape[:2]
    boxes = (found.boxes[order] / [width, height, width, height]).clip(0, 1)
    rows = np.concatenate([boxes, found.scores[order, None]], axis=1)
    return {"filename": name, "pred_bboxes": rows.round(6).tolist(), "labels": labels[order].tolist()}


def _resume(partial: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What an interrupted run has written, its last line cut off where it is not whole."""
    if not partial.is_file():
        partial.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
        return []
    whole = partial.read_bytes()
    whole = whole[:whole.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{partial} is damaged: {error}; remove it to begin anew") from error
    if not lines or lines[0] != {"settings": settings}:
        raise RecordError(f"{partial} is of another detector or other settings; remove it, or name another file")
    os.truncate(partial, len(whole))
    return lines[1:]


@tells_errors(RecordError, interrupted="interrupted; the same command goes on from here")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.detect", description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder, searched with all its subfolders")
    parser.add_argument("--detector", choices=("transformers", *TORCHVISION), required=True)
    parser.add_argument("--weights", type=Path, required=True, help="state dict, or folder for transformers")
    parser.add_argument("--class-names", type=Path, help="for torchvision weights not of COCO; background first")
    parser.add_argument("--out", type=Path, required=True, help=".npz or .json")
    parser.add_argument("--score", type=float, default=0.05, help="least score kept (default %(default)s)")
    parser.add_argument("--max-boxes", type=int, default=100, help="of an image (default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images at once (default %(default)s)")
    parser.add_argument("--malformed-limit", type=int, default=100, help="unreadable images (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if options.detector == "transformers":
        detector = transformers_detector(options.weights, options.score, options.device)
    else:
        names = load_class_names(options.class_names) if options.class_names else None
        detector = torchvision_detector(options.detector, options.weights, names, options.device)
    settings = {"detector": options.detector, "weights": str(options.weights.resolve()), "score": options.score,
                "max_boxes": options.max_boxes, "images": str(options.images.resolve()), "names": list(detector.names)}
    count = detect(detector, options.images, options.out, settings, options.score, options.max_boxes, options.batch,
                   options.malformed_limit)
    print(f"{options.out}: {count} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The tabletop as a data set: scenes rendered once to disk, texts drawn anew every epoch.

    python -m training.data.tabletop render --scenes 32000 --split train --seed 1 --out runs/scenes/train --workers 2

renders to shards of SHARD scenes: `shard-00000.npy`, the network's inputs, uint8 RGB [n, S, S, 3], and
`shard-00000.jsonl`, the ground truth, a line a scene; a shard without its .jsonl is not finished. With --masks there is
`shard-00000.masks.jsonl`, too: of each scene the run lengths of every object's mask over its box. The same command goes
on where it was interrupted; a larger --scenes, or --masks, adds to what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from torch.utils.data import Dataset
from tqdm import tqdm

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.model.checkpoint import CheckpointError, read_config
from ros_gpt4roi.model.config import ModelConfig, PreprocessConfig
from ros_gpt4roi.model.preprocess import preprocess_frame, preprocess_hash
from ros_gpt4roi.model.region_shapes import RegionInputs
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.regular_file import read_json, write_whole
from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.studio import RendererError
from ros_gpt4roi.sim.tabletop.conversations import conversation, recall_rounds, short_rounds
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.sim.tabletop.scene import SPLITS, Scene, SceneObject
from ros_gpt4roi.sim.tabletop.scoring import ATTRIBUTES

from ..errors import tells_errors
from .mixture import draw_points
from .record import Record, Round
from .sample import Sample, record_regions
from .segmentation import decode_mask, encode_mask

SHARD = 128
TEXTS = ("conversations", "captions", "recall")
ROUNDS = 12  # most, of a conversation
LOOK_UPS = 20  # of a scene, where texts are "recall"
MANIFEST, LOCK, _MASKS = "dataset.json", ".lock", ".masks.jsonl"
_POINTS = 3  # random stream, beside those of from_scratch.augmentation
_LOCK_LIMIT_S = 4 * 3600
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
_NO_OWNER = np.zeros((0, 0), np.int8)


class TabletopError(RuntimeError):
    """Scenes that cannot be written or read; the message names the folder and what is wrong."""


@dataclass(frozen=True)
class TabletopOptions(Configuration):
    """A data section of kind tabletop."""

    split: str = setting(dataclasses.MISSING, "Which scenes; those of different splits never meet.", choices=SPLITS)
    scenes: int = setting(dataclasses.MISSING, "How many; they are rendered into the run's folder.", at_least=1)
    seed: int = setting(dataclasses.MISSING, "Of the scenes.", at_least=0)
    texts: str = setting("conversations", "conversations of several rounds, captions (a short description a region) or "
                                          "recall (terse look-ups among some of the regions).", choices=TEXTS)
    masks: bool = setting(False, "Show each object by the mask of its visible pixels, not by its whole box.")
    points: float = setting(0.0, "Share of the objects that are shown by a point inside them.", at_least=0, at_most=1)


# ---------------------------------------------------------------------------------------------- rendering

_renderer: TabletopRenderer | None = None


def _start_worker(width: int, height: int) -> None:
    global _renderer  # one a process: building it takes longer than dozens of pictures
    cv2.setNumThreads(1)
    _renderer = TabletopRenderer(width, height)


def _render_shard(stem: str, split: str, seed: int, first: int, count: int, preprocess: PreprocessConfig,
                  with_masks: bool) -> int:
    # Kept in memory and written at the end: a full disk kills whoever writes to a mapped file.
    images = np.empty((count, preprocess.image_size, preprocess.image_size, 3), np.uint8)
    lines, masks = [], []
    assert _renderer is not None
    for row in range(count):
        scene = _renderer.render(split, seed, first + row)
        images[row] = preprocess_frame(scene.image, preprocess)
        lines.append(_line([dataclasses.astuple(o) for o in scene.objects]))
        masks.append(_line([encode_mask(_mask(scene, o)) for o in scene.objects]))
    file = io.BytesIO()
    np.save(file, images)
    write_whole(stem + ".npy", file.getvalue())
    if with_masks:
        write_whole(stem + _MASKS, ("\n".join(masks) + "\n").encode())
    write_whole(stem + ".jsonl", ("\n".join(lines) + "\n").encode())
    return count


def _line(values: list[Any]) -> str:
    return json.dumps(values, separators=(",", ":"))


def _mask(scene: Scene, item: SceneObject) -> np.ndarray:
    left, top, right, bottom = item.box
    return scene.owner[top:bottom, left:right] == item.object_index


def _shards(scenes: int) -> list[tuple[str, int, int]]:
    """(stem, first scene, number of scenes) of every shard."""
    return [(f"shard-{first // SHARD:05d}", first, min(SHARD, scenes - first)) for first in range(0, scenes, SHARD)]


def _is_whole(folder: Path, stem: str, count: int, masks: bool) -> bool:
    try:
        images = np.load(folder / (stem + ".npy"), mmap_mode="r")  # which fails for a file that was cut short
        return len(images) >= count and all((folder / (stem + suffix)).read_bytes().count(b"\n") >= count
                                            for suffix in (".jsonl", _MASKS)[:1 + masks])
    except (OSError, ValueError, EOFError):
        return False


def render_scenes(folder: str | Path, split: str, scenes: int, seed: int, workers: int = 2, width: int = 320,
                  height: int = 240, *, preprocess: PreprocessConfig, masks: bool = False) -> Path:
    """Renders scenes; what is there already is kept.

    Args:
        folder: Where they go.
        split: A name in scene.SPLITS.
        scenes: How many, the first of their split and seed.
        seed: Of the scenes.
        workers: Processes that render.
        width: Of the camera's frame, pixels.
        height: Likewise.
        preprocess: Of the model that they are for.
        masks: Keep the objects' masks, too.

    Returns:
        The folder.

    Raises:
        TabletopError: the folder holds other scenes, cannot be written or has no room.
        RendererError: nothing can be rendered.
        ValueError: a number or the split makes no sense.
    """
    if scenes < 1 or workers < 1:
        raise ValueError(f"scenes and workers must be at least 1, got {scenes} and {workers}")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    folder = Path(folder)
    manifest = {"split": split, "seed": seed, "width": width, "height": height,
                "preprocess": preprocess_hash(preprocess), "image_size": preprocess.image_size}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of several processes that train together one renders, the others wait and find everything there.
        with FileLock(folder / LOCK, timeout=_LOCK_LIMIT_S):
            _check_manifest(folder, manifest)
            begun = {path.name for path in folder.iterdir()}
            missing = [shard for shard in _shards(scenes)
                       if shard[0] + ".jsonl" not in begun or not _is_whole(folder, shard[0], shard[2], masks)]
            needed = sum(count for _, _, count in missing) * (3 * preprocess.image_size**2 + 4096)
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise TabletopError(f"{folder}: {scenes} scenes need {needed / 1e9:.1f} GB more, "
                                    f"but the disk has only {free / 1e9:.1f} GB free")
            manifest["scenes"] = scenes
            write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")
            if missing:
                _render_missing(folder, missing, manifest, workers, preprocess, masks)
    except OSError as error:
        raise TabletopError(f"{folder}: cannot write the scenes: {error.strerror or error}") from error
    return folder


def _render_missing(folder: Path, missing: Sequence[tuple[str, int, int]], manifest: dict[str, Any], workers: int,
                    preprocess: PreprocessConfig, masks: bool) -> None:
    split, scenes, size = manifest["split"], manifest["scenes"], (manifest["width"], manifest["height"])
    TabletopRenderer(*size).close()  # what is wrong with OpenGL is said here, once and clearly
    done = scenes - sum(count for _, _, count in missing)
    # Not forked: an OpenGL driver's threads do not survive that.
    pool = ProcessPoolExecutor(min(workers, len(missing)), get_context("spawn"), _start_worker, size)
    try:
        futures = [pool.submit(_render_shard, str(folder / stem), split, manifest["seed"], first, count, preprocess,
                               masks) for stem, first, count in missing]
        with tqdm(total=scenes, initial=done, unit=" scenes", desc=f"rendering {split}") as progress:
            for future in as_completed(futures):
                progress.update(future.result())
    except BrokenProcessPool as error:
        raise TabletopError(f"{folder}: a rendering process died (out of memory?); repeat the command") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _check_manifest(folder: Path, wanted: dict[str, Any]) -> None:
    path = folder / MANIFEST
    if not path.exists():
        return
    found = _read_manifest(folder)
    differing = [f"{key} {found.get(key)!r} instead of {value!r}"
                 for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise TabletopError(f"{path}: the folder holds other scenes ({', '.join(differing)}); name another folder")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise TabletopError(f"{path}: {error}, expected the manifest of rendered scenes") from error


# ---------------------------------------------------------------------------------------------- reading

class TabletopDataset(Dataset):
    """Rendered scenes with attributes and conversations.

    The order of a scene's regions and its texts are functions of seed, epoch and index.

    Args:
        folder: What `render_scenes` has filled.
        seed: Of the order of regions and of the texts.
        texts: "conversations" of at most 12 rounds, "captions" (a short description a region) or "recall"
            (terse look-ups among some of the regions).
        scenes: Read only so many; None: all.
        model: Of the model that is trained; it says how fine masks and how large points are (None: as published).
        masks: Show objects by the masks of their visible pixels.
        points: Share of the objects that are shown by a point instead.

    Raises:
        TabletopError: the folder is incomplete.
    """

    def __init__(self, folder: str | Path, seed: int = 0, texts: str = "conversations", scenes: int | None = None,
                 model: ModelConfig | None = None, masks: bool = False, points: float = 0.0) -> None:
        if texts not in TEXTS:
            raise ValueError(f"texts is {texts!r}, expected one of {TEXTS}")
        self.folder, self.seed, self.texts, self.epoch = Path(folder), seed, texts, 0
        self.model, self.masks, self.points = model or ModelConfig(), masks, points
        self.manifest = _read_manifest(self.folder)
        count = self.manifest["scenes"] if scenes is None else scenes
        self._truth: list[bytes] = []
        self._mask_lines: list[bytes] = []
        self._places: list[tuple[int, int]] = []
        self._stems = []
        for number, (stem, _, size) in enumerate(_shards(count)):
            if not _is_whole(self.folder, stem, size, masks):
                raise TabletopError(f"{self.folder}: {stem} is not finished; repeat the render command")
            self._stems.append(stem)
            lines = (self.folder / (stem + ".jsonl")).read_bytes().splitlines()[:size]
            if masks:
                kept = (self.folder / (stem + _MASKS)).read_bytes().splitlines()[:size]
                self._mask_lines += [line for line in kept if line != b"[]"]
            for row, line in enumerate(lines):
                if line != b"[]":
                    self._truth.append(line)
                    self._places.append((number, row))
        self._images: dict[int, np.ndarray] = {}

    @property
    def classes(self) -> tuple[int, ...]:
        """Number of classes of each attribute, in the order of ATTRIBUTES."""
        return tuple(len(values) for values in ATTRIBUTES.values())

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the attributes, in the same order."""
        return tuple(ATTRIBUTES)

    def set_epoch(self, epoch: int) -> None:
        """Chooses which texts the scenes get."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._truth)

    def scene(self, index: int) -> Scene:
        """The ground truth of one scene as it was rendered, without its pixels."""
        objects = tuple(SceneObject(kind, colour, size, material, tuple(box), visible, tuple(place), distance, identity)
                        for kind, colour, size, material, box, visible, place, distance, identity
                        in json.loads(self._truth[index]))
        number, row = self._places[index]
        manifest = self.manifest
        return Scene(manifest["split"], manifest["seed"], number * SHARD + row, manifest["width"], manifest["height"],
                     _NO_PIXELS, _NO_OWNER, objects, (0.0, 0.0, 0.0), 0)

    def image(self, index: int) -> np.ndarray:
        """uint8 RGB [S, S, 3], the network's input."""
        number, row = self._places[index]
        if number not in self._images:
            self._images[number] = np.load(self.folder / (self._stems[number] + ".npy"), mmap_mode="r")
        return np.array(self._images[number][row])

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch, index]))
        scene = permuted(self.scene(index), rng)
        if self.texts == "recall":
            # Few regions are learned to be told apart before many.
            some = int(rng.integers(min(2, len(scene.objects)), len(scene.objects) + 1))
            scene = replace(scene, objects=scene.objects[:some])
            rounds = recall_rounds(scene, rng, LOOK_UPS)
        elif self.texts == "captions":
            rounds = short_rounds(scene)
        else:
            rounds = conversation(scene, rng, ROUNDS)
        attributes = np.array([[values.index(getattr(o, name)) for name, values in ATTRIBUTES.items()]
                               for o in scene.objects], np.int64)
        inputs, texts = self._regions(index, scene), [Round(turn.question, turn.answer, turn.task) for turn in rounds]
        return Sample(self.image(index), inputs.boxes, texts, attributes, inputs.masks, inputs.points)

    def _regions(self, index: int, scene: Scene) -> RegionInputs:
        """The objects of a scene, in its order, as this data set shows them."""
        masks: tuple[np.ndarray | None, ...] = ()
        if self.masks:
            stored = dict(zip((o.object_index for o in self.scene(index).objects), json.loads(self._mask_lines[index]),
                              strict=True))
            masks = tuple(decode_mask(stored[o.object_index]) for o in scene.objects)
        shape = np.broadcast_to(np.uint8(0), (scene.height, scene.width, 3))  # only its size is looked at
        record = Record(shape, scene.boxes(), (), f"{self.folder} {scene.index}", masks)
        if self.points:
            # A stream of its own: the texts stay those of the same scenes without points.
            rng = np.random.default_rng([self.seed, self.epoch, index, _POINTS])
            record = draw_points(record, self.points, rng)
        return record_regions(record, self.model)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, expected WIDTHxHEIGHT") from None
    return width, height


@tells_errors(TabletopError, RendererError, CheckpointError, ValueError,
              interrupted="interrupted; the same command goes on from here")
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.data.tabletop", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render", help="render scenes with their ground truth")
    render.add_argument("--scenes", type=int, required=True, metavar="N")
    render.add_argument("--split", choices=tuple(SPLITS), required=True)
    render.add_argument("--seed", type=int, required=True)
    render.add_argument("--out", type=Path, required=True, metavar="DIR")
    render.add_argument("--model", type=Path, default=find_model("tabletop"), metavar="DIR",
                        help="checkpoint folder of the model that they are for (default: the embedded one)")
    render.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default %(default)s)")
    render.add_argument("--size", type=_size, default=(320, 240), metavar="WxH", help="camera frame (default 320x240)")
    render.add_argument("--masks", action="store_true", help="keep the objects' masks, too")
    options = parser.parse_args(arguments)
    render_scenes(options.out, options.split, options.scenes, options.seed, options.workers, *options.size,
                  preprocess=read_config(options.model).preprocess, masks=options.masks)
    return 0


if __name__ == "__main__":
    sys.exit(main())

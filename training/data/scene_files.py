"""Scenes of a simulated world, rendered once to disk.

A world's own module (tabletop.py, household.py) says how they are rendered and written, and is the command:

    python -m training.data.tabletop render --scenes 32000 --split train --seed 1 --out runs/scenes/train --workers 2

renders to shards of SHARD scenes: `shard-00000.npy`, the network's inputs, uint8 RGB [n, S, S, 3], and
`shard-00000.jsonl`, the ground truth, a line a scene; a shard without its .jsonl is not finished. With --masks there is
`shard-00000.masks.jsonl`, too: of each scene the run lengths of every object's mask over its box. The same command goes
on where it was interrupted; a larger --scenes, or --masks, adds to what is there.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from filelock import FileLock
from tqdm import tqdm

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.model.checkpoint import CheckpointError, read_config
from ros_gpt4roi.model.config import PreprocessConfig
from ros_gpt4roi.model.preprocess import preprocess_frame, preprocess_hash
from ros_gpt4roi.paths import find_model_as_it_came
from ros_gpt4roi.regular_file import read_json, write_whole
from ros_gpt4roi.sim.household.catalogue import AssetsError
from ros_gpt4roi.sim.rendering import RenderedScene, WorldRenderer
from ros_gpt4roi.sim.studio import RendererError

from ..errors import tells_errors
from .segmentation import encode_mask

SHARD = 128
MANIFEST, LOCK, MASKS = "dataset.json", ".lock", ".masks.jsonl"
_LOCK_LIMIT_S = 4 * 3600

SceneType = TypeVar("SceneType", bound=RenderedScene[Any])


class ScenesError(RuntimeError):
    """Scenes that cannot be written or read; the message names the folder and what is wrong."""


@dataclass(frozen=True)
class World(Generic[SceneType]):
    """What is particular to a world, by functions and classes that another process finds by their names.

    Attributes:
        name: The module of `ros_gpt4roi.sim`, and the data section's kind.
        splits: Names of the splits.
        width: Of a camera frame where nothing else is asked for, pixels.
        height: Likewise.
        renderer: Makes its renderer for a width and height.
        scene: The class of its scenes.
        pack: A scene's ground truth as JSON takes it; an empty list where there is no region.
        unpack: What `pack` made → objects and camera position.
    """

    name: str
    splits: tuple[str, ...]
    width: int
    height: int
    renderer: Callable[[int, int], WorldRenderer[Any, SceneType]]
    scene: type[SceneType]
    pack: Callable[[SceneType], list[Any]]
    unpack: Callable[[list[Any]], tuple[tuple[Any, ...], tuple[float, float, float]]]


# ---------------------------------------------------------------------------------------------- rendering

_renderer: WorldRenderer[Any, Any] | None = None


def _start_worker(world: World[Any], width: int, height: int) -> None:
    global _renderer  # one a process: building it takes longer than dozens of pictures
    cv2.setNumThreads(1)
    _renderer = world.renderer(width, height)


def _render_shard(world: World[Any], stem: str, split: str, seed: int, first: int, count: int,
                  preprocess: PreprocessConfig, with_masks: bool) -> int:
    # Kept in memory and written at the end: a full disk kills whoever writes to a mapped file.
    images = np.empty((count, preprocess.image_size, preprocess.image_size, 3), np.uint8)
    lines, masks = [], []
    assert _renderer is not None
    for row in range(count):
        scene = _renderer.render(split, seed, first + row)
        images[row] = preprocess_frame(scene.image, preprocess)
        lines.append(_line(world.pack(scene)))
        masks.append(_line([encode_mask(_mask(scene, o)) for o in scene.objects]))
    file = io.BytesIO()
    np.save(file, images)
    write_whole(stem + ".npy", file.getvalue())
    if with_masks:
        write_whole(stem + MASKS, ("\n".join(masks) + "\n").encode())
    write_whole(stem + ".jsonl", ("\n".join(lines) + "\n").encode())
    return count


def _line(values: list[Any]) -> str:
    return json.dumps(values, separators=(",", ":"))


def _mask(scene: RenderedScene[Any], item: Any) -> np.ndarray:
    left, top, right, bottom = item.box
    return scene.owner[top:bottom, left:right] == item.object_index


def shards(scenes: int) -> Iterator[tuple[str, int, int]]:
    """(stem, first scene, number of scenes) of every shard of so many scenes."""
    return ((f"shard-{first // SHARD:05d}", first, min(SHARD, scenes - first)) for first in range(0, scenes, SHARD))


def is_whole(folder: Path, stem: str, count: int, masks: bool) -> bool:
    """Whether a shard holds so many scenes, and their masks where those are asked for."""
    try:
        images = np.load(folder / (stem + ".npy"), mmap_mode="r")  # which fails for a file that was cut short
        pictures = isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype == np.uint8
        return pictures and len(images) >= count and all((folder / (stem + suffix)).read_bytes().count(b"\n") >= count
                                                         for suffix in (".jsonl", MASKS)[:1 + masks])
    except (OSError, ValueError, EOFError):
        return False


def render_scenes(world: World[Any], folder: str | Path, split: str, scenes: int, seed: int, workers: int = 2,
                  width: int | None = None, height: int | None = None, *, preprocess: PreprocessConfig,
                  masks: bool = False) -> Path:
    """Renders scenes; what is there already is kept.

    Args:
        world: Whose scenes.
        folder: Where they go.
        split: A name among the world's.
        scenes: How many, the first of their split and seed.
        seed: Of the scenes.
        workers: Processes that render.
        width: Of the camera's frame, pixels; None: as the world has it.
        height: Likewise.
        preprocess: Of the model that they are for.
        masks: Keep the objects' masks, too.

    Returns:
        The folder.

    Raises:
        ScenesError: the folder holds other scenes, cannot be written or has no room.
        RendererError: nothing can be rendered.
        ValueError: a number or the split makes no sense.
    """
    if scenes < 1 or workers < 1 or seed < 0:
        raise ValueError(f"scenes and workers must be at least 1 and seed 0, got {scenes}, {workers} and {seed}")
    if split not in world.splits:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(world.splits)}")
    folder = Path(folder)
    size = world.width if width is None else width, world.height if height is None else height
    manifest = {"world": world.name, "split": split, "seed": seed, "width": size[0], "height": size[1],
                "preprocess": preprocess_hash(preprocess), "image_size": preprocess.image_size}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of several processes that train together one renders, the others wait and find everything there.
        with FileLock(folder / LOCK, timeout=_LOCK_LIMIT_S):
            _check_manifest(folder, manifest)
            begun = {path.name for path in folder.iterdir()}
            each, disk = 3 * preprocess.image_size**2 + 4096, shutil.disk_usage(folder)
            if scenes * each > disk.total:  # said before their shards are listed
                raise ScenesError(f"{folder}: {scenes} scenes need {scenes * each / 1e9:.1f} GB, "
                                  f"but the disk has only {disk.total / 1e9:.1f} GB, {disk.free / 1e9:.1f} GB free")
            missing = [shard for shard in shards(scenes)
                       if shard[0] + ".jsonl" not in begun or not is_whole(folder, shard[0], shard[2], masks)]
            needed = sum(count for _, _, count in missing) * each
            if needed > disk.free:
                raise ScenesError(f"{folder}: {scenes} scenes need {needed / 1e9:.1f} GB more, "
                                  f"but the disk has only {disk.free / 1e9:.1f} GB free")
            if missing:  # what is wrong with OpenGL or the size is said here, once, clearly, and before it is written
                world.renderer(*size).close()
            manifest["scenes"] = scenes
            write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")
            if missing:
                _render_missing(world, folder, missing, manifest, workers, preprocess, masks)
    except OSError as error:
        raise ScenesError(f"{folder}: cannot write the scenes: {error.strerror or error}") from error
    return folder


def _render_missing(world: World[Any], folder: Path, missing: Sequence[tuple[str, int, int]],
                    manifest: dict[str, Any], workers: int, preprocess: PreprocessConfig, masks: bool) -> None:
    split, scenes, size = manifest["split"], manifest["scenes"], (manifest["width"], manifest["height"])
    done = scenes - sum(count for _, _, count in missing)
    # Not forked: an OpenGL driver's threads do not survive that.
    pool = ProcessPoolExecutor(min(workers, len(missing)), get_context("spawn"), _start_worker, (world, *size))
    try:
        futures = [pool.submit(_render_shard, world, str(folder / stem), split, manifest["seed"], first, count,
                               preprocess, masks) for stem, first, count in missing]
        with tqdm(total=scenes, initial=done, unit=" scenes", desc=f"rendering {split}") as progress:
            for future in as_completed(futures):
                progress.update(future.result())
    except BrokenProcessPool as error:
        raise ScenesError(f"{folder}: a rendering process died (out of memory?); repeat the command") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _check_manifest(folder: Path, wanted: dict[str, Any]) -> None:
    path = folder / MANIFEST
    if not path.exists():
        return
    found = read_manifest(folder)
    found.setdefault("world", "tabletop")  # manifests of before there were two
    differing = [f"{key} {found.get(key)!r} instead of {value!r}"
                 for key, value in wanted.items() if found.get(key) != value]
    if differing:
        raise ScenesError(f"{path}: the folder holds other scenes ({', '.join(differing)}); name another folder")


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder of scenes says that it holds. Raises ScenesError."""
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
        if not isinstance(manifest, dict) or type(manifest.get("scenes")) is not int:
            raise ValueError("it has no number of scenes")
        return manifest
    except (OSError, ValueError) as error:
        raise ScenesError(f"{path}: {error}, expected the manifest of rendered scenes") from error


# ---------------------------------------------------------------------------------------------- command

def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, expected WIDTHxHEIGHT") from None
    return width, height


def render_command(world: World[Any], arguments: Sequence[str] | None) -> int:
    """The command line of a world's module; returns the exit status."""
    return tells_errors(ScenesError, AssetsError, RendererError, CheckpointError, ConfigError, ValueError,
                        interrupted="interrupted; the same command goes on from here")(
        lambda given: _render_command(world, given))(arguments)


def _render_command(world: World[Any], arguments: Sequence[str] | None) -> int:
    default = f"{world.width}x{world.height}"
    parser = argparse.ArgumentParser(prog=f"python -m training.data.{world.name}", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render", help="render scenes with their ground truth")
    render.add_argument("--scenes", type=int, required=True, metavar="N")
    render.add_argument("--split", choices=world.splits, required=True)
    render.add_argument("--seed", type=int, required=True)
    render.add_argument("--out", type=Path, required=True, metavar="DIR")
    render.add_argument("--model", default=world.name, metavar="DIR",
                        help="checkpoint folder or name of the model that they are for (default: the world's own)")
    render.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default %(default)s)")
    render.add_argument("--size", type=_size, default=(world.width, world.height), metavar="WxH",
                        help=f"camera frame (default {default})")
    render.add_argument("--masks", action="store_true", help="keep the objects' masks, too")
    options = parser.parse_args(arguments)
    config = read_config(find_model_as_it_came(options.model), whole=False)
    render_scenes(world, options.out, options.split, options.scenes, options.seed, options.workers, *options.size,
                  preprocess=config.preprocess, masks=options.masks)
    return 0

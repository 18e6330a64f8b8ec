"""Rendered worlds as data sets: their scenes lie on disk (scene_files.py), their texts are drawn anew every epoch."""

from __future__ import annotations

import dataclasses
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
from torch.utils.data import Dataset

from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.model.config import ModelConfig
from ros_gpt4roi.model.region_shapes import RegionInputs
from ros_gpt4roi.sim.conversations import permuted
from ros_gpt4roi.sim.text_rounds import TextRound

from .augmentation import moved_edges
from .mixture import draw_points
from .record import Record, Round
from .sample import Sample, record_regions
from .scene_files import MASKS, SHARD, ScenesError, SceneType, World, is_whole, read_manifest, shards
from .segmentation import decode_mask

ROUNDS = 12  # most, of a conversation
LOOK_UPS = 20  # most, of a scene whose texts are "recall"
_POINTS, _JITTER, _MASKED = 3, 4, 5  # random streams, beside those of from_scratch.augmentation
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
_NO_OWNER = np.zeros((0, 0), np.int8)


@dataclass(frozen=True)
class RenderedOptions(Configuration):
    """A data section of a rendered world; `texts` as the world's data set has them."""

    split: str = setting(dataclasses.MISSING, "Which scenes; those of different splits never meet.")
    scenes: int = setting(dataclasses.MISSING, "How many; they are rendered into the run's folder.", at_least=1)
    seed: int = setting(dataclasses.MISSING, "Of the scenes.", at_least=0)
    texts: str = setting("conversations", "What is said about them.")
    masks: float = setting(0.0, "Share of the objects that are shown by the mask of their visible pixels, not by their "
                                "whole box.", at_least=0, at_most=1)
    points: float = setting(0.0, "Share of the objects that are shown by a point inside them.", at_least=0, at_most=1)
    jitter: float = setting(0.0, "Part of its width or height by which each edge of a box moves at most, as a "
                                 "detector's do; not of masks.", at_least=0, at_most=0.4)


def some_of(scene: SceneType, rng: np.random.Generator) -> SceneType:
    """A scene with some of its objects, for look-ups: few regions are learned to be told apart before many."""
    count = len(scene.objects)
    return dataclasses.replace(scene, objects=scene.objects[:int(rng.integers(min(2, count), count + 1))])


class RenderedDataset(Dataset, Generic[SceneType]):
    """Rendered scenes with what is said about them.

    The order of a scene's regions and its texts are functions of seed, epoch and index.

    Args:
        folder: What `render_scenes` has filled.
        seed: Of the order of regions and of the texts.
        texts: A name in the class's `kinds_of_texts`.
        scenes: Read only so many; None: all.
        model: Of the model that is trained; it says how fine masks and how large points are (None: as published).
        masks: Share of the objects that are shown by the masks of their visible pixels.
        points: Share of the objects that are shown by a point instead.
        jitter: Part of its width or height by which each edge of a box moves at most.

    Raises:
        ScenesError: the folder is incomplete.
    """

    world: ClassVar[World[Any]]
    kinds_of_texts: ClassVar[tuple[str, ...]]
    attribute_values: ClassVar[Mapping[str, Sequence[Any]]]  # of the objects' attributes, by name

    def __init__(self, folder: str | Path, seed: int = 0, texts: str = "conversations", scenes: int | None = None,
                 model: ModelConfig | None = None, masks: float = 0.0, points: float = 0.0,
                 jitter: float = 0.0) -> None:
        if texts not in self.kinds_of_texts:
            raise ValueError(f"texts is {texts!r}, expected one of {self.kinds_of_texts}")
        self.folder, self.seed, self.texts, self.epoch = Path(folder), seed, texts, 0
        self.model, self.masks, self.points, self.jitter = model or ModelConfig(), masks, points, jitter
        self.manifest = read_manifest(self.folder)
        count = self.manifest["scenes"] if scenes is None else scenes
        self._truth: list[bytes] = []
        self._mask_lines: list[bytes] = []
        self._places: list[tuple[int, int]] = []
        self._stems = []
        for number, (stem, _, size) in enumerate(shards(count)):
            if not is_whole(self.folder, stem, size, masks > 0):
                raise ScenesError(f"{self.folder}: {stem} is not finished; repeat the render command")
            self._stems.append(stem)
            lines = (self.folder / (stem + ".jsonl")).read_bytes().splitlines()[:size]
            if masks:
                kept = (self.folder / (stem + MASKS)).read_bytes().splitlines()[:size]
                self._mask_lines += [line for line in kept if line != b"[]"]
            for row, line in enumerate(lines):
                if line != b"[]":
                    self._truth.append(line)
                    self._places.append((number, row))
        self._images: dict[int, np.ndarray] = {}

    @property
    def classes(self) -> tuple[int, ...]:
        """Number of classes of each attribute, in the order of `attribute_values`."""
        return tuple(len(values) for values in self.attribute_values.values())

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the attributes, in the same order."""
        return tuple(self.attribute_values)

    @abstractmethod
    def talk(self, scene: SceneType, rng: np.random.Generator) -> tuple[SceneType, Sequence[TextRound]]:
        """What is said about a scene.

        Args:
            scene: Its objects in the order of the regions, without pixels.
            rng: Draws the texts.

        Returns:
            The scene with the objects that are shown, and the texts.
        """

    def attributes(self, scene: SceneType) -> np.ndarray | None:
        """The classes of a scene's objects, as `Sample.attributes`; None where the world knows none."""
        return None

    def set_epoch(self, epoch: int) -> None:
        """Chooses which texts the scenes get."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._truth)

    def scene(self, index: int) -> SceneType:
        """The ground truth of one scene as it was rendered, without its pixels. Raises ScenesError."""
        number, row = self._places[index]
        try:
            objects, camera = self.world.unpack(json.loads(self._truth[index]))
        except (ValueError, TypeError, RecursionError) as error:
            file = self.folder / (self._stems[number] + ".jsonl")
            raise ScenesError(f"{file}: line {row + 1} is no scene ({error}); delete the file and repeat the render "
                              "command") from error
        manifest = self.manifest
        made: SceneType = self.world.scene(
            manifest["split"], manifest["seed"], number * SHARD + row, manifest["width"], manifest["height"],
            _NO_PIXELS, _NO_OWNER, objects, camera, 0)
        return made

    def image(self, index: int) -> np.ndarray:
        """uint8 RGB [S, S, 3], the network's input."""
        number, row = self._places[index]
        if number not in self._images:
            self._images[number] = np.load(self.folder / (self._stems[number] + ".npy"), mmap_mode="r")
        return np.array(self._images[number][row])

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch, index]))
        scene, turns = self.talk(permuted(self.scene(index), rng), rng)
        inputs = self._regions(index, scene)
        rounds = [Round(turn.question, turn.answer, turn.task) for turn in turns]
        return Sample(self.image(index), inputs.boxes, rounds, self.attributes(scene), inputs.masks, inputs.points)

    def _regions(self, index: int, scene: SceneType) -> RegionInputs:
        """The objects of a scene, in its order, as this data set shows them."""
        masks: tuple[np.ndarray | None, ...] = ()
        if self.masks:
            stored = dict(zip((o.object_index for o in self.scene(index).objects), json.loads(self._mask_lines[index]),
                              strict=True))
            masked = self._stream(index, _MASKED).random(len(scene.objects)) < self.masks
            masks = tuple(decode_mask(stored[o.object_index]) if shown else None
                          for o, shown in zip(scene.objects, masked))
        shape = np.broadcast_to(np.uint8(0), (scene.height, scene.width, 3))  # only its size is looked at
        record = Record(shape, scene.boxes(), (), f"{self.folder} {scene.index}", masks)
        # Streams of their own: the texts stay those of the same scenes without points, in their own boxes.
        if self.points:
            record = draw_points(record, self.points, self._stream(index, _POINTS))
        if self.jitter:
            moved = moved_edges(record.boxes, self.jitter, scene.width, scene.height, self._stream(index, _JITTER))
            for place in (place for place, mask in enumerate(masks) if mask is not None):
                moved[place] = record.boxes[place]  # a mask lies in its box
            record = dataclasses.replace(record, boxes=moved)
        return record_regions(record, self.model)

    def _stream(self, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, index, stream])

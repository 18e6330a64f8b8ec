"""Renders household scenes with MuJoCo, offscreen, with exact ground truth."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from ros_gpt4roi.sim.rendering import Box, WorldRenderer, point
from ros_gpt4roi.sim.studio import RendererError, set_lights, set_surface

from .catalogue import find_assets
from .layout import Layout, sample_layout
from .pool import SURFACE_SIZE, load_pool, models, surfaces
from .scene import SPLITS, TABLE, HouseholdObject, HouseholdScene, State
from .states import read_states
from .world import World

_WIDER = 2.0  # how much more a picture shows in which an object is alone


class HouseholdRenderer(WorldRenderer[Layout, HouseholdScene]):
    """Renders `HouseholdScene`s; methods as of `WorldRenderer`. Needs about 2.5 GB of memory.

    Args:
        width: Of the images, pixels.
        height: Likewise.

    Raises:
        ValueError: A side is out of range.
        AssetsError: The models are not installed.
        RendererError: No OpenGL is to be had.
    """

    splits, scene = SPLITS, HouseholdScene

    def __init__(self, width: int = 640, height: int = 480) -> None:
        self._assets = find_assets()
        super().__init__(width, height)
        self._alone = self._mujoco.MjvOption()
        self._alone.geomgroup[:] = (0, 0, 0, 0, 1, 0)
        self._alone.sitegroup[:] = 0
        self._states: dict[int, State] = {}

    def _build(self, mujoco: ModuleType) -> tuple[Any, Any]:
        self._world = World(mujoco, load_pool(mujoco, self.width, self.height))
        return self._world.model, self._world.data

    def _lay_out(self, rng: np.random.Generator, split: str) -> Layout:
        layout, world = sample_layout(rng, split), self._world
        world.lay_out(layout)
        middles = [world.extent(number)[0] for number in world.shown]
        middle = np.mean(middles, axis=0) if middles else np.zeros(3)
        places = {number: place for place, number in enumerate(world.shown)}
        self._states = {number: _renumbered(state, places) for number, state in read_states(world).items()}
        pictures = list(surfaces(self._assets, split == "unseen"))
        for surface, (chosen, tint) in enumerate(zip(layout.surfaces, layout.tints)):
            picture = _surface(pictures[int(chosen * len(pictures))])
            set_surface(self._mujoco, world.model, self._renderer, surface,
                        np.clip(picture * tint, 0, 255).astype(np.uint8))
        world.model.geom_rgba[self._board, :3] = layout.legs
        set_lights(world.model, layout.ambient, layout.lights)
        camera = dataclasses.replace(layout.camera, target=layout.camera.target + middle * (0.8, 0.8, 0.5))
        return dataclasses.replace(layout, camera=camera)

    def _through_camera(self, image: np.ndarray, spec: Layout, rng: np.random.Generator) -> np.ndarray:
        return _compressed(super()._through_camera(image, spec, rng), spec.quality)

    def _owners(self) -> np.ndarray:
        place_of_number = np.full(len(models()) + 1, -1, np.int8)  # the last is that of TABLE, for all else
        place_of_number[list(self._world.shown)] = np.arange(len(self._world.shown))
        return place_of_number[self._world.owners]

    def _object(self, place: int, box: Box, visible: float, position: np.ndarray) -> HouseholdObject:
        number = self._world.shown[place]
        middle, half = self._world.extent(number)
        name, model = models()[number]
        return HouseholdObject(name, model.colours, model.size, box, visible, point(middle), point(2 * half),
                               float(np.linalg.norm(middle - position)), place, self._states[number])

    def _area_alone(self, place: int, position: np.ndarray, rotation: np.ndarray) -> float:
        """Measured in an image that shows twice as much each way."""
        model, seen = self._model, self._world.known[self._world.shown[place]].seen
        fovy = float(model.cam_fovy[0])
        model.cam_fovy[0] = np.degrees(2 * np.arctan(_WIDER * np.tan(np.radians(fovy) / 2)))
        model.geom_group[seen] = 4
        self._renderer.update_scene(self._data, "camera", self._alone)
        pixels = np.count_nonzero(self._geoms() >= 0)
        model.geom_group[seen] = 1
        model.cam_fovy[0] = fovy
        return pixels * _WIDER ** 2


def _renumbered(state: State, places: dict[int, int]) -> State:
    """A state whose objects are named by their places in the scene instead of the models' numbers."""
    def named(numbers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(TABLE if number == TABLE else places[number] for number in numbers
                     if number == TABLE or number in places)

    inside = None if state.inside is None else (places[state.inside[0]], state.inside[1])
    return dataclasses.replace(state, on=named(state.on), inside=inside, under=named(state.under),
                               leaning_on=named(state.leaning_on), holds=named(state.holds))


@lru_cache(maxsize=64)
def _surface(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise RendererError(f"{path} is no picture that OpenCV can read")
    return cv2.resize(image, (SURFACE_SIZE, SURFACE_SIZE), interpolation=cv2.INTER_AREA)[:, :, ::-1]


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after a JPEG of that quality; 100 changes nothing."""
    if quality >= 100:
        return image
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))

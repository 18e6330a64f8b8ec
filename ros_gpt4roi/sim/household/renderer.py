"""Renders household scenes with MuJoCo, offscreen, with exact ground truth."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ros_gpt4roi.sim.studio import (
    RendererError,
    advice,
    import_mujoco,
    point_camera,
    set_lights,
    set_surface,
    through_sensor,
)

from .catalogue import find_assets
from .layout import Layout, sample_layout
from .pool import SURFACE_SIZE, load_pool, models, surfaces
from .scene import SPLITS, TABLE, HouseholdObject, HouseholdScene, State
from .states import read_states
from .world import World

MIN_VISIBLE = 0.25  # of an object's pixels, below which it is no region
MIN_SIDE = 8 / 240  # of the image's height, below which a box is no region

_WIDER = 2.0  # how much more a picture shows in which an object is alone


class HouseholdRenderer:
    """Renders `HouseholdScene`s, one after another; not for use from several threads at once.

    render_view(split, seed, index, step) gives the same bytes and boxes every time on one machine: scenes are drawn
    from SeedSequence([split number, seed, index]). Needs about 2.5 GB of memory.

    Args:
        width: Of the images, pixels.
        height: Likewise.

    Raises:
        ValueError: A side is out of range.
        AssetsError: The models are not installed.
        RendererError: No OpenGL is to be had.
    """

    def __init__(self, width: int = 640, height: int = 480) -> None:
        if min(width, height) < 32 or max(width, height) > 4096:
            raise ValueError(f"image size {width}×{height}: each side must be 32 to 4096 pixels")
        self.width, self.height = width, height
        self._assets = find_assets()
        self._mujoco = mujoco = import_mujoco()
        self._world = World(mujoco, load_pool(mujoco, width, height))
        model = self._world.model
        try:
            self._renderer = mujoco.Renderer(model, height, width, max_geom=model.ngeom + 8)
        except Exception as error:  # each GL backend fails with exceptions of its own
            raise RendererError(advice(error)) from error
        self._board = [model.geom(n).id for n in ("board", "leg-1-1", "leg-11", "leg1-1", "leg11")]
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = (1, 1, 1, 0, 0, 0)
        self._option.sitegroup[:] = 0
        self._alone = mujoco.MjvOption()
        self._alone.geomgroup[:] = (0, 0, 0, 0, 1, 0)
        self._alone.sitegroup[:] = 0
        self._shown: tuple[str, int, int] | None = None
        self._layout: Layout | None = None
        self._states: dict[int, State] = {}

    def close(self) -> None:
        """Frees the OpenGL context. A second call does nothing."""
        self._renderer.close()

    def __enter__(self) -> HouseholdRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, split: str, seed: int, index: int) -> HouseholdScene:
        """The scene from its first camera position; arguments and errors as of `render_view`."""
        return self.render_view(split, seed, index, 0)

    def render_view(self, split: str, seed: int, index: int, step: int) -> HouseholdScene:
        """The scene as a camera that circles it sees it.

        Args:
            split: A name in SPLITS; scenes of different splits never meet.
            seed: Chooses a sequence of scenes.
            index: The scene's place in that sequence, from 0.
            step: Steps that the camera has gone round, from 0.

        Returns:
            The scene; an object's object_index is the same in every view.

        Raises:
            ValueError: The split is unknown or a number negative.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
        if min(seed, index, step) < 0:
            raise ValueError(f"seed, index and step must be ≥ 0, got {seed}, {index}, {step}")
        entropy = [SPLITS[split], seed, index]
        if self._shown != (split, seed, index):
            self._apply(sample_layout(np.random.default_rng(np.random.SeedSequence(entropy)), split),
                        split == "unseen")
            self._shown = (split, seed, index)
        layout = self._layout
        assert layout is not None
        position, rotation = layout.camera.pose(step)
        world = self._world
        point_camera(self._mujoco, world.model, world.data, position, rotation, layout.camera.fovy)
        image, owner = self._draw()
        sensor_rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(step,)))
        image = _compressed(through_sensor(image, layout.sensor, sensor_rng), layout.quality)
        objects = self._ground_truth(owner, position)
        point_camera(self._mujoco, world.model, world.data, position, rotation, layout.camera.fovy)
        x, y, z = map(float, position)
        return HouseholdScene(split, seed, index, self.width, self.height, image, owner, objects, (x, y, z), step)

    def depth(self) -> np.ndarray:
        """How far what the last rendered view shows is, along the camera's axis: float32 [H, W], metres, exact."""
        self._renderer.update_scene(self._world.data, "camera", self._option)
        self._renderer.enable_depth_rendering()
        try:
            return np.array(self._renderer.render(), np.float32)
        finally:
            self._renderer.disable_depth_rendering()

    @property
    def focal(self) -> float:
        """Focal length of the last rendered view, both ways, in pixels; its principal point is the image's middle."""
        assert self._layout is not None  # rendered
        return self.height / 2 / float(np.tan(np.radians(self._layout.camera.fovy) / 2))

    def _apply(self, layout: Layout, unseen: bool) -> None:
        world = self._world
        world.lay_out(layout)
        middles = [world.extent(number)[0] for number in world.shown]
        middle = np.mean(middles, axis=0) if middles else np.zeros(3)
        camera = dataclasses.replace(layout.camera, target=layout.camera.target + middle * (0.8, 0.8, 0.5))
        self._layout = dataclasses.replace(layout, camera=camera)
        places = {number: place for place, number in enumerate(world.shown)}
        self._states = {number: _renumbered(state, places) for number, state in read_states(world).items()}
        pictures = list(surfaces(self._assets, unseen))
        for surface, (chosen, tint) in enumerate(zip(layout.surfaces, layout.tints)):
            picture = _surface(pictures[int(chosen * len(pictures))])
            set_surface(self._mujoco, world.model, self._renderer, surface,
                        np.clip(picture * tint, 0, 255).astype(np.uint8))
        world.model.geom_rgba[self._board, :3] = layout.legs
        set_lights(world.model, layout.ambient, layout.lights)

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 RGB [H, W, 3] and, for each pixel, the object_index seen there or −1, int8 [H, W]."""
        renderer, world = self._renderer, self._world
        renderer.update_scene(world.data, "camera", self._option)
        image = renderer.render()
        place_of_number = np.full(len(models()) + 1, -1, np.int8)
        place_of_number[list(world.shown)] = np.arange(len(world.shown))
        return image, place_of_number[world.owners[self._geoms()]]

    def _geoms(self) -> np.ndarray:
        """The geom that is seen at each pixel of what was drawn last, −1 where none."""
        self._renderer.enable_segmentation_rendering()
        try:
            found = self._renderer.render()
        finally:
            self._renderer.disable_segmentation_rendering()
        is_geom = found[..., 1] == int(self._mujoco.mjtObj.mjOBJ_GEOM)  # an enum is compared pixel by pixel
        return np.where(is_geom, found[..., 0], -1)

    def _ground_truth(self, owner: np.ndarray, position: np.ndarray) -> tuple[HouseholdObject, ...]:
        world, min_side, found = self._world, MIN_SIDE * self.height, []
        self._widen()
        for place, number in enumerate(world.shown):
            mask = owner == place
            columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            if not len(columns):
                continue
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            if min(box[2] - box[0], box[3] - box[1]) < min_side:
                continue
            visible = min(1.0, int(mask.sum()) / max(1.0, self._area_alone(number)))
            if visible < MIN_VISIBLE:
                continue
            middle, half = world.extent(number)
            name, model = models()[number]
            x, y, z = map(float, middle)
            wide, deep, high = map(float, 2 * half)
            found.append(HouseholdObject(name, model.colours, model.size, box, visible, (x, y, z), (wide, deep, high),
                                         float(np.linalg.norm(middle - position)), place, self._states[number]))
        return tuple(found)

    def _widen(self) -> None:
        model = self._world.model
        half = np.tan(np.radians(model.cam_fovy[0]) / 2)
        model.cam_fovy[0] = np.degrees(2 * np.arctan(_WIDER * half))

    def _area_alone(self, number: int) -> float:
        """Pixels that an object would cover alone, in an image that shows twice as much each way."""
        model, seen = self._world.model, self._world.known[number].seen
        model.geom_group[seen] = 4
        self._renderer.update_scene(self._world.data, "camera", self._alone)
        pixels = np.count_nonzero(self._geoms() >= 0)
        model.geom_group[seen] = 1
        return pixels * _WIDER ** 2


def _renumbered(state: State, places: dict[int, int]) -> State:
    """A state whose objects are named by their places in the scene instead of the models' numbers."""
    def named(numbers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(TABLE if number == TABLE else places[number] for number in numbers
                     if number == TABLE or number in places)

    inside = None if state.inside is None else (places[state.inside[0]], state.inside[1])
    return dataclasses.replace(state, on=named(state.on), inside=inside, under=named(state.under),
                               leaning_on=named(state.leaning_on))


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

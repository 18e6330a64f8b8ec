"""What renderers of simulated worlds have in common: a scene seen by a camera that circles it, with ground truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from .studio import CameraSpec, RendererError, SensorSpec, advice, import_mujoco, point_camera, through_sensor

MIN_VISIBLE = 0.25  # of an object's pixels, below which it is no region
MIN_SIDE = 8 / 240  # of the image's height, below which a box is no region

Item = TypeVar("Item", bound="Boxed")
SceneType = TypeVar("SceneType", bound="RenderedScene[Any]")
Spec = TypeVar("Spec", bound="Seen")
Box = tuple[int, int, int, int]


class Boxed(Protocol):
    """An object of a scene."""

    @property
    def box(self) -> Box:
        """Tight over its visible pixels, (x1, y1, x2, y2), pixel edges, x2 and y2 exclusive."""


class Seen(Protocol):
    """What is drawn for a scene."""

    @property
    def camera(self) -> CameraSpec:
        """The camera before its first step."""

    @property
    def sensor(self) -> SensorSpec:
        """Its sensor."""


@dataclass(frozen=True)
class RenderedScene(Generic[Item]):
    """A rendered view of a scene with its ground truth.

    Attributes:
        split: The name of the split that it belongs to.
        seed: The scene's seed.
        index: Its number among those of its split and seed.
        width: Of the image, pixels.
        height: Likewise.
        image: uint8 RGB [height, width, 3].
        owner: int8 [height, width], the object_index seen at each pixel, −1 where none (also of objects that are no
            regions).
        objects: By object_index, those visible enough to be a region.
        camera_position: (x, y, z), metres, table frame.
        step: Which view of the moving camera this is.
    """

    split: str
    seed: int
    index: int
    width: int
    height: int
    image: np.ndarray
    owner: np.ndarray
    objects: tuple[Item, ...]
    camera_position: tuple[float, float, float]
    step: int

    def boxes(self) -> np.ndarray:
        """The objects' boxes, float32 [N, 4], in the order of `objects`."""
        return np.array([o.box for o in self.objects], np.float32).reshape(-1, 4)


class WorldRenderer(ABC, Generic[Spec, SceneType]):
    """Renders scenes of one world, one after another; not for use from several threads at once.

    Scenes are drawn from SeedSequence([split number, seed, index]): they are the same bytes and boxes every time.

    Args:
        width: Of the images, pixels.
        height: Likewise.

    Raises:
        ValueError: A side is out of range.
        RendererError: No OpenGL is to be had.
    """

    splits: ClassVar[Mapping[str, int]]
    """Split name → its number."""
    scene: ClassVar[type[Any]]
    """The class of its scenes."""

    def __init__(self, width: int, height: int) -> None:
        if min(width, height) < 32 or max(width, height) > 4096:
            raise ValueError(f"image size {width}×{height}: each side must be 32 to 4096 pixels")
        self.width, self.height = width, height
        self._mujoco = mujoco = import_mujoco()
        self._model, self._data = self._build(mujoco)
        try:
            self._renderer = mujoco.Renderer(self._model, height, width, max_geom=self._model.ngeom + 8)
        except Exception as error:  # each GL backend fails with exceptions of its own
            raise RendererError(advice(error)) from error
        self._board = [self._model.geom(n).id for n in ("board", "leg-1-1", "leg-11", "leg1-1", "leg11")]
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = (1, 1, 1, 0, 0, 0)
        self._option.sitegroup[:] = 0
        self._shown: tuple[str, int, int] | None = None
        self._spec: Spec | None = None

    @abstractmethod
    def _build(self, mujoco: ModuleType) -> tuple[Any, Any]:
        """The compiled mujoco.MjModel with a room of `studio.add_room`, and its mujoco.MjData."""

    @abstractmethod
    def _lay_out(self, rng: np.random.Generator, split: str) -> Spec:
        """Draws a scene and puts it into the model."""

    @abstractmethod
    def _owners(self) -> np.ndarray:
        """The object_index that each geom belongs to, −1 where none: int8 [geoms + 1], the last for no geom."""

    @abstractmethod
    def _area_alone(self, place: int, position: np.ndarray, rotation: np.ndarray) -> float:
        """Pixels that the object of an object_index would cover alone in an image without borders."""

    @abstractmethod
    def _object(self, place: int, box: Box, visible: float, position: np.ndarray) -> Any:
        """The object of an object_index, seen from a position."""

    def _through_camera(self, image: np.ndarray, spec: Spec, rng: np.random.Generator) -> np.ndarray:
        """What the camera makes of a rendered image."""
        return through_sensor(image, spec.sensor, rng)

    def close(self) -> None:
        """Frees the OpenGL context. A second call does nothing."""
        self._renderer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, split: str, seed: int, index: int) -> SceneType:
        """The scene from its first camera position; arguments and errors as of `render_view`."""
        return self.render_view(split, seed, index, 0)

    def render_view(self, split: str, seed: int, index: int, step: int) -> SceneType:
        """The scene as a camera that circles it sees it.

        Args:
            split: A name in `splits`; scenes of different splits never meet.
            seed: Chooses a sequence of scenes.
            index: The scene's place in that sequence, from 0.
            step: Steps that the camera has gone round, from 0.

        Returns:
            The scene; an object's object_index is the same in every view.

        Raises:
            ValueError: The split is unknown or a number negative.
        """
        if split not in self.splits:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(self.splits)}")
        if min(seed, index, step) < 0:
            raise ValueError(f"seed, index and step must be ≥ 0, got {seed}, {index}, {step}")
        entropy = [self.splits[split], seed, index]
        if self._shown != (split, seed, index):
            self._spec = self._lay_out(np.random.default_rng(np.random.SeedSequence(entropy)), split)
            self._shown = (split, seed, index)
        spec = self._spec
        assert spec is not None
        position, rotation = spec.camera.pose(step)
        point_camera(self._mujoco, self._model, self._data, position, rotation, spec.camera.fovy)
        image, owner = self._draw()
        # A key of its own for the sensor: the scene's numbers don't depend on how many views are drawn.
        sensor_rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(step,)))
        image = self._through_camera(image, spec, sensor_rng)
        objects = self._ground_truth(owner, position, rotation)
        scene: SceneType = self.scene(split, seed, index, self.width, self.height, image, owner, objects,
                                      point(position), step)
        return scene

    def depth(self) -> np.ndarray:
        """How far what the last rendered view shows is, along the camera's axis: float32 [H, W], metres, exact."""
        self._renderer.update_scene(self._data, "camera", self._option)
        self._renderer.enable_depth_rendering()
        try:
            return np.array(self._renderer.render(), np.float32)
        finally:
            self._renderer.disable_depth_rendering()

    @property
    def focal(self) -> float:
        """Focal length of the last rendered view, both ways, in pixels; its principal point is the image's middle."""
        assert self._spec is not None  # rendered
        return self.height / 2 / float(np.tan(np.radians(self._spec.camera.fovy) / 2))

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 RGB [H, W, 3] and, for each pixel, the object_index seen there or −1, int8 [H, W]."""
        self._renderer.update_scene(self._data, "camera", self._option)
        image = self._renderer.render()
        return image, self._owners()[self._geoms()]

    def _geoms(self) -> np.ndarray:
        """The geom that is seen at each pixel of what was drawn last, −1 where none."""
        self._renderer.enable_segmentation_rendering()
        try:
            found = self._renderer.render()
        finally:
            self._renderer.disable_segmentation_rendering()
        is_geom = found[..., 1] == int(self._mujoco.mjtObj.mjOBJ_GEOM)  # an enum is compared pixel by pixel
        return np.where(is_geom, found[..., 0], -1)

    def _ground_truth(self, owner: np.ndarray, position: np.ndarray, rotation: np.ndarray) -> tuple[Any, ...]:
        found = []
        for place in range(int(self._owners().max()) + 1):
            mask = owner == place
            columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            if not len(columns):
                continue
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            if min(box[2] - box[0], box[3] - box[1]) < MIN_SIDE * self.height:
                continue
            visible = min(1.0, int(mask.sum()) / max(1.0, self._area_alone(place, position, rotation)))
            if visible >= MIN_VISIBLE:
                found.append(self._object(place, box, visible, position))
        return tuple(found)


def point(values: np.ndarray) -> tuple[float, float, float]:
    """Three numbers as Python's own."""
    x, y, z = map(float, values)
    return x, y, z

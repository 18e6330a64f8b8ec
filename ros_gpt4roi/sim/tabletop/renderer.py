"""Renders tabletop scenes with MuJoCo, offscreen, with exact ground truth.

Building a MuJoCo renderer takes far longer than a picture, so one scene with a pool of ten object slots is compiled
once and edited in place: a slot's mesh is exchanged through geom_dataid, everything else through the model's arrays.
"""

from __future__ import annotations

import cv2
import numpy as np

from ros_gpt4roi.sim.studio import (
    RendererError,
    add_room,
    advice,
    import_mujoco,
    point_camera,
    set_lights,
    set_surface,
    through_sensor,
)
from ros_gpt4roi.sim.tabletop.meshes import all_shapes
from ros_gpt4roi.sim.tabletop.scene import ALL_SPLITS, Scene, SceneObject
from ros_gpt4roi.sim.tabletop.scene_spec import MAX_OBJECTS, TABLE_HALF, SceneSpec, sample_scene_spec
from ros_gpt4roi.sim.tabletop.textures import SIZE as TEXTURE_SIZE

MIN_VISIBLE = 0.25  # of an object's pixels, below which it is no region
MIN_SIDE = 8 / 240  # of the image's height, below which a box is no region

_SHADOW_MAP = 1024
_TABLE_HEIGHT = 0.72
_OUTLINE_SIDE = 500  # sub-pixels along an object when its outline is measured
_SHINY = {"matte": (0.0, 0.0), "shiny": (1.0, 0.45)}  # material → MuJoCo specular, shininess


def _build_model(mujoco, width: int, height: int):
    """The compiled scene pool: room, table, camera, three lights and MAX_OBJECTS slots."""
    spec = mujoco.MjSpec()
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    spec.visual.quality.shadowsize, spec.visual.quality.offsamples = _SHADOW_MAP, 0
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 10.0
    spec.visual.map.shadowclip = 1.0
    spec.visual.headlight.active = 1
    spec.visual.headlight.diffuse, spec.visual.headlight.specular = [0, 0, 0], [0, 0, 0]
    spec.stat.extent, spec.stat.center = 1.0, [0, 0, 0]
    add_room(mujoco, spec, TABLE_HALF, _TABLE_HEIGHT, TEXTURE_SIZE, (6, 3, 2))
    for number, shape in enumerate(all_shapes()):
        mesh = spec.add_mesh(name=f"shape{number}", inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
        mesh.uservert, mesh.usernormal = shape.mesh.vertices.ravel(), shape.mesh.normals.ravel()
        mesh.userface = mesh.userfacenormal = shape.mesh.faces.ravel()
    for slot in range(MAX_OBJECTS):
        spec.add_material(name=f"slot{slot}")
        body = spec.worldbody.add_body(name=f"slot{slot}", mocap=True)
        body.add_geom(name=f"slot{slot}", type=mujoco.mjtGeom.mjGEOM_MESH, meshname="shape0", material=f"slot{slot}",
                      contype=0, conaffinity=0)
    return spec.compile()


class TabletopRenderer:
    """Renders `Scene`s, one after another; not for use from several threads at once.

    render(split, seed, index) gives the same bytes and boxes every time: scenes are drawn from
    SeedSequence([split number, seed, index]). Raises RendererError where no OpenGL is to be had.
    """

    def __init__(self, width: int = 320, height: int = 240) -> None:
        if min(width, height) < 32 or max(width, height) > 4096:
            raise ValueError(f"image size {width}×{height}: each side must be 32 to 4096 pixels")
        self.width, self.height = width, height
        self._mujoco = mujoco = import_mujoco()
        self._model = model = _build_model(mujoco, width, height)
        self._data = mujoco.MjData(model)
        try:
            self._renderer = mujoco.Renderer(model, height, width, max_geom=model.ngeom + 8)
        except Exception as error:  # each GL backend fails with exceptions of its own
            raise RendererError(advice(error)) from error
        self._slots = np.array([model.geom(f"slot{i}").id for i in range(MAX_OBJECTS)])
        self._board = [model.geom(n).id for n in ("board", "leg-1-1", "leg-11", "leg1-1", "leg11")]
        # The compiler notes geoms that coincide with their body and skips their poses; ours change with the mesh.
        model.geom_sameframe[self._slots] = 0
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = (1, 1, 1, 0, 0, 0)
        self._shown: tuple[str, int, int] | None = None
        self._spec: SceneSpec | None = None

    def close(self) -> None:
        """Frees the OpenGL context. A second call does nothing."""
        self._renderer.close()

    def __enter__(self) -> TabletopRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, split: str, seed: int, index: int) -> Scene:
        """The scene from its first camera position.

        Args:
            split: As of `render_view`.
            seed: Likewise.
            index: Likewise.

        Raises:
            ValueError: Likewise.
        """
        return self.render_view(split, seed, index, 0)

    def render_view(self, split: str, seed: int, index: int, step: int) -> Scene:
        """The scene as a camera that circles it sees it.

        Args:
            split: A name in ALL_SPLITS; scenes of different splits never meet.
            seed: Chooses a sequence of scenes.
            index: The scene's place in that sequence, from 0.
            step: Steps that the camera has gone round, from 0.

        Returns:
            The scene; an object's object_index is the same in every view.

        Raises:
            ValueError: The split is unknown or a number negative.
        """
        if split not in ALL_SPLITS:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(ALL_SPLITS)}")
        if min(seed, index, step) < 0:
            raise ValueError(f"seed, index and step must be ≥ 0, got {seed}, {index}, {step}")
        entropy = [ALL_SPLITS[split], seed, index]
        if self._shown != (split, seed, index):
            self._spec = sample_scene_spec(np.random.default_rng(np.random.SeedSequence(entropy)), split)
            self._apply(self._spec)
            self._shown = (split, seed, index)
        spec = self._spec
        assert spec is not None
        position, rotation = spec.camera.pose(step)
        point_camera(self._mujoco, self._model, self._data, position, rotation, spec.camera.fovy)
        image, owner = self._draw()
        # A key of its own for the sensor: the scene's numbers don't depend on how many views are drawn.
        sensor_rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(step,)))
        image = through_sensor(image, spec.sensor, sensor_rng)
        objects = self._ground_truth(spec, owner, position, rotation)
        return Scene(split, seed, index, self.width, self.height, image, owner, objects, _point(position), step)

    def depth(self) -> np.ndarray:
        """How far what the last rendered view shows is, along the camera's axis: float32 [H, W], metres, exact."""
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

    def _apply(self, spec: SceneSpec) -> None:
        mujoco, model, data = self._mujoco, self._model, self._data
        model.geom_group[self._slots] = 5  # hidden until filled
        for slot, item in enumerate(spec.objects):
            geom = self._slots[slot]
            model.geom_group[geom] = 1
            model.geom_dataid[geom] = item.shape
            # MuJoCo moves a mesh's vertices to its centre of mass; the geom's pose undoes that.
            model.geom_pos[geom], model.geom_quat[geom] = model.mesh_pos[item.shape], model.mesh_quat[item.shape]
            # A geom's own rgba overrides its material's, so it is the one to set.
            model.geom_rgba[geom, :3] = item.rgb
            material = model.geom_matid[geom]
            model.mat_specular[material], model.mat_shininess[material] = _SHINY[item.material]
            data.mocap_pos[slot], data.mocap_quat[slot] = item.origin, item.quaternion
        for number, surface in enumerate(spec.surfaces):
            set_surface(mujoco, model, self._renderer, number, surface)
        model.geom_rgba[self._board, :3] = spec.leg_rgb
        set_lights(model, spec.ambient, spec.lights)
        mujoco.mj_kinematics(model, data)

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 RGB [H, W, 3] and, for each pixel, the slot seen there or −1, int8 [H, W]."""
        renderer = self._renderer
        renderer.update_scene(self._data, "camera", self._option)
        image = renderer.render()
        renderer.enable_segmentation_rendering()
        geoms = renderer.render()[..., 0]
        renderer.disable_segmentation_rendering()
        slot_of_geom = np.full(self._model.ngeom + 1, -1, np.int8)
        slot_of_geom[self._slots] = np.arange(MAX_OBJECTS)
        return image, slot_of_geom[geoms]  # background is −1, the last entry

    def _ground_truth(self, spec: SceneSpec, owner: np.ndarray, position: np.ndarray,
                      rotation: np.ndarray) -> tuple[SceneObject, ...]:
        min_side = MIN_SIDE * self.height
        found = []
        for slot, item in enumerate(spec.objects):
            mask = owner == slot
            columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
            if not len(columns):
                continue
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            if min(box[2] - box[0], box[3] - box[1]) < min_side:
                continue
            visible = min(1.0, int(mask.sum()) / self._outline_area(slot, item.shape, position, rotation, self.focal))
            if visible < MIN_VISIBLE:
                continue
            distance = float(np.linalg.norm(item.centre - position))
            found.append(SceneObject(item.kind, item.colour, item.size, item.material, box, visible,
                                     _point(item.centre), distance, slot))
        return tuple(found)

    def _outline_area(self, slot: int, shape: int, position: np.ndarray, rotation: np.ndarray, focal: float) -> float:
        """Pixels the object would cover alone in an image without borders: the union of its convex parts' outlines."""
        turn = np.empty(9)
        self._mujoco.mju_quat2Mat(turn, self._data.mocap_quat[slot])
        parts = all_shapes()[shape].parts
        points = np.concatenate(parts) @ turn.reshape(3, 3).T + self._data.mocap_pos[slot]
        points = (points - position) @ rotation
        depth = np.maximum(-points[:, 2:], 1e-3)
        pixels = points[:, :2] / depth * focal
        scale = _OUTLINE_SIDE / np.ptp(pixels, axis=0).max()
        pixels *= scale
        low = np.floor(pixels.min(0)) - 1
        canvas = np.zeros(np.ceil(pixels.max(0) - low).astype(int)[::-1] + 2, np.uint8)
        # cv2 paints every pixel an outline touches, half a pixel too much all around; finer pixels make that small.
        pixels = np.round((pixels - low - 0.5) * 16).astype(np.int32)
        for part in np.split(pixels, np.cumsum([len(p) for p in parts[:-1]])):
            cv2.fillConvexPoly(canvas, cv2.convexHull(part), 1, shift=4)
        return max(1.0, cv2.countNonZero(canvas) / scale ** 2)


def _point(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = map(float, values)
    return x, y, z

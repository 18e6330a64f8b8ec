"""Renders tabletop scenes with MuJoCo, offscreen, with exact ground truth.

Building a MuJoCo renderer takes far longer than a picture, so one scene with a pool of ten object slots is compiled
once and edited in place: a slot's mesh is exchanged through geom_dataid, everything else through the model's arrays.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import cv2
import numpy as np

from ros_gpt4roi.sim.rendering import Box, WorldRenderer, point
from ros_gpt4roi.sim.studio import add_room, set_lights, set_surface
from ros_gpt4roi.sim.tabletop.meshes import all_shapes
from ros_gpt4roi.sim.tabletop.scene import ALL_SPLITS, Scene, SceneObject
from ros_gpt4roi.sim.tabletop.scene_spec import MAX_OBJECTS, TABLE_HALF, SceneSpec, sample_scene_spec
from ros_gpt4roi.sim.tabletop.textures import SIZE as TEXTURE_SIZE

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


class TabletopRenderer(WorldRenderer[SceneSpec, Scene]):
    """Renders `Scene`s; arguments, methods and errors as of `WorldRenderer`."""

    splits, scene = ALL_SPLITS, Scene

    def __init__(self, width: int = 320, height: int = 240) -> None:
        super().__init__(width, height)

    def _build(self, mujoco: ModuleType) -> tuple[Any, Any]:
        model = _build_model(mujoco, self.width, self.height)
        self._slots = np.array([model.geom(f"slot{i}").id for i in range(MAX_OBJECTS)])
        # The compiler notes geoms that coincide with their body and skips their poses; ours change with the mesh.
        model.geom_sameframe[self._slots] = 0
        self._slot_of_geom = np.full(model.ngeom + 1, -1, np.int8)
        self._slot_of_geom[self._slots] = np.arange(MAX_OBJECTS)
        return model, mujoco.MjData(model)

    def _owners(self) -> np.ndarray:
        return self._slot_of_geom

    def _lay_out(self, rng: np.random.Generator, split: str) -> SceneSpec:
        spec = sample_scene_spec(rng, split)
        self._apply(spec)
        return spec

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

    def _object(self, place: int, box: Box, visible: float, position: np.ndarray) -> SceneObject:
        assert self._spec is not None
        item = self._spec.objects[place]
        return SceneObject(item.kind, item.colour, item.size, item.material, box, visible, point(item.centre),
                           float(np.linalg.norm(item.centre - position)), place)

    def _area_alone(self, place: int, position: np.ndarray, rotation: np.ndarray) -> float:
        """The union of the outlines of its convex parts."""
        assert self._spec is not None
        turn = np.empty(9)
        self._mujoco.mju_quat2Mat(turn, self._data.mocap_quat[place])
        parts = all_shapes()[self._spec.objects[place].shape].parts
        points = np.concatenate(parts) @ turn.reshape(3, 3).T + self._data.mocap_pos[place]
        points = (points - position) @ rotation
        depth = np.maximum(-points[:, 2:], 1e-3)
        pixels = points[:, :2] / depth * self.focal
        scale = _OUTLINE_SIDE / np.ptp(pixels, axis=0).max()
        pixels *= scale
        low = np.floor(pixels.min(0)) - 1
        canvas = np.zeros(np.ceil(pixels.max(0) - low).astype(int)[::-1] + 2, np.uint8)
        # cv2 paints every pixel an outline touches, half a pixel too much all around; finer pixels make that small.
        pixels = np.round((pixels - low - 0.5) * 16).astype(np.int32)
        for part in np.split(pixels, np.cumsum([len(p) for p in parts[:-1]])):
            cv2.fillConvexPoly(canvas, cv2.convexHull(part), 1, shift=4)
        return float(cv2.countNonZero(canvas) / scale ** 2)

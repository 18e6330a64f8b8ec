"""What every simulated world is seen with: offscreen OpenGL, a camera that circles, lights, and the camera's sensor."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cv2
import numpy as np

#: Directional lights of a world; the first casts shadows.
LIGHTS = 3

_ROOM_HALF, _ROOM_HEIGHT = 2.2, 2.6  # metres
_ORBIT_PER_STEP = np.radians(1.2)


class RendererError(RuntimeError):
    """MuJoCo can't render offscreen on this machine; the message says what to install."""


def _egl_works() -> bool:
    """Whether a device of the installed EGL can be opened; the library alone, without a driver, is of no use."""
    platform_device = 0x313F
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        query, get_display = (egl.eglGetProcAddress(n) for n in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    except (OSError, AttributeError):
        return False
    if not query or not get_display:
        return False
    handle, integer = ctypes.c_void_p, ctypes.c_int
    devices, count = (handle * 16)(), integer(0)
    if not ctypes.CFUNCTYPE(integer, integer, handle, handle)(query)(16, devices, ctypes.addressof(count)):
        return False
    open_display = ctypes.CFUNCTYPE(handle, integer, handle, handle)(get_display)
    return any(egl.eglInitialize(handle(open_display(platform_device, device, None)), None, None)
               for device in devices[:count.value])


def import_mujoco() -> ModuleType:
    """MuJoCo reads MUJOCO_GL once, when it is imported: choose before, where the user has not."""
    # Mesa and PyTorch's Triton both bring an LLVM, and Triton's crashes if Mesa's is there first.
    with suppress(ImportError):
        import triton  # noqa: F401
    if "mujoco" not in sys.modules and not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = "egl" if _egl_works() else "osmesa"
    try:
        import mujoco
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise RendererError(advice(error)) from error
    return mujoco


def advice(error: Exception) -> str:
    """What to say where MuJoCo fails to render: the error, and what helps."""
    return (f"MuJoCo can't open an offscreen OpenGL context (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r}): {error}. "
            "Install EGL with 'apt-get install libegl1 libgl1-mesa-dri', or OSMesa with 'apt-get install libosmesa6' "
            "and set MUJOCO_GL=osmesa.")


@dataclass(frozen=True)
class LightSpec:
    """One directional light.

    Attributes:
        direction: The way the light travels, a unit vector in the table frame.
        diffuse: Strength, 0..1 per channel.
        specular: Likewise.
    """

    direction: np.ndarray
    diffuse: np.ndarray
    specular: np.ndarray


@dataclass(frozen=True)
class CameraSpec:
    """The camera before its first step.

    Attributes:
        target: What it looks at, metres in the table frame.
        azimuth: Of the camera as seen from the target, radians.
        elevation: Likewise.
        distance: From the target, metres.
        fovy: Vertical field of view, degrees.
    """

    target: np.ndarray
    azimuth: float
    elevation: float
    distance: float
    fovy: float

    def pose(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the camera is on its orbit.

        Args:
            step: Steps along it, from 0.

        Returns:
            Position [3], metres in the table frame, and rotation [3, 3] whose columns are image right, image up and
            backwards in the table frame.
        """
        azimuth = self.azimuth + step * _ORBIT_PER_STEP
        elevation = self.elevation + np.radians(4) * np.sin(step * 0.06)
        back = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        return self.target + self.distance * back, np.stack([right, np.cross(back, right), back], 1)


@dataclass(frozen=True)
class SensorSpec:
    """What the camera's sensor does to an image.

    Attributes:
        gain: Per channel.
        gamma: Of the tone curve.
        blur: Gaussian sigma, pixels.
        noise: Gaussian sigma, grey levels.
    """

    gain: np.ndarray
    gamma: float
    blur: float
    noise: float


def sample_lights(rng: np.random.Generator, azimuth: float) -> tuple[float, tuple[LightSpec, ...]]:
    """Ambient strength and three directional lights.

    These are the key light (the one with a shadow), a fill light from another side, and a weak one from about the
    camera, so that no side an image shows is ever quite dark.
    """
    ambient = rng.uniform(0.36, 0.47)
    tint = 1 + rng.uniform(-0.04, 0.04) * np.array([1.0, 0.0, -1.0])
    key = azimuth + rng.uniform(-np.pi, np.pi)
    lights = []
    for around, height, diffuse, specular in (
            (key, rng.uniform(45, 75), rng.uniform(0.34, 0.46), rng.uniform(0.6, 0.9)),
            (key + rng.uniform(1.6, 4.7), rng.uniform(30, 60), rng.uniform(0.08, 0.18), rng.uniform(0.35, 0.6)),
            (azimuth + rng.uniform(-0.7, 0.7), rng.uniform(25, 60), rng.uniform(0.10, 0.20), rng.uniform(0.4, 0.7))):
        height = np.radians(height)
        to_light = np.array([np.cos(around) * np.cos(height), np.sin(around) * np.cos(height), np.sin(height)])
        lights.append(LightSpec(-to_light, diffuse * tint, specular * tint))
    return float(ambient), tuple(lights)


def add_room(mujoco: ModuleType, spec: Any, table_half: tuple[float, float], table_height: float, texture_size: int,
             repeats: tuple[float, float, float]) -> None:
    """Adds what every world has: floor, walls, a table at the origin, lights and the camera `camera`.

    Nothing of it collides. The first three textures are those of the floor, the walls and the table top, for
    `set_surface`; the table's board and legs are named board and leg±1±1.

    Args:
        mujoco: The package.
        spec: The mujoco.MjSpec.
        table_half: Half the table top's sides, metres.
        table_height: Of the table top over the floor, metres.
        texture_size: Of the three textures, pixels a side.
        repeats: How often each texture is repeated along a side.
    """
    for name, repeat in zip(("floor", "wall", "table"), repeats):
        spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=texture_size, height=texture_size,
                         nchannel=3, builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT)
        material = spec.add_material(name=name, texrepeat=[repeat, repeat], specular=0, shininess=0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    world = spec.worldbody
    common = dict(contype=0, conaffinity=0)
    plane, box = mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_BOX
    world.add_geom(type=plane, size=[_ROOM_HALF, _ROOM_HALF, 0.1], pos=[0, 0, -table_height], material="floor",
                   **common)
    for turn in range(4):
        angle = turn * np.pi / 2
        inward = np.array([-np.cos(angle), -np.sin(angle), 0.0])
        x_axis = np.cross([0.0, 0.0, 1.0], inward)
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, np.stack([x_axis, [0.0, 0.0, 1.0], inward], 1).ravel())
        world.add_geom(type=plane, size=[_ROOM_HALF, _ROOM_HEIGHT / 2, 0.1], quat=quaternion, material="wall",
                       pos=[*(-_ROOM_HALF * inward[:2]), _ROOM_HEIGHT / 2 - table_height], **common)
    world.add_geom(type=box, size=[*table_half, 0.015], pos=[0, 0, -0.019], name="board", **common)
    world.add_geom(type=plane, size=[*table_half, 0.1], material="table", **common)
    for x in (-1, 1):
        for y in (-1, 1):
            world.add_geom(type=box, size=[0.025, 0.025, table_height / 2 - 0.015], name=f"leg{x}{y}",
                           pos=[x * (table_half[0] - 0.05), y * (table_half[1] - 0.05), -table_height / 2 - 0.015],
                           **common)
    for i in range(LIGHTS):
        world.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=i == 0, ambient=[0, 0, 0])
    world.add_camera(name="camera")


def set_surface(mujoco: ModuleType, model: Any, renderer: Any, number: int, surface: np.ndarray) -> None:
    """Changes a texture of `add_room`.

    Args:
        mujoco: The package.
        model: The compiled mujoco.MjModel.
        renderer: The mujoco.Renderer that has it.
        number: 0 the floor, 1 the walls, 2 the table top.
        surface: uint8 RGB [size, size, 3].
    """
    start = model.tex_adr[number]
    model.tex_data[start:start + surface.size] = surface.ravel()
    renderer._gl_context.make_current()
    mujoco.mjr_uploadTexture(model, renderer._mjr_context, number)


def set_lights(model: Any, ambient: float, lights: Sequence[LightSpec]) -> None:
    """Changes the lights of `add_room`: the strength of what comes from everywhere, and the directional ones."""
    model.vis.headlight.ambient[:] = ambient
    for i, light in enumerate(lights):
        model.light_dir[i], model.light_pos[i] = light.direction, -1.5 * light.direction
        model.light_diffuse[i], model.light_specular[i] = light.diffuse, light.specular


def point_camera(mujoco: ModuleType, model: Any, data: Any, position: np.ndarray, rotation: np.ndarray,
                 fovy: float) -> None:
    """Moves the camera of `add_room`.

    Args:
        mujoco: The package.
        model: The compiled mujoco.MjModel.
        data: Its mujoco.MjData.
        position: As of `CameraSpec.pose`.
        rotation: Likewise.
        fovy: Vertical field of view, degrees.
    """
    model.cam_pos[0], model.cam_fovy[0] = position, fovy
    mujoco.mju_mat2Quat(model.cam_quat[0], rotation.ravel())
    mujoco.mj_camlight(model, data)


def sample_sensor(rng: np.random.Generator) -> SensorSpec:
    """A random sensor."""
    return SensorSpec(gain=rng.uniform(0.92, 1.16) * (1 + rng.uniform(-0.02, 0.02, 3)),
                      gamma=float(rng.uniform(0.88, 1.1)), blur=float(rng.uniform(0.35, 0.9)),
                      noise=float(rng.uniform(0.5, 5.0)))


def through_sensor(image: np.ndarray, sensor: SensorSpec, rng: np.random.Generator) -> np.ndarray:
    """Lens blur, exposure, tone curve and noise: uint8 RGB [H, W, 3] → the same."""
    levels = np.arange(256) / 255.0
    curve = np.clip(levels[:, None] * sensor.gain, 0, 1) ** sensor.gamma * 255
    image = cv2.GaussianBlur(image, (0, 0), sensor.blur)
    image = cv2.LUT(image, np.round(curve).astype(np.uint8)[:, None])
    noise = rng.standard_normal(image.shape, np.float32) * sensor.noise
    return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)

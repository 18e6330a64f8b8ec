"""Draws a tabletop: which objects stand where, the camera, the lights and the surfaces. Pure numbers, no rendering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ros_gpt4roi.sim.studio import CameraSpec, LightSpec, SensorSpec, sample_lights, sample_sensor
from ros_gpt4roi.sim.tabletop.meshes import all_shapes, shapes_of
from ros_gpt4roi.sim.tabletop.scene import ALL_SPLITS, COLOURS, HELD_OUT, KINDS, MATERIALS, SIZES, WORKSHOP_KINDS
from ros_gpt4roi.sim.tabletop.textures import muted_colour, random_surface, workshop_surface

MAX_OBJECTS = 10
MIN_OBJECTS = 3
TABLE_HALF = (0.55, 0.45)  # half the table top's sides, metres
_MIN_GAP = 0.003
_LYING = {"cylinder": 0.2, "capsule": 0.5, "bottle": 0.25}  # kind → probability of lying on its side


@dataclass(frozen=True)
class ObjectSpec:
    """One object.

    Attributes:
        shape: Its place in meshes.all_shapes().
        kind: A name in scene.KINDS or scene.WORKSHOP_KINDS.
        colour: A name in scene.COLOURS.
        size: A name in scene.SIZES.
        material: A name in scene.MATERIALS.
        rgb: Surface colour, 0..1.
        origin: Of the shape's own frame, metres in the table frame.
        quaternion: Orientation, w x y z.
        centre: Of the object, metres in the table frame.
    """

    shape: int
    kind: str
    colour: str
    size: str
    material: str
    rgb: np.ndarray
    origin: np.ndarray
    quaternion: np.ndarray
    centre: np.ndarray


@dataclass(frozen=True)
class SceneSpec:
    """Everything a renderer needs to know about one scene."""

    objects: tuple[ObjectSpec, ...]
    camera: CameraSpec
    ambient: float
    lights: tuple[LightSpec, ...]
    surfaces: tuple[np.ndarray, ...]  # floor, walls, table top
    leg_rgb: np.ndarray
    sensor: SensorSpec


def _quaternion_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    w, v, u, x = a[0], a[1:], b[0], b[1:]
    return np.concatenate([[w * u - v @ x], w * x + u * v + np.cross(v, x)])


def _turn(axis: int, angle: float) -> np.ndarray:
    quaternion = np.zeros(4)
    quaternion[0], quaternion[1 + axis] = np.cos(angle / 2), np.sin(angle / 2)
    return quaternion


_Traits = tuple[str, str, str, str]  # kind, colour, size, material


def _attributes(rng: np.random.Generator, split: str, earlier: list[_Traits]) -> _Traits:
    """Some objects take a trait from an earlier one: counting and comparing need likenesses."""
    kinds = (*KINDS, *WORKSHOP_KINDS * (len(KINDS) // len(WORKSHOP_KINDS))) if split == "workshop" else KINDS
    while True:
        kind, colour = str(rng.choice(kinds)), str(rng.choice(list(COLOURS)))
        if earlier and rng.uniform() < 0.35:
            model = earlier[rng.integers(len(earlier))]
            kind, colour = (model[0], colour) if rng.uniform() < 0.5 else (kind, model[1])
        if split == "test" or (kind, colour) not in HELD_OUT:
            return kind, colour, str(rng.choice(list(SIZES))), str(rng.choice(MATERIALS))


def _place(rng: np.random.Generator, radii: np.ndarray) -> np.ndarray:
    """Centres [N, 2] of circles that do not touch, crowded about the origin."""
    spread = np.sqrt((radii ** 2).sum()) * rng.uniform(0.95, 1.7)
    centres = np.zeros((len(radii), 2))
    # The largest first: what is left over takes the small ones.
    order = np.argsort(-radii)
    for n, i in enumerate(order):
        placed = order[:n]
        reach = spread
        while True:
            angle, distance = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.uniform())
            candidate = distance * np.array([np.cos(angle), np.sin(angle)])
            gaps = np.linalg.norm(centres[placed] - candidate, axis=1) - radii[placed] - radii[i]
            if (gaps > _MIN_GAP).all():
                break
            reach *= 1.01  # so that the search ends
        centres[i] = candidate
    return centres


def _objects(rng: np.random.Generator, split: str, azimuth: float) -> list[ObjectSpec]:
    counts = np.arange(MIN_OBJECTS, MAX_OBJECTS + 1)
    count = int(rng.choice(counts, p=counts / counts.sum()))
    traits: list[_Traits] = []
    for _ in range(count):
        traits.append(_attributes(rng, split, traits))
    numbers = [int(rng.choice(shapes_of(kind, size))) for kind, _, size, _ in traits]
    shapes = [all_shapes()[n] for n in numbers]
    lying = [bool(rng.uniform() < _LYING.get(kind, 0.0)) for kind, *_ in traits]
    radii = np.array([np.hypot(s.height / 2, s.half_width) if flat else s.radius for s, flat in zip(shapes, lying)])
    centres = _place(rng, radii)
    centres += rng.uniform(-0.08, 0.08, 2)
    objects = []
    for number, shape, flat, (kind, colour, size, material), xy in zip(numbers, shapes, lying, traits, centres):
        low, high = COLOURS[colour]
        if flat:
            # The axis lies across the first view: end-on, a capsule is a ball.
            yaw = azimuth + np.pi / 2 + rng.uniform(-0.8, 0.8) + np.pi * rng.integers(2)
            quaternion = _quaternion_product(_turn(2, yaw), _turn(1, np.pi / 2))
            axis = np.array([np.cos(yaw), np.sin(yaw), 0.0])
            centre = np.array([*xy, shape.half_width])
            origin = centre - axis * shape.height / 2
        else:
            yaw = np.float64(rng.uniform(0, 2 * np.pi))
            if kind == "mug":  # its handle on one side of the first view, not behind it
                yaw = azimuth + rng.choice([-1, 1]) * np.radians(rng.uniform(35, 110))
            quaternion = _turn(2, yaw)
            origin, centre = np.array([*xy, 0.0]), np.array([*xy, shape.height / 2])
        objects.append(ObjectSpec(number, kind, colour, size, material, rng.uniform(low, high),
                                  origin, quaternion, centre))
    return objects


def _workshop_lights(ambient: float, lights: tuple[LightSpec, ...]) -> tuple[float, tuple[LightSpec, ...]]:
    """One warm lamp in a dim room, in place of even light."""
    warm = np.array([1.12, 1.0, 0.84])
    strengths = (1.5, 0.6, 0.7)
    return 0.75 * ambient, tuple(LightSpec(light.direction, strength * light.diffuse * warm, strength * light.specular)
                                 for light, strength in zip(lights, strengths))


def sample_scene_spec(rng: np.random.Generator, split: str) -> SceneSpec:
    """A random scene.

    Args:
        rng: Draws everything.
        split: A name in scene.ALL_SPLITS; pairs in scene.HELD_OUT occur in "test" only.

    Raises:
        ValueError: The split is unknown.
    """
    if split not in ALL_SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(ALL_SPLITS)}")
    azimuth = float(rng.uniform(-np.pi, np.pi))
    objects = _objects(rng, split, azimuth)
    middle = np.mean([o.centre for o in objects], axis=0)
    # Now and then the camera looks past the objects, so that the border of the image cuts some.
    aside = 0.24 if rng.uniform() < 0.3 else 0.09
    camera = CameraSpec(target=middle + rng.uniform(-1, 1, 3) * (aside, aside, 0.03), azimuth=azimuth,
                        elevation=float(np.radians(rng.uniform(22, 52))), distance=float(rng.uniform(0.50, 0.74)),
                        fovy=float(rng.uniform(43, 49)))
    ambient, lights = sample_lights(rng, azimuth)
    if split == "workshop":
        ambient, lights = _workshop_lights(ambient, lights)
        surfaces = tuple(workshop_surface(rng) for _ in range(3))
    else:
        surfaces = tuple(random_surface(rng, saturation) for saturation in (0.4, 0.35, 0.45))
    sensor = sample_sensor(rng)
    leg_rgb = muted_colour(rng, 0.3) / 255
    return SceneSpec(tuple(objects), camera, ambient, lights, surfaces, leg_rgb, sensor)

"""Draws a household scene: what is put where, the camera, the lights, the surfaces. Pure numbers, no physics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ros_gpt4roi.sim.studio import CameraSpec, LightSpec, SensorSpec, sample_lights, sample_sensor

from .catalogue import kinds
from .pool import models
from .scene import SPLITS

MIN_OBJECTS, MAX_OBJECTS = 4, 14

_FURNITURE_RATE = 0.6
_PLACES = {"table": 0.56, "in": 0.22, "on": 0.22}
_POSTURES = {"upright": 0.76, "lying": 0.24}
_OPEN = (0.0, 0.0, 0.4, 1.0, 1.0)  # how far doors and drawers are drawn: a part of their way
# Elevation in degrees, distance in metres, vertical field of view in degrees; and the same where held out.
_CAMERA = ((24, 50), (0.85, 1.25), (42, 58))
_UNSEEN_CAMERA = ((14, 20), (0.65, 1.0), (60, 70))


@dataclass(frozen=True)
class Placement:
    """One object, before physics.

    Attributes:
        model: Its place in `pool.models()`.
        place: "furniture", "table", "in" something or "on" something; what cannot be put there is put on the table.
        lying: Whether it is laid on its side.
        turn: About the vertical axis, radians; for furniture, away from facing the camera.
        spot: Two numbers in 0..1, for where within its place.
        open: How far each of its doors and drawers is drawn, 0..1; the first has the first number.
    """

    model: int
    place: str
    lying: bool
    turn: float
    spot: tuple[float, float]
    open: tuple[float, ...]


@dataclass(frozen=True)
class Layout:
    """Everything that is drawn for one scene.

    Attributes:
        placements: In the order in which they are put down.
        camera: Where it is; its target is moved to what lies there in the end.
        ambient: Strength of the light from everywhere.
        lights: The directional ones.
        surfaces: Numbers in 0..1, which texture the floor, the walls and the table top get.
        tints: Their colours' factors, [3, 3].
        legs: Colour of the table's board and legs, 0..1.
        sensor: The camera's.
        quality: Of the JPEG that the picture goes through, per cent; 100 is none.
    """

    placements: tuple[Placement, ...]
    camera: CameraSpec
    ambient: float
    lights: tuple[LightSpec, ...]
    surfaces: tuple[float, float, float]
    tints: np.ndarray
    legs: np.ndarray
    sensor: SensorSpec
    quality: int


def sample_layout(rng: np.random.Generator, split: str) -> Layout:
    """A random scene.

    Args:
        rng: Draws everything.
        split: A name in scene.SPLITS.

    Raises:
        ValueError: The split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    unseen = split == "unseen"
    azimuth = float(rng.uniform(-np.pi, np.pi))
    elevation, distance, fovy = _UNSEEN_CAMERA if unseen else _CAMERA
    placements = _placements(rng, unseen)
    camera = CameraSpec(target=rng.uniform(-1, 1, 3) * (0.07, 0.07, 0.03), azimuth=azimuth,
                        elevation=float(np.radians(rng.uniform(*elevation))), distance=float(rng.uniform(*distance)),
                        fovy=float(rng.uniform(*fovy)))
    ambient, lights = sample_lights(rng, azimuth)
    first, second, third = rng.uniform(size=3)
    quality = int(rng.integers(60, 96)) if rng.uniform() < 0.5 else 100
    return Layout(placements, camera, ambient, lights, (first, second, third),
                  rng.uniform(0.75, 1.0, (3, 1)) * rng.uniform(0.94, 1.0, (3, 3)), rng.uniform(0.15, 0.6, 3),
                  sample_sensor(rng), quality)


def _placements(rng: np.random.Generator, unseen: bool) -> tuple[Placement, ...]:
    catalogue, all_models = kinds(), models()
    allowed = [place for place, (name, _) in enumerate(all_models) if unseen or not catalogue[name].held_out]
    furniture = [place for place in allowed if catalogue[all_models[place][0]].furniture]
    movable = [place for place in allowed if place not in furniture]
    chosen = [int(rng.choice(furniture))] if rng.uniform() < _FURNITURE_RATE else []
    count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    if unseen:
        held_out = [place for place in movable if catalogue[all_models[place][0]].held_out]
        chosen.append(int(rng.choice(held_out)))
    kinds_left = sorted({all_models[place][0] for place in movable})
    while len(chosen) < count:  # kinds alike, not models: some kinds have many
        name = str(rng.choice(kinds_left))
        of_kind = [place for place in movable if all_models[place][0] == name and place not in chosen]
        if of_kind:
            chosen.append(int(rng.choice(of_kind)))
    found = []
    for place in chosen:
        kind = catalogue[all_models[place][0]]
        where = str(rng.choice(list(_PLACES), p=list(_PLACES.values())))
        if kind.furniture:
            where = "furniture"
        elif kind.contains or kind.name == "plate":
            where = "table"
        lying = str(rng.choice(list(_POSTURES), p=list(_POSTURES.values()))) == "lying" and not kind.contains
        turn = rng.uniform(-0.5, 0.5) if kind.furniture else rng.uniform(-np.pi, np.pi)
        found.append(Placement(place, where, lying and not kind.furniture, float(turn),
                               (float(rng.uniform()), float(rng.uniform())),
                               tuple(float(rng.choice(_OPEN)) for _ in range(3))))
    # What others may stand in or on goes first.
    order = {"furniture": 0, "table": 1, "in": 2, "on": 2}
    holds = {place: not (catalogue[all_models[item.model][0]].contains) for place, item in enumerate(found)}
    return tuple(found[place] for place in sorted(holds, key=lambda at: (order[found[at].place], holds[at], at)))

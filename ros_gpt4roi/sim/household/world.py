"""The physics of the household: puts objects down, lets them come to rest, and reads their state from the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .catalogue import kinds
from .layout import Layout, Placement
from .pool import TABLE_HALF, models
from .scene import TABLE
from .turns import about_x, about_y, about_z, axis, to_z

_DIRECTIONS, _POINTS = 162, 20_000  # in which, and of how many of its points, an object's extent is measured
_SETTLE_S, _REST_S, _MOST_S = 0.3, 0.6, 2.5  # of simulated time
_STILL = 0.03  # metres and radians a second
_GAP = 0.012  # metres between what is put down side by side
_TRIES = 60
_DEEPEST = 0.005  # metres that what rests may reach into what carries it; what is wedged in reaches further
_LIFT = 0.008  # metres above where it would touch
#: Part of a round container's radius and height within which a centre is in it.
HOLLOW = 0.85
#: Part of the way of a door or drawer, from which on it is open.
OPEN = 0.75
# Doors and drawers by their joints' names in the models.
_JOINTS = {"top_level": "top drawer", "middle_level": "middle drawer", "bottom_level": "bottom drawer",
           "microjoint": "door"}
# Insides by their sites' names, and what shuts them where the model has doors or drawers.
_SHUT_BY = {"top_region": "top drawer", "middle_region": "middle drawer", "bottom_region": "bottom drawer",
          "heating_region": "door"}
# A stove's plate has a site, too.
_NO_INSIDES = frozenset({"cook_region"})


@dataclass(frozen=True)
class Inside:
    """A box in which things can be, of a model.

    Attributes:
        site: The site that is that box.
        part: Its name ("top drawer"); empty where the model has but one.
        shut_by: The door or drawer that must be open for a thing to come in; empty where none.
    """

    site: int
    part: str = ""
    shut_by: str = ""


@dataclass(frozen=True)
class Known:
    """What is known of a compiled model.

    Attributes:
        body: Its root.
        geoms: All of it that is seen or collides.
        seen: Those of them that are seen.
        collides: contype and conaffinity of each of `geoms`.
        points: Extreme points of what is seen [P, 3], in the root's frame, doors and drawers closed.
        joints: Doors and drawers: name → (joint, its place in qpos, position closed, position open).
        insides: Where things can be in it.
    """

    body: int
    geoms: np.ndarray
    seen: np.ndarray
    collides: np.ndarray
    points: np.ndarray
    joints: Mapping[str, tuple[int, int, float, float]]
    insides: tuple[Inside, ...]


def _sphere(count: int) -> np.ndarray:
    """Directions spread evenly, [count, 3] (a Fibonacci lattice)."""
    place = np.arange(count) + 0.5
    height, angle = 1 - 2 * place / count, np.pi * (1 + 5 ** 0.5) * place
    radius = np.sqrt(1 - height ** 2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)


class World:
    """One compiled pool of models, in which one scene at a time is laid out.

    Args:
        mujoco: The package.
        model: The pool.
    """

    def __init__(self, mujoco: ModuleType, model: Any) -> None:
        self._mujoco, self.model, self.data = mujoco, model, mujoco.MjData(model)
        roots = {model.body(f"{number}/").id: number for number in range(len(models()))}
        self.owners = np.full(model.ngeom + 1, TABLE, np.int16)
        parents = model.body_rootid
        for geom in range(model.ngeom):
            self.owners[geom] = roots.get(int(parents[model.geom_bodyid[geom]]), TABLE)
        model.geom_sameframe[:] = 0  # the compiler skips poses that coincide; furniture is moved
        self._contact = np.stack([model.geom_contype, model.geom_conaffinity], 1)
        mujoco.mj_kinematics(model, self.data)
        self.known = [self._examine(number) for number in range(len(models()))]
        self.shown: tuple[int, ...] = ()
        self.hide_all()

    def _examine(self, number: int) -> Known:
        model, data = self.model, self.data
        geoms = np.flatnonzero(self.owners[:-1] == number)
        seen = geoms[model.geom_group[geoms] == 1]
        body = model.body(f"{number}/").id
        turn, origin = data.xmat[body].reshape(3, 3), data.xpos[body]
        clouds = []
        for geom in seen:
            corners = self._corners(int(geom)) @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
            clouds.append((corners - origin) @ turn)
        cloud = np.concatenate(clouds)
        cloud = cloud[::len(cloud) // _POINTS + 1]
        points = cloud[np.unique(np.argmax(cloud @ _sphere(_DIRECTIONS).T, axis=0))]
        joints = {}
        for joint in range(model.njnt):
            name = model.joint(joint).name
            if model.body_rootid[model.jnt_bodyid[joint]] == body and not name.endswith("/free"):
                called = _JOINTS.get(name.partition("/")[2])
                low, high = model.jnt_range[joint]
                if called is not None:
                    far = low if abs(low) > abs(high) else high
                    joints[called] = (joint, int(model.jnt_qposadr[joint]), 0.0, float(far))
        insides = []
        for site in range(model.nsite):
            owner, _, name = model.site(site).name.partition("/")
            if owner == str(number) and name.endswith("_region") and name not in _NO_INSIDES:
                shut_by = _SHUT_BY.get(name, "") if joints else ""
                insides.append(Inside(site, shut_by if "drawer" in shut_by else "", shut_by))
        return Known(body, geoms, seen, self._contact[geoms].copy(), points, joints, tuple(insides))

    def _corners(self, geom: int) -> np.ndarray:
        """Points of a geom's surface, in its own frame."""
        model = self.model
        if model.geom_type[geom] == self._mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            start = model.mesh_vertadr[mesh]
            return model.mesh_vert[start:start + model.mesh_vertnum[mesh]]
        middle, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
        return middle + half * np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3)

    # Laying out

    def hide_all(self) -> None:
        """Takes everything from the scene."""
        model, data = self.model, self.data
        self._mujoco.mj_resetData(model, data)
        for number, item in enumerate(self.known):
            self._hide(number)
            if not kinds()[models()[number][0]].furniture:
                place = model.jnt_qposadr[model.body_jntadr[item.body]]
                data.qpos[place:place + 3] = (3.0 + number, 50.0, 0.0)
        self.shown = ()

    def _hide(self, number: int) -> None:
        item = self.known[number]
        self.model.geom_group[item.seen] = 5
        self.model.geom_contype[item.geoms] = self.model.geom_conaffinity[item.geoms] = 0

    def _show(self, number: int) -> None:
        item = self.known[number]
        self.model.geom_group[item.seen] = 1
        self.model.geom_contype[item.geoms], self.model.geom_conaffinity[item.geoms] = item.collides.T

    def lay_out(self, layout: Layout) -> None:
        """Puts a scene's objects down, and lets them come to rest; what falls off or is wedged in is taken away."""
        self.hide_all()
        camera = np.array([np.cos(layout.camera.azimuth), np.sin(layout.camera.azimuth)])
        first = [item for item in layout.placements if item.place in ("furniture", "table")]
        taken: list[tuple[np.ndarray, float]] = []
        for item in first:
            if item.place == "furniture":
                self._place_furniture(item, camera, taken)
            else:
                self._place_on_table(item, taken)
        self._simulate(_SETTLE_S)
        for item in layout.placements:
            if item not in first and not self._place_with_others(item):
                self._place_on_table(item, taken)
        self._simulate(_REST_S, _MOST_S)
        wedged = {self.owner_of_geom(geom) for contact in self.data.contact[:self.data.ncon] for geom in contact.geom
                  if contact.dist < -_DEEPEST}
        self.shown = tuple(number for number in self.shown if number not in wedged and self._rests(number))
        for number in range(len(self.known)):
            if number not in self.shown:
                self._hide(number)
        self._mujoco.mj_forward(self.model, self.data)

    def _simulate(self, at_least_s: float, at_most_s: float = 0.0) -> None:
        data, start = self.data, self.data.time
        while data.time - start < at_least_s or data.time - start < at_most_s and not self._is_still():
            self._mujoco.mj_step(self.model, data)

    def _is_still(self) -> bool:
        return all(np.abs(self._velocity(number)).max() < _STILL for number in self.shown)

    def _velocity(self, number: int) -> np.ndarray:
        joint = self.model.body_jntadr[self.known[number].body]
        if joint < 0:
            return np.zeros(6)
        start = self.model.jnt_dofadr[joint]
        return self.data.qvel[start:start + 6]

    def _rests(self, number: int) -> bool:
        middle, half = self.extent(number)
        return bool(middle[2] > -0.01 and np.abs(self._velocity(number)).max() < 5 * _STILL
                    and (np.abs(middle[:2]) < TABLE_HALF).all())

    def _place_furniture(self, item: Placement, camera: np.ndarray, taken: list[tuple[np.ndarray, float]]) -> None:
        model, known = self.model, self.known[item.model]
        side = np.array([-camera[1], camera[0]])
        at = -0.2 * camera + side * (item.spot[0] - 0.5) * 0.4
        facing = np.arctan2(camera[1], camera[0]) + item.turn
        turn = about_z(facing + np.pi / 2)  # the models' fronts are at -y
        middle = (known.points.min(0) + known.points.max(0))[:2] / 2
        model.body_pos[known.body] = [*(at - (turn @ [*middle, 0])[:2]), -known.points[:, 2].min()]
        self._mujoco.mju_mat2Quat(model.body_quat[known.body], turn.ravel())
        for (_, place, closed, opened), part in zip(known.joints.values(), item.open):
            self.data.qpos[place] = closed + part * (opened - closed)
        radius = float(np.linalg.norm(np.ptp(known.points[:, :2], axis=0))) / 2
        taken.append((at, radius))
        if any(item.open) and known.joints:
            taken.append((at + camera * 0.2, 0.12))
        self._show(item.model)
        self.shown += (item.model,)

    def _pose(self, item: Placement) -> np.ndarray:
        """Rotation [3, 3] of an object that is put down."""
        name = models()[item.model][0]
        up = axis(kinds()[name].up)
        points = self.known[item.model].points
        turn = to_z(up)
        if item.lying:  # on its broadest side: the shortest of the two level axes goes up
            spans = np.ptp(points @ turn.T, axis=0)[:2]
            turn = (about_x(np.pi / 2) if spans[1] <= spans[0] else about_y(np.pi / 2)) @ turn
        return about_z(item.turn) @ turn

    def _put(self, item: Placement, turn: np.ndarray, middle: np.ndarray, bottom: float) -> None:
        known = self.known[item.model]
        points = known.points @ turn.T
        centre = (points.min(0) + points.max(0)) / 2
        start = self.model.jnt_qposadr[self.model.body_jntadr[known.body]]
        self.data.qpos[start:start + 3] = [*(middle - centre[:2]), bottom - points[:, 2].min() + _LIFT]
        self._mujoco.mju_mat2Quat(self.data.qpos[start + 3:start + 7], turn.ravel())
        speed = self.model.jnt_dofadr[self.model.body_jntadr[known.body]]
        self.data.qvel[speed:speed + 6] = 0
        self._show(item.model)
        self.shown += (item.model,)

    def _place_on_table(self, item: Placement, taken: list[tuple[np.ndarray, float]]) -> None:
        turn = self._pose(item)
        points = self.known[item.model].points @ turn.T
        radius = float(np.linalg.norm(np.ptp(points[:, :2], axis=0))) / 2
        # A spiral of candidates from the drawn one, so that the search ends.
        start, angle = np.array(item.spot) * 2 - 1, 2 * np.pi * item.spot[0]
        room = np.array(TABLE_HALF) * 0.75 - min(radius, 0.12)
        for attempt in range(_TRIES):
            reach = attempt / _TRIES
            at = np.clip(start * (0.5, 0.5) + reach * np.array([np.cos(angle + 2.4 * attempt),
                                                                np.sin(angle + 2.4 * attempt)]), -1, 1) * room
            if all(np.linalg.norm(at - other) > 0.9 * (radius + wide) + _GAP for other, wide in taken):
                taken.append((at, radius))
                self._put(item, turn, at, 0.0)
                return

    def _place_with_others(self, item: Placement) -> bool:
        """Puts an object into or onto another one; False where there is none that takes it."""
        self._mujoco.mj_kinematics(self.model, self.data)
        turn = self._pose(item)
        points = self.known[item.model].points @ turn.T
        size = np.ptp(points, axis=0)
        spots = self._insides(size) if item.place == "in" else self._tops(size)
        spots = [spot for spot in spots if self._is_free(spot, size)]
        if not spots:
            return False
        middle, bottom = spots[int(item.spot[0] * len(spots))]
        self._put(item, turn, middle, bottom)
        return True

    def _insides(self, size: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Middles and bottoms of where something of that size fits into what is there."""
        model, data, found = self.model, self.data, []
        for number in self.shown:
            known, kind = self.known[number], kinds()[models()[number][0]]
            for inside in known.insides:
                if inside.shut_by and self.part_open(number, inside.shut_by) < OPEN:
                    continue
                turn, middle = data.site_xmat[inside.site].reshape(3, 3), data.site_xpos[inside.site]
                room = 2 * np.abs(turn) @ model.site_size[inside.site]
                if (room[:2] > size[:2]).all() and (room[2] > size[2] or not kind.furniture):
                    found.append((middle[:2].copy(), float(middle[2] - room[2] / 2)))
            if kind.contains and not known.insides:
                middle, half = self.extent(number)
                if (2 * HOLLOW * half[:2] > size[:2]).all():
                    found.append((middle[:2], float(middle[2])))
        return found

    def _tops(self, size: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Middles and tops of what something of that size can stand on."""
        found = []
        for number in self.shown:
            kind = kinds()[models()[number][0]]
            middle, half = self.extent(number)
            flat = kind.furniture or kind.name in ("plate", "book") or kind.material == "cardboard"
            if flat and (2 * half[:2] > 0.7 * size[:2]).all():
                found.append((middle[:2], float(middle[2] + half[2])))
        return found

    def _is_free(self, spot: tuple[np.ndarray, float], size: np.ndarray) -> bool:
        """Whether no middle of another object is where something of that size would be."""
        at, bottom = spot
        for number in self.shown:
            if kinds()[models()[number][0]].furniture:
                continue
            middle, half = self.extent(number)
            apart = np.abs(middle[:2] - at) > half[:2] + size[:2] / 2
            above = middle[2] - half[2] > bottom + size[2] or middle[2] + half[2] <= bottom + 1e-3
            holds_it = kinds()[models()[number][0]].contains and np.linalg.norm(middle[:2] - at) < half[:2].min()
            if not (apart.any() or above or holds_it):
                return False
        return True

    # Reading

    def owner_of_geom(self, geom: int) -> int:
        """The model that a geom belongs to; `TABLE` for all else."""
        return int(self.owners[geom])

    def extent(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Middle and half the sides of the upright box around a model (its drawers closed), [3] each, table frame."""
        known, data = self.known[number], self.data
        points = known.points @ data.xmat[known.body].reshape(3, 3).T + data.xpos[known.body]
        low, high = points.min(0), points.max(0)
        return (low + high) / 2, (high - low) / 2

    def part_open(self, number: int, part: str) -> float:
        """How far a door or drawer of a model is open, 0..1."""
        _, place, closed, opened = self.known[number].joints[part]
        return float((self.data.qpos[place] - closed) / (opened - closed))

"""Reads from the physics how the objects of a scene have come to rest, and how they stand to each other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from .catalogue import kinds
from .pool import models
from .scene import TABLE, State
from .turns import axis
from .world import HOLLOW, OPEN, World

_CLOSED = 0.08  # part of the way of a door or drawer, up to which it is closed
_UPRIGHT, _LYING = 0.9, 0.35  # of the upward component of an object's own upward axis
_TOUCHING = 1e-3  # metres
_CARRIES, _SIDEWAYS = 0.6, 0.5  # of the upward component of a contact's normal


def read_states(world: World) -> dict[int, State]:
    """The state of each object that is shown, by its model's number; other objects are named by theirs."""
    carried, beside = _contacts(world)
    found = {}
    for number in world.shown:
        known, kind = world.known[number], kinds()[models()[number][0]]
        upwards = float((world.data.xmat[known.body].reshape(3, 3) @ axis(kind.up))[2])
        posture = ("upright" if upwards > _UPRIGHT else "upside down" if upwards < -_UPRIGHT
                   else "lying" if abs(upwards) < _LYING else "tilted")
        inside = _inside(world, number)
        below = {lower for upper, lower in carried if upper == number}
        on = {TABLE} if kind.furniture else below if inside is None else below - {inside[0], TABLE}
        leans = posture == "tilted" and inside is None
        touched = {other for pair in beside if number in pair for other in pair} - {number} - below
        found[number] = State(
            posture, {part: _opening(world.part_open(number, part)) for part in known.joints}, tuple(sorted(on)),
            inside, () if inside else _under(world, number), tuple(sorted(touched)) if leans else ())
    return {number: replace(state, holds=tuple(other for other, its in found.items()
                                               if its.inside is not None and its.inside[0] == number))
            for number, state in found.items()}


def _opening(part: float) -> str:
    return "closed" if part < _CLOSED else "open" if part > OPEN else "half open"


def _contacts(world: World) -> tuple[Collection[tuple[int, int]], Collection[tuple[int, int]]]:
    """Pairs (upper, lower) of what carries what, and pairs of what touches sideways."""
    carried, beside = set(), set()
    for contact in world.data.contact[:world.data.ncon]:
        first, second = (world.owner_of_geom(geom) for geom in contact.geom)
        if contact.dist > _TOUCHING or first == second:
            continue
        up = contact.frame[2]  # the normal points from the first to the second
        if abs(up) > _CARRIES:
            carried.add((second, first) if up > 0 else (first, second))
        elif abs(up) < _SIDEWAYS and TABLE not in (first, second):
            beside.add((first, second))
    return carried, beside


def _inside(world: World, number: int) -> tuple[int, str] | None:
    """What an object's middle is in."""
    middle, _ = world.extent(number)
    for other in world.shown:
        known = world.known[other]
        if other == number or not kinds()[models()[other][0]].contains:
            continue
        for inside in known.insides:
            turn = world.data.site_xmat[inside.site].reshape(3, 3)
            offset = (middle - world.data.site_xpos[inside.site]) @ turn
            if (np.abs(offset) < world.model.site_size[inside.site]).all():
                return other, inside.part
        if not known.insides:
            around, half = world.extent(other)
            offset = (middle - around) / half
            if np.linalg.norm(offset[:2]) < HOLLOW and -1 < offset[2] < HOLLOW:
                return other, ""
    return None


def _under(world: World, number: int) -> tuple[int, ...]:
    """Furniture without doors and drawers that stands over an object on the table."""
    middle, half = world.extent(number)
    found = []
    for other in world.shown:
        if other == number or not kinds()[models()[other][0]].furniture or world.known[other].joints:
            continue
        around, wide = world.extent(other)
        within = (np.abs(middle[:2] - around[:2]) < wide[:2]).all()
        if within and middle[2] + half[2] < around[2] + wide[2] and middle[2] - half[2] < 0.02:
            found.append(other)
    return tuple(found)

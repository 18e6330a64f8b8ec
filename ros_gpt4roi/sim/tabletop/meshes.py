"""The tabletop's shapes as triangle meshes, with the convex parts from which their silhouettes are computed.

Every shape stands on z = 0 with its axis along +z through the origin, metres. Edges are rounded: only a rounded edge
catches a highlight from everywhere, and highlights are what tells shiny from matte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ros_gpt4roi.sim.tabletop.scene import KINDS, SIZES, WORKSHOP_KINDS

_SEGMENTS = 32  # around a shape's axis
_SCALES_PER_SIZE = 3


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: float64 [V, 3], metres.
        normals: Of the vertices, float64 [V, 3].
        faces: Numbers of vertices [F, 3], counter-clockwise from outside.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class Shape:
    """One compiled shape: a kind in one of its proportions at one scale.

    Attributes:
        kind: A name in KINDS or WORKSHOP_KINDS.
        size: A name in SIZES.
        mesh: Its surface.
        parts: Point sets [P, 3] whose convex hulls together make up the solid's outline.
        radius: Of the smallest circle about the axis that contains the standing shape, metres.
        height: Metres.
        half_width: What the axis must be raised by when the shape lies on the table, metres.
    """

    kind: str
    size: str
    mesh: Mesh
    parts: tuple[np.ndarray, ...]
    radius: float
    height: float
    half_width: float


def _ring(radius: float, z: float, segments: int = _SEGMENTS) -> np.ndarray:
    angle = np.arange(segments) * (2 * np.pi / segments)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(segments, z)], 1)


def _arc(centre: tuple[float, float], radius: float, start: float, end: float, points: int) -> np.ndarray:
    """Points (r, z) on a circle in the profile plane, angles in degrees from +r towards +z."""
    angle = np.radians(np.linspace(start, end, points))
    return np.array(centre) + radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def _line(start: tuple[float, float], end: tuple[float, float], points: int) -> np.ndarray:
    return np.linspace(start, end, points)


def _join(meshes: list[Mesh]) -> Mesh:
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(np.concatenate([m.vertices for m in meshes]), np.concatenate([m.normals for m in meshes]),
                np.concatenate([m.faces + s for m, s in zip(meshes, starts)]))


def _grid_faces(rows: int, columns: int, wrap: bool) -> np.ndarray:
    """Triangles of a vertex grid [rows, columns], the second axis turning counter-clockwise seen from outside."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns if wrap else columns - 1), indexing="ij")
    right = (column + 1) % columns
    a, b, c, d = (r * columns + k for r, k in ((row, column), (row, right), (row + 1, right), (row + 1, column)))
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])


def _without_slivers(mesh: Mesh) -> Mesh:
    """MuJoCo refuses triangles without an area, which a profile that touches the axis makes."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return Mesh(mesh.vertices, mesh.normals, mesh.faces[area > 1e-10])


def _lathe(profile: np.ndarray) -> Mesh:
    """A surface of revolution. profile [P, 2]: (r, z), from the bottom outwards and up, then inwards."""
    tangent = np.gradient(profile, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    angle = np.arange(_SEGMENTS) * (2 * np.pi / _SEGMENTS)
    cos, sin, one = np.cos(angle), np.sin(angle), np.ones(_SEGMENTS)
    vertices = np.stack([np.outer(profile[:, 0], cos), np.outer(profile[:, 0], sin), np.outer(profile[:, 1], one)], -1)
    normals = np.stack([np.outer(tangent[:, 1], cos), np.outer(tangent[:, 1], sin), np.outer(-tangent[:, 0], one)], -1)
    faces = _grid_faces(len(profile), _SEGMENTS, wrap=True)
    return _without_slivers(Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), faces))


def _tube(path: np.ndarray, radius: float, segments: int = 10) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    """A tube along a path [P, 3] in the x-z plane, and its convex pieces."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.array([0.0, 1.0, 0.0])
    up = np.cross(tangent, side)
    angle = np.arange(segments) * (2 * np.pi / segments)
    normals = np.cos(angle)[None, :, None] * side + np.sin(angle)[None, :, None] * up[:, None]
    vertices = path[:, None] + radius * normals
    mesh = Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), _grid_faces(len(path), segments, wrap=True))
    return mesh, tuple(np.concatenate([vertices[i], vertices[i + 1]]) for i in range(len(path) - 1))


def _solid_of_revolution(profile: np.ndarray) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    """A convex solid: its only part is its own vertices."""
    mesh = _lathe(profile)
    return mesh, (mesh.vertices,)


def _box(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    half = np.array(((0.040, 0.040, 0.040), (0.046, 0.036, 0.037), (0.048, 0.037, 0.031),
                     (0.035, 0.037, 0.050))[proportion])
    bevel = 0.0055
    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        edge = np.linspace(0, bevel, 4)
        nodes = [np.concatenate([edge - half[k], half[k] - edge[::-1]]) for k in (u, v)]
        for sign in (-1.0, 1.0):
            point = np.empty((len(nodes[0]), len(nodes[1]), 3))
            point[..., u], point[..., v], point[..., axis] = nodes[0][:, None], nodes[1][None, :], sign * half[axis]
            inner = np.clip(point, bevel - half, half - bevel)
            normal = point - inner
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            triangles = _grid_faces(*point.shape[:2], wrap=False)
            if sign < 0:
                triangles = triangles[:, ::-1]
            # _grid_faces turns rows into columns, that is u into v, which is clockwise about +axis.
            faces.append(Mesh((inner + bevel * normal).reshape(-1, 3) + [0, 0, half[2]], normal.reshape(-1, 3),
                              triangles[:, ::-1]))
    mesh = _join(faces)
    return mesh, (mesh.vertices,)


def _ball(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    radius = 0.043
    return _solid_of_revolution(_arc((0, radius), radius, -90, 90, 21))


def _cylinder(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    radius, height = ((0.036, 0.080), (0.038, 0.090), (0.033, 0.092), (0.040, 0.072))[proportion]
    bevel = 0.004
    return _solid_of_revolution(np.concatenate([
        _line((0, 0), (radius - 2 * bevel, 0), 3), _arc((radius - bevel, bevel), bevel, -90, 0, 5),
        _line((radius, 3 * bevel), (radius, height - 3 * bevel), 6),
        _arc((radius - bevel, height - bevel), bevel, 0, 90, 5), _line((radius - 2 * bevel, height), (0, height), 3)]))


def _capsule(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    radius, height = ((0.027, 0.128), (0.028, 0.142), (0.030, 0.136), (0.026, 0.120))[proportion]
    return _solid_of_revolution(np.concatenate([
        _arc((0, radius), radius, -90, 0, 9), _line((radius, radius * 1.2), (radius, height - radius * 1.2), 5),
        _arc((0, height - radius), radius, 0, 90, 9)]))


def _cone(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    radius, height = ((0.045, 0.108), (0.048, 0.102), (0.043, 0.118), (0.050, 0.112))[proportion]
    bevel, tip = 0.004, 0.003
    lean = np.degrees(np.arctan2(radius, height))
    edge = _arc((radius - bevel, bevel), bevel, -90, lean, 5)
    point = _arc((0, height - tip), tip, lean, 90, 5)
    return _solid_of_revolution(np.concatenate([
        _line((0, 0), (radius - 2 * bevel, 0), 3), edge, np.linspace(edge[-1], point[0], 9)[1:-1], point]))


def _mug(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    radius, height = ((0.038, 0.084), (0.041, 0.080), (0.037, 0.092), (0.040, 0.088))[proportion]
    wall, bevel = 0.0045, 0.004
    body = _lathe(np.concatenate([
        _line((0, 0), (radius - 2 * bevel, 0), 3), _arc((radius - bevel, bevel), bevel, -90, 0, 4),
        _line((radius, 3 * bevel), (radius, height - wall), 5),
        _arc((radius - wall / 2, height - wall / 2), wall / 2, 0, 180, 7),
        _line((radius - wall, height - wall), (radius - wall, 2 * wall), 5),
        _line((radius - 1.5 * wall, wall), (0, wall), 3)]))
    reach, half_span = 0.033, 0.33 * height
    angle = np.radians(np.linspace(90, -90, 13))
    path = np.stack([radius - 0.003 + reach * np.cos(angle) ** 0.8, np.zeros(13),
                     height / 2 + half_span * np.sin(angle)], 1)
    handle, pieces = _tube(path, 0.0065)
    outline = np.concatenate([_ring(radius, height - wall), _ring(radius - wall / 2, height), _ring(radius, bevel),
                              _ring(radius - bevel, 0)])
    return _join([body, handle]), (outline, *pieces)


def _bowl(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    radius, height, foot = ((0.062, 0.046, 0.026), (0.066, 0.052, 0.028), (0.060, 0.050, 0.024),
                            (0.068, 0.044, 0.030))[proportion]
    wall = 0.005
    turn = np.linspace(0, 90, 9)[1:]
    outside = np.stack([foot + (radius - foot) * np.sin(np.radians(turn)), height * (1 - np.cos(np.radians(turn)))], 1)
    inside = np.stack([(foot - wall) + (radius - foot) * np.sin(np.radians(turn)),
                       wall + (height - wall) * (1 - np.cos(np.radians(turn)))], 1)[::-1]
    rim = _arc((radius - wall / 2, height), wall / 2, 0, 180, 5)[1:-1]
    mesh = _lathe(np.concatenate([_line((0, 0), (foot, 0), 3), outside, rim, inside,
                                  _line((foot - wall, wall), (0, wall), 3)]))
    outline = [(foot, 0.0), *outside, (radius - wall / 2, height + wall / 2)]
    return mesh, (np.concatenate([_ring(r, z) for r, z in outline]),)


def _bottle(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    radius, height, neck = ((0.031, 0.165, 0.011), (0.034, 0.158, 0.012), (0.030, 0.150, 0.011),
                            (0.033, 0.172, 0.012))[proportion]
    bevel, shoulder, throat = 0.005, 0.52 * height, 0.70 * height
    turn = np.linspace(0, np.pi, 9)
    slope = np.stack([(radius + neck) / 2 + (radius - neck) / 2 * np.cos(turn),
                      shoulder + (throat - shoulder) * turn / np.pi], 1)
    cap = neck * 1.35
    profile = np.concatenate([
        _line((0, 0), (radius - 2 * bevel, 0), 3), _arc((radius - bevel, bevel), bevel, -90, 0, 4),
        _line((radius, 3 * bevel), (radius, shoulder - 0.004), 5), slope,
        _line((neck, throat + 0.004), (neck, height - 0.018), 3),
        _line((cap, height - 0.016), (cap, height - 0.003), 3),
        _line((cap - 0.002, height), (0, height), 3)])
    # The outline is not convex, so each band of the shoulder and neck is a part of its own.
    bands = [(0.0, 0.0), (radius, bevel), *slope, (neck, height - 0.017), (cap, height - 0.016), (cap, height - 0.003)]
    parts = tuple(np.concatenate([_ring(*a), _ring(*b)]) for a, b in zip(bands[1:-1], bands[2:]))
    base = np.concatenate([_ring(radius - bevel, 0), _ring(radius, bevel), _ring(radius, shoulder)])
    lid = np.concatenate([_ring(cap, height - 0.003), _ring(cap - 0.002, height)])
    return _lathe(profile), (base, *parts[1:], lid)


def _ring_solid(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    radius, thickness = ((0.048, 0.014), (0.046, 0.017))[proportion]
    profile = _arc((radius, thickness), thickness, -180, 180, 17)
    mesh = _lathe(profile)
    # Seen from the side or above: a piece of the tube for every few segments of the circle.
    grid = mesh.vertices.reshape(len(profile), _SEGMENTS, 3)
    turns = np.arange(0, _SEGMENTS, 2)
    return mesh, tuple(np.concatenate([grid[:, i], grid[:, i + 1], grid[:, (i + 2) % _SEGMENTS]]) for i in turns)


def _star(proportion: int) -> tuple[Mesh, tuple[np.ndarray, ...]]:
    outer, inner, height = ((0.060, 0.026, 0.034), (0.058, 0.029, 0.044))[proportion]
    bevel = 0.004
    angle = np.arange(10) * (np.pi / 5)
    corners = np.where(np.arange(10) % 2, inner, outer)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    heights = (0.0, bevel, height - bevel, height)
    rings = [np.concatenate([corners * scale, np.full((10, 1), z)], 1)
             for scale, z in zip((1 - bevel / inner, 1.0, 1.0, 1 - bevel / inner), heights)]
    triangles = []
    for i in range(10):
        j = (i + 1) % 10
        for low, high in zip(rings, rings[1:]):
            triangles += [(low[i], low[j], high[j]), (low[i], high[j], high[i])]
        triangles += [((0, 0, 0), rings[0][j], rings[0][i]), ((0, 0, height), rings[-1][i], rings[-1][j])]
    # Vertices of their own for every triangle: its edges are sharp.
    vertices = np.array(triangles)
    normals = np.cross(vertices[:, 1] - vertices[:, 0], vertices[:, 2] - vertices[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    mesh = Mesh(vertices.reshape(-1, 3), np.repeat(normals, 3, 0), np.arange(len(triangles) * 3).reshape(-1, 3))
    solid = np.stack(rings, 1)  # [10, 4, 3]
    tips = [np.concatenate([solid[i - 1], solid[i], solid[(i + 1) % 10], [[0, 0, 0], [0, 0, height]]])
            for i in range(0, 10, 2)]
    return mesh, tuple(tips)


_BUILDERS: dict[str, tuple[Callable[[int], tuple[Mesh, tuple[np.ndarray, ...]]], int]] = {
    "box": (_box, 4), "ball": (_ball, 1), "cylinder": (_cylinder, 4), "capsule": (_capsule, 4), "cone": (_cone, 4),
    "mug": (_mug, 4), "bowl": (_bowl, 4), "bottle": (_bottle, 4),
    "ring": (_ring_solid, 2), "star": (_star, 2)}


@cache
def all_shapes() -> tuple[Shape, ...]:
    """Every kind in each of its proportions at each scale of each size; a shape's place here is its mesh's number."""
    shapes = []
    for kind in (*KINDS, *WORKSHOP_KINDS):
        build, proportions = _BUILDERS[kind]
        for proportion in range(proportions):
            mesh, parts = build(proportion)
            for size, (low, high) in SIZES.items():
                for scale in np.linspace(low, high, _SCALES_PER_SIZE):
                    vertices = mesh.vertices * scale
                    flat = np.linalg.norm(vertices[:, :2], axis=1)
                    shapes.append(Shape(kind, size, Mesh(vertices, mesh.normals, mesh.faces),
                                        tuple(p * scale for p in parts), float(flat.max()), float(vertices[:, 2].max()),
                                        float(np.abs(vertices[:, 1]).max())))
    return tuple(shapes)


@cache
def shapes_of(kind: str, size: str) -> tuple[int, ...]:
    """Numbers of the shapes of one kind and size.

    Args:
        kind: A name in `scene.KINDS` or `scene.WORKSHOP_KINDS`.
        size: A key of `scene.SIZES`.

    Returns:
        Places in `all_shapes()`.
    """
    return tuple(i for i, s in enumerate(all_shapes()) if s.kind == kind and s.size == size)

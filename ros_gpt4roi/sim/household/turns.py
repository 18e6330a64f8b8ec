"""Rotations [3, 3], angles in radians."""

from __future__ import annotations

import numpy as np


def axis(name: str) -> np.ndarray:
    """The unit vector [3] of "x", "-y" and the like."""
    found = np.zeros(3)
    found["xyz".index(name[-1])] = -1 if name.startswith("-") else 1
    return found


def to_z(axis: np.ndarray) -> np.ndarray:
    """A rotation [3, 3] that takes an axis of the frame to z."""
    if axis[2]:
        return np.eye(3) if axis[2] > 0 else about_x(np.pi)
    return about_x(np.pi / 2 * axis[1]) if axis[1] else about_y(-np.pi / 2 * axis[0])


def about_x(angle: float) -> np.ndarray:
    """A turn about the x axis, counter-clockwise as seen against it."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def about_y(angle: float) -> np.ndarray:
    """A turn about the y axis, counter-clockwise as seen against it."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def about_z(angle: float) -> np.ndarray:
    """A turn about the z axis, counter-clockwise as seen against it."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])

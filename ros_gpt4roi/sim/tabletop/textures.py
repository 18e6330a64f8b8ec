"""Procedural surfaces for the floor, the walls and the table top: uint8 RGB [SIZE, SIZE, 3]."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

SIZE = 128


def muted_colour(rng: np.random.Generator, saturation: float) -> np.ndarray:
    """A colour for surroundings: never as strong as an object's, nor as black or white.

    Args:
        rng: Draws it.
        saturation: Most saturation, 0 to 1.

    Returns:
        float32 RGB [3] in 0..255.
    """
    rgb = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, saturation), rng.uniform(0.28, 0.78))
    return np.array(rgb, np.float32) * 255


def _smooth_noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """float32 [SIZE, SIZE] in −1..1 with that many blobs along each axis."""
    coarse = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).clip(-1, 1)


def random_surface(rng: np.random.Generator, saturation: float) -> np.ndarray:
    """A surface's texture, one of: plain, wood, marble, tiles, checks, stripes, speckle.

    Args:
        rng: Draws it.
        saturation: Most saturation of its colours, 0 to 1.

    Returns:
        uint8 RGB [SIZE, SIZE, 3].
    """
    base = muted_colour(rng, saturation)
    other = np.clip(base * rng.uniform(0.6, 1.3) + rng.uniform(-12, 12, 3), 35, 215).astype(np.float32)
    pattern = rng.choice(["plain", "wood", "marble", "tiles", "checks", "stripes", "speckle"])
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    period = int(rng.choice([16, 32, 64]))
    if pattern == "plain":
        mix = 0.15 * _smooth_noise(rng, 6, 6)
    elif pattern == "wood":
        mix = 0.5 + 0.5 * np.sin(_smooth_noise(rng, 3, 3) * 6 + _smooth_noise(rng, 32, 4) * 2 + y / 5.0)
        mix = mix.astype(np.float32) * 0.8
    elif pattern == "marble":
        mix = np.abs(_smooth_noise(rng, 5, 5) + 0.5 * _smooth_noise(rng, 14, 14))
    elif pattern == "tiles":
        mix = ((x % period < 2) | (y % period < 2)).astype(np.float32)
    elif pattern == "checks":
        mix = (((x // period) + (y // period)) % 2).astype(np.float32)
    elif pattern == "stripes":
        mix = ((x // (period // 2)) % 2).astype(np.float32)
    else:
        mix = (rng.uniform(size=(SIZE, SIZE)) < 0.12).astype(np.float32)
    surface = base + (other - base) * mix[..., None] + 5 * _smooth_noise(rng, 40, 40)[..., None]
    return surface.clip(0, 255).astype(np.uint8)


def workshop_surface(rng: np.random.Generator) -> np.ndarray:
    """A surface's texture that `random_surface` never makes, one of: dots, waves, planks.

    Args:
        rng: Draws it.

    Returns:
        uint8 RGB [SIZE, SIZE, 3].
    """
    base = muted_colour(rng, 0.6) * 0.8
    other = np.clip(base * rng.choice([0.45, 1.7]), 20, 225).astype(np.float32)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    period = int(rng.choice([16, 32]))
    pattern = rng.choice(["dots", "waves", "planks"])
    if pattern == "dots":
        mix = np.hypot(x % period - period / 2, y % period - period / 2) < period / 4
    elif pattern == "waves":
        mix = np.sin((y + period / 4 * np.sin(2 * np.pi * x / 64)) * 2 * np.pi / period) > 0
    else:
        mix = (y % period < 2) | ((x + 24 * (y // period)) % 64 < 2)
    surface = base + (other - base) * mix[..., None].astype(np.float32) + 5 * _smooth_noise(rng, 40, 40)[..., None]
    return surface.clip(0, 255).astype(np.uint8)

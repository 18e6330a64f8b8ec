"""The recordings of scripts/recordings as PCM, for the demonstration and the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parent / "recordings"
RATE = 22_050
CHUNK_S = 0.04


def recording(name: str) -> npt.NDArray[np.int16]:
    """A recording, int16 [n] at 22.05 kHz."""
    from faster_whisper.audio import decode_audio
    samples = decode_audio(str(FOLDER / f"{name}.flac"), sampling_rate=RATE)
    return np.rint(np.asarray(samples) * 32768).clip(-32768, 32767).astype(np.int16)


def silence(seconds: float) -> npt.NDArray[np.int16]:
    """Nearly silence, as of a quiet room: int16 [n] at 22.05 kHz."""
    return np.random.default_rng(0).normal(0, 8, int(seconds * RATE)).astype(np.int16)


def chunks(samples: npt.NDArray[np.int16]) -> Iterator[npt.NDArray[np.int16]]:
    """The samples in pieces of 40 ms, as a microphone gives them."""
    size = int(CHUNK_S * RATE)
    for start in range(0, len(samples), size):
        yield samples[start:start + size]

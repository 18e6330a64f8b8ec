"""Sound as recognisers and voice activity detectors take it: 16 kHz, one channel, 16-bit PCM."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RATE = 16_000
"""Samples a second, of everything behind a `Converter`."""

Samples = npt.NDArray[np.int16]

_RATES = (4_000, 384_000)
_MOST_CHANNELS = 64
_FULL = 32_700  # of 32767: what is beyond was most likely cut off


class AudioError(ValueError):
    """Audio that cannot be used; the message names the value and what was expected."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a stream of audio, as a microphone or a topic gives it.

    Attributes:
        samples: int16 [frames, channels].
        rate: Samples a second.
        stamp_ns: When the first of them was heard, in nanoseconds of ROS time; stamps are data and set no limits.
        frame_id: The microphone's frame; may be empty.
    """

    samples: Samples
    rate: int
    stamp_ns: int = 0
    frame_id: str = ""

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.samples) / self.rate


def pcm16(data: bytes | memoryview, channels: int) -> Samples:
    """Reads interleaved little-endian 16-bit PCM.

    Args:
        data: Whole frames.
        channels: Samples in a frame.

    Returns:
        int16 [frames, channels].

    Raises:
        AudioError: A number of channels that cannot be, or a part of a frame.
    """
    if not 1 <= channels <= _MOST_CHANNELS:
        raise AudioError(f"audio has {channels} channels; expected 1 to {_MOST_CHANNELS}")
    if len(data) % (2 * channels):
        raise AudioError(f"audio has {len(data)} bytes; expected whole frames of {channels} x 2 bytes (16-bit PCM)")
    return np.frombuffer(data, "<i2").astype(np.int16, copy=False).reshape(-1, channels)


def clipped_share(samples: Samples) -> float:
    """Which part of the samples reaches the end of the scale, 0..1: 0.01 can be heard."""
    return float(np.mean(np.abs(samples.astype(np.int32)) >= _FULL)) if samples.size else 0.0


class Converter:
    """Turns a stream of any rate and number of channels into 16 kHz mono.

    Args:
        rate: Of the stream, 4000 to 384000.

    Raises:
        AudioError: The rate cannot be converted.
    """

    def __init__(self, rate: int) -> None:
        if not _RATES[0] <= rate <= _RATES[1]:
            raise AudioError(f"audio has {rate} samples a second; expected {_RATES[0]} to {_RATES[1]}")
        import soxr  # here, so that the node's parameters are known without the packages of speech
        self.rate = rate
        self._resampler = None if rate == RATE else soxr.ResampleStream(rate, RATE, 1, dtype="float32")

    def convert(self, samples: Samples) -> Samples:
        """Converts the next piece of the stream; a resampler holds some milliseconds back.

        Args:
            samples: int16 [frames, channels].

        Returns:
            int16 [n], at 16 kHz.
        """
        if samples.shape[1] == 1 and self._resampler is None:
            return samples[:, 0]
        mono = samples.mean(axis=1, dtype=np.float32)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono)
        return np.rint(mono).clip(-32768, 32767).astype(np.int16)

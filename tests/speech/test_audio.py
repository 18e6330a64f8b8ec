"""Any rate and number of channels becomes 16 kHz mono."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("soxr", reason="requirements/speech.txt is not installed")

from ros_gpt4roi.speech.audio import RATE, AudioError, Converter, clipped_share, pcm16


def tone(rate: int, channels: int, hz: float = 440.0, seconds: float = 1.0) -> np.ndarray:
    wave = 10_000 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)
    return np.repeat(wave.astype(np.int16)[:, None], channels, axis=1)


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (16_000, 2), (8_000, 1), (44_100, 2), (48_000, 6)])
def test_a_tone_keeps_its_pitch_and_loudness(rate: int, channels: int) -> None:
    converter = Converter(rate)
    pieces = [converter.convert(piece) for piece in np.array_split(tone(rate, channels), 37)]
    audio = np.concatenate(pieces)
    assert audio.dtype == np.int16
    assert 0.9 * RATE < len(audio) <= 1.01 * RATE
    middle = audio[2000:2000 + 8000].astype(float)
    spectrum = np.abs(np.fft.rfft(middle))
    assert abs(np.argmax(spectrum) * RATE / len(middle) - 440) < 3
    assert 9_000 < middle.max() < 11_000


def test_what_is_no_audio_is_refused() -> None:
    assert pcm16(tone(16_000, 2).tobytes(), 2).shape == (16_000, 2)
    with pytest.raises(AudioError, match="5 bytes; expected whole frames of 2 x 2"):
        pcm16(b"12345", 2)
    with pytest.raises(AudioError, match="0 channels; expected 1 to 64"):
        pcm16(b"1234", 0)
    with pytest.raises(AudioError, match="3 samples a second; expected 4000"):
        Converter(3)


def test_clipping_is_measured() -> None:
    loud = np.clip(tone(16_000, 1).astype(int) * 6, -32768, 32767).astype(np.int16)
    assert clipped_share(loud) > 0.3 and clipped_share(tone(16_000, 1)) == 0.0 == clipped_share(loud[:0])

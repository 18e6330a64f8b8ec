"""A microphone of the machine, by sounddevice (PortAudio)."""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .audio import RATE, AudioError, Chunk

_BLOCK_S = 0.032
_SILENT_S = 2.0  # a stream that gives nothing for so long is gone: some drivers do not say so


class Microphone:
    """An open microphone; its chunks are handed over in PortAudio's thread.

    Args:
        device: PortAudio's number or a part of the name; empty: the default one.
        frame_id: For the chunks.
        receive: Takes each chunk, and must return at once.
        now_ns: The present time for stamps, in nanoseconds.

    Raises:
        AudioError: There is no such microphone, it cannot be opened, or sounddevice or PortAudio is not installed.
    """

    def __init__(self, device: str, frame_id: str, receive: Callable[[Chunk], None], now_ns: Callable[[], int]) -> None:
        self._frame_id, self._receive, self._now_ns = frame_id, receive, now_ns
        self._rate, self._heard_s = RATE, time.monotonic()
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # OSError: PortAudio's library is missing
            raise AudioError(f"no microphone can be opened: {error}; expected the package sounddevice and PortAudio "
                             "(sudo apt-get install libportaudio2)") from error
        try:
            # PortAudio lists devices once: one that was plugged in since is found only so.
            sounddevice._terminate()
            sounddevice._initialize()
            which: Any = int(device) if device.isdigit() else device or None
            found = sounddevice.query_devices(which, "input")
            self.name = str(found["name"])
            self._stream = self._open(sounddevice, which, int(found["default_samplerate"]))
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            raise AudioError(f"no microphone {device or '(the default one)'}: {error}; expected one of "
                             f"{_inputs(sounddevice) or 'none, as there are none'}") from error

    def _open(self, sounddevice: Any, which: Any, default: int) -> Any:
        for self._rate in (RATE, default):  # devices that know 48 kHz only are converted here
            try:
                return sounddevice.RawInputStream(samplerate=self._rate, blocksize=int(self._rate * _BLOCK_S),
                                                  device=which, channels=1, dtype="int16", callback=self._on_audio)
            except sounddevice.PortAudioError:
                if self._rate == default:
                    raise
        raise AssertionError

    def lost(self) -> str:
        """Why nothing comes any more; empty while it does."""
        if not self._stream.active:
            return f"the microphone {self.name} has ended; was it unplugged?"
        silent_s = time.monotonic() - self._heard_s
        return f"the microphone {self.name} has given nothing for {silent_s:.0f} s" if silent_s > _SILENT_S else ""

    def close(self) -> None:
        """Closes it; one that was unplugged, too."""
        try:
            self._stream.close(ignore_errors=True)
        except Exception:  # noqa: B902  (whatever a driver raises for a device that is gone)
            return

    def _on_audio(self, data: Any, frames: int, times: Any, status: Any) -> None:
        self._heard_s = time.monotonic()
        samples = np.frombuffer(data, np.int16).reshape(-1, 1).copy()
        began = self._now_ns() - int(1e9 * frames / self._rate)
        self._receive(Chunk(samples, self._rate, began, self._frame_id))


def _inputs(sounddevice: Any) -> str:
    return ", ".join(f"{item['index']} {item['name']}" for item in sounddevice.query_devices()
                     if item["max_input_channels"] > 0)

"""What a browser's microphone hears, on its way to the speech node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from ros_gpt4roi.speech.audio import AudioError, Converter, pcm16

from .voice import MOST_TALK_S, Voice


class TalkError(ValueError):
    """Nobody can talk, or it can't go on; the text says why."""


class TalkStream:
    """One browser's turn to talk, of which there is one at a time. For use in the event loop alone.

    Args:
        voice: Where it goes.
        rate: Of the browser's microphone, samples a second.
        on_end: Called when it ends by itself, with the reason.

    Raises:
        TalkError: There is no speech node, or the rate can't be converted.
    """

    def __init__(self, voice: Voice, rate: int, on_end: Callable[[str], None]) -> None:
        there, state = voice.state()
        if not there:
            raise TalkError(state)
        try:
            self._converter = Converter(rate)
        except AudioError as error:
            raise TalkError(str(error)) from error
        except ImportError as error:
            raise TalkError(f"audio of {rate} samples a second can't be converted: {error}; expected "
                            "requirements/speech.txt to be installed") from error
        self._voice, self._rate, self._on_end = voice, rate, on_end
        self._left = int(MOST_TALK_S * rate)  # samples; they may come faster than they were spoken
        self.open = True
        """Whether it has not ended yet."""
        self._limit = asyncio.get_running_loop().call_later(MOST_TALK_S, self._end_late)

    def feed(self, data: bytes) -> None:
        """Takes the next piece, 16-bit PCM of one channel.

        Raises:
            TalkError: It is none.
        """
        if not self.open:
            return
        if len(data) > 2 * self._rate:
            raise TalkError(f"a piece of audio has {len(data)} bytes; expected at most one second")
        try:
            samples = self._converter.convert(pcm16(data, 1))
        except AudioError as error:
            raise TalkError(str(error)) from error
        self._left -= len(data) // 2
        if samples.size:  # a resampler may hold all of a piece back
            self._voice.hand_over(samples)
        if self._left < 0:
            self._end_late()

    def end(self) -> None:
        """It has ended; a second call does nothing."""
        if self.open:
            self.open = False
            self._limit.cancel()
            self._voice.hand_over(np.zeros(0, np.int16))

    def _end_late(self) -> None:
        if self.open:
            self.end()
            self._on_end(f"ended after {MOST_TALK_S:.0f} seconds, which is the limit")

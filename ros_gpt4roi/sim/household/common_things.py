"""Questions without a picture: what people know of things that the household does not have (common_things.yaml).

What a small language model was told in training of the things that it sees, it can repeat; that it is also to tell what
it knows of others, it learns from these.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path

import numpy as np
import yaml

from ros_gpt4roi.configuration import Configuration, build, setting
from ros_gpt4roi.sim.region_sampler import sentence
from ros_gpt4roi.sim.text_rounds import Expected, TextRound

from .scoring import meaning
from .wordings import CHOICES, FACTS, QUESTIONS

_CHOICES = 3  # things that a question lets choose among


@dataclass(frozen=True)
class Thing(Configuration):
    """A common thing."""

    name: str = setting(MISSING, "With its article.")
    use: str = setting(MISSING, "What it is for, one sentence.")
    used_to: str = setting(MISSING, "What somebody wants to do who needs it, after \"to\".")
    facts: tuple[str, ...] = setting(MISSING, "What is true of it.", choices=tuple(FACTS))

    @property
    def told(self) -> str:
        """"A kettle: it boils water."."""
        return sentence(f"{self.name}: {self.use[0].lower()}{self.use[1:-1]}")


@functools.cache
def things() -> tuple[Thing, ...]:
    """All common things."""
    path = Path(__file__).with_name("common_things.yaml")
    return tuple(build(Thing, values) for values in yaml.safe_load(path.read_text(encoding="utf-8")))


@functools.cache
def _with_fact() -> Mapping[str, tuple[list[Thing], list[Thing]]]:
    return {fact: ([t for t in things() if fact in t.facts], [t for t in things() if fact not in t.facts])
            for fact in FACTS}


def common_rounds(rng: np.random.Generator, rounds: int) -> list[TextRound]:
    """Questions about common things: what one is for, which of some serves a purpose, whether a fact is true of one.

    Args:
        rng: Draws things and wordings.
        rounds: How many, each about another thing.
    """
    return [_FORMS[int(rng.integers(len(_FORMS)))](things()[i], rng)
            for i in rng.permutation(len(things()))[:rounds].tolist()]


def _use(thing: Thing, rng: np.random.Generator) -> TextRound:
    told = (thing.use, f"It is {thing.told[0].lower()}{thing.told[1:]}")
    return _round(str(rng.choice(QUESTIONS["use"])).format(thing.name), str(rng.choice(told)), "use")


def _need(thing: Thing, rng: np.random.Generator) -> TextRound:
    others = [things()[i].name for i in rng.permutation(len(things()))[:_CHOICES].tolist()]
    *names, last = rng.permutation([thing.name, *[name for name in others if name != thing.name][:_CHOICES - 1]])
    return _round(str(rng.choice(CHOICES)).format(thing.used_to, f"{', '.join(names)} or {last}"), thing.told, "need")


def _fact(thing: Thing, rng: np.random.Generator) -> TextRound:
    fact = str(rng.choice(sorted(FACTS)))
    having, lacking = _with_fact()[fact]
    truth = bool(rng.random() < 0.5)  # few things are fragile: about any thing, no would be nearly always right
    among = having if truth else lacking
    thing = among[int(rng.integers(len(among)))]
    said = sentence(f"{thing.name} {FACTS[fact][2]}, so yes") if truth else f"{thing.told[:-1]}, so no."
    return _round(str(rng.choice(FACTS[fact][1])).format(thing.name), said, f"is_{fact}")


def _round(question: str, answer: str, form: str) -> TextRound:
    return TextRound(question, answer, "use_trained", form, Expected("statement", meaning(answer), len(things())))


_FORMS = (_use, _use, _need, _fact)

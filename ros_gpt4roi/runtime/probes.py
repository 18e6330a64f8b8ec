"""Probes: questions about stored frames with known answers, by which a model is compared with the one before it.

A model's folder may hold `probes/probes.json` with its pictures beside it:

    {"probes": [{"image": "0.jpg", "boxes": [[x1, y1, x2, y2], …],
                 "questions": [{"text": "What is region 1?", "answers": ["red ball"]}, …]}, …]}

Boxes are in pixels of the picture, and regions are called by their place, from 1. An answer is right where it contains
one of `answers`, whole words, whatever their case.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..image_file import read_image
from ..regular_file import read_json
from .region_text import JOINED
from .types import Answer, Frame, Region, Status

PROBES_FILE = Path("probes") / "probes.json"
_MOST = 10_000  # questions
# Where words are written without spaces between them, each letter is one.
_WORD = re.compile(rf"[{JOINED}]|[^\W{JOINED}]+")


class ProbesError(ValueError):
    """Probes that cannot be used; the message names the file, the entry and what was expected."""


@dataclass(frozen=True)
class Probe:
    """A question with its right answers.

    Attributes:
        frame: What it is about; the questions of one picture share one.
        text: The question.
        answers: A right answer contains one of these.
    """

    frame: Frame
    text: str
    answers: tuple[str, ...]

    def is_right(self, answer: Answer) -> bool:
        """Whether an answer is a right one."""
        return answer.status is Status.OK and any(contains(answer.text, known) for known in self.answers)


def read_probes(folder: Path) -> list[Probe]:
    """Read the probes of a model's folder; none where it has no such file.

    Raises:
        ProbesError: The file or one of its pictures cannot be used.
    """
    path = folder / PROBES_FILE
    if not path.exists():
        return []
    try:
        probes = [probe for entry in read_json(path)["probes"] for probe in _read(path.parent, entry)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ProbesError(f"{path}: {error!r}, expected {{\"probes\": [{{\"image\", \"boxes\", \"questions\": "
                          "[{\"text\", \"answers\"}]}]}") from error
    if len(probes) > _MOST:
        raise ProbesError(f"{path}: {len(probes)} questions, expected at most {_MOST}")
    return probes


def _read(folder: Path, entry: dict[str, Any]) -> list[Probe]:
    name = str(entry["image"])
    if Path(name).name != name:
        raise ValueError(f"image {name!r} is not beside the file")
    boxes = [tuple(map(float, box)) for box in entry["boxes"]]
    if any(len(box) != 4 for box in boxes):
        raise ValueError(f"boxes {boxes} of {name}, expected four numbers each")
    frame = Frame(read_image(folder / name),
                  tuple(Region(str(place), box) for place, box in enumerate(boxes, 1)),  # type: ignore[arg-type]
                  0, "")
    return [Probe(frame, str(question["text"]), _answers(question)) for question in entry["questions"]]


def _answers(question: dict[str, Any]) -> tuple[str, ...]:
    answers = question["answers"]
    if not (isinstance(answers, list) and answers):  # of a mere text, each letter would be an answer
        raise ValueError(f"answers of {question['text']!r} are {answers!r}, expected a list of at least one")
    return tuple(map(str, answers))


def count_right(probes: Iterable[Probe], ask: Callable[[Probe], Answer]) -> int:
    """How many probes are answered rightly."""
    return sum(probe.is_right(ask(probe)) for probe in probes)


def contains(text: str, phrase: str) -> bool:
    """Whether a text contains a phrase, whole words, whatever their case."""
    return f" {_words(phrase)} " in f" {_words(text)} "


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))

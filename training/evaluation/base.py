"""What every benchmark is: items to ask, answers to score, and the protocol's name beside the numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from typing import Any

import numpy as np

from ros_gpt4roi.image_file import ImageFileError
from training.data.record import Record
from training.data.report import Report

# Texts for records about one image and its boxes: the question is a record's last round, earlier rounds are history
# with their answers.
Answer = Callable[[Sequence[Record]], Sequence[str]]


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        record: Its last round's answer is the truth that is shown.
        references: All right answers.
        truth: What else its benchmark scores an answer by.
    """

    record: Record
    references: tuple[str, ...]
    truth: Any = None

    @property
    def picture(self) -> tuple[Any, ...]:
        """What image and boxes it is about."""
        image = self.record.image
        return id(image) if isinstance(image, np.ndarray) else str(image), self.record.boxes.tobytes()


@dataclass(frozen=True)
class Scored:
    """An item, what the model said, and how good that was (0 worst, 1 best), to find the worst cases."""

    item: Item
    text: str
    score: float


@dataclass(frozen=True)
class Result:
    """What a benchmark measured.

    Attributes:
        name: Of the benchmark.
        protocol: Likewise.
        metrics: Name → value in the unit of the published tables (per cent where those are); None where not measured.
        cases: All questions that were asked.
        malformed: Items and pictures that could not be read.
        errors: What was wrong with the first of them.
    """

    name: str
    protocol: str
    metrics: dict[str, float | None]
    cases: list[Scored] = field(default_factory=list)
    malformed: int = 0
    errors: Sequence[str] = ()


# (metrics, a score of every item)
Scores = tuple[dict[str, float | None], np.ndarray]


class Benchmark(ABC):
    """A data set with a way to score. ``protocol`` says in a sentence what is asked of what, and how it is counted."""

    name: str
    protocol: str

    @cached_property
    def report(self) -> Report:
        """Counts items that cannot be read; `run` sets one with a limit of its own."""
        return Report(0)

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """The questions, in a fixed order; malformed ones are counted in `report` and left out."""

    @abstractmethod
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        """Score texts. ``items`` may be only some of them all, but holds every item about a picture or the first."""


def per_cent(right: Sequence[Any] | np.ndarray) -> float | None:
    """The mean of truth values or of scores in 0..1, × 100; None of none."""
    return 100 * float(np.mean(right)) if len(right) else None


def run(benchmark: Benchmark, answer: Answer, limit: int | None = None, batch: int = 16,
        malformed_limit: int = 0) -> Result:
    """Ask a benchmark's items in batches and score the answers.

    Args:
        benchmark: What is asked.
        answer: Who answers; ImageFileError where the picture cannot be read.
        limit: Ask only the first items; None: all.
        batch: Most questions at once.
        malformed_limit: Items and pictures that may be malformed; they are named, counted and left out.

    Returns:
        Metrics and cases.

    Raises:
        RecordError: More of them are malformed.
        ValueError: There are no items.
    """
    benchmark.report = report = Report(malformed_limit)
    listed = list(islice(benchmark.items(), limit))
    items, texts = list[Item](), list[str]()
    for begin in range(0, len(listed), batch):
        for _, about_one in groupby(listed[begin:begin + batch], key=lambda item: item.picture):
            asked = list(about_one)
            try:
                said = answer([item.record for item in asked])
            except ImageFileError as error:
                report.fail(f"{asked[0].record.source}: {error}", asked[0].picture[0])
                continue
            if len(said) != len(asked):
                raise ValueError(f"{benchmark.name}: {len(said)} answers to {len(asked)} questions")
            items += asked
            texts += said
    if not items:
        raise ValueError(f"{benchmark.name}: no items")
    metrics, scores = benchmark.score(items, texts)
    cases = [Scored(item, text, float(score)) for item, text, score in zip(items, texts, scores, strict=True)]
    return Result(benchmark.name, benchmark.protocol, {"items": len(items), **metrics}, cases, report.malformed,
                  report.errors)

"""What every benchmark is: items to ask, answers to score, and the protocol's name beside the numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from training.data.record import Record

# Texts for records: the question is a record's last round, earlier rounds are history with their answers.
Answer = Callable[[Sequence[Record]], Sequence[str]]


@dataclass(frozen=True)
class Item:
    """One question. ``record.rounds[-1].answer`` is the truth that is shown; ``references`` are all right answers."""

    record: Record
    references: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """An item, what the model said, and how good that was (0 worst, 1 best), to find the worst cases."""

    item: Item
    text: str
    score: float


@dataclass(frozen=True)
class Result:
    """metrics: name → value in the unit of the published tables (per cent where those are); None where not measured."""

    name: str
    protocol: str
    metrics: dict[str, float | None]
    cases: list[Scored] = field(default_factory=list)


# (metrics, a score of every item)
Scores = tuple[dict[str, float | None], np.ndarray]


class Benchmark(ABC):
    """A data set with a way to score. ``protocol`` says in a sentence what is asked of what, and how it is counted."""

    name: str
    protocol: str

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """The questions, in a fixed order."""

    @abstractmethod
    def score(self, items: Sequence[Item], texts: Sequence[str]) -> Scores:
        """Score texts. ``items`` may be only the first of them all."""


def run(benchmark: Benchmark, answer: Answer, limit: int | None = None, batch: int = 16) -> Result:
    """Ask the first ``limit`` items in batches and score the answers. Raises ValueError where there are none."""
    items = list(islice(benchmark.items(), limit))
    if not items:
        raise ValueError(f"{benchmark.name}: no items")
    texts: list[str] = []
    for begin in range(0, len(items), batch):
        records = [item.record for item in items[begin:begin + batch]]
        said = answer(records)
        if len(said) != len(records):
            raise ValueError(f"{benchmark.name}: {len(said)} answers to {len(records)} questions")
        texts += said
    metrics, scores = benchmark.score(items, texts)
    cases = [Scored(item, text, float(score)) for item, text, score in zip(items, texts, scores, strict=True)]
    return Result(benchmark.name, benchmark.protocol, {"items": len(items), **metrics}, cases)

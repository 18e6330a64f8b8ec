"""What question templates of every world draw from: regions, wordings and a random generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def with_article(phrase: str) -> str:
    """``phrase`` with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def sentence(text: str) -> str:
    """``text`` with a capital letter and a full stop."""
    return text[0].upper() + text[1:] + "."


class RegionSampler:
    """Draws the regions that a question is about, and its wording; regions are 0-based places in the scene's objects.

    Args:
        rng: Draws everything.
        count: How many regions there are.
        it: The region that "it" means at this point of the conversation, and that the question is to be about.
        described: Regions whose looks an answer has told already, not asked about if there are others.
    """

    def __init__(self, rng: np.random.Generator, count: int, it: int | None, described: frozenset[int]) -> None:
        self.rng, self.count, self.it, self.described = rng, count, it, described

    def pick(self, items: Sequence[T]) -> T:
        """One of ``items``, each as likely as the others."""
        return items[int(self.rng.integers(len(items)))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """``items`` in random order."""
        return [items[int(i)] for i in self.rng.permutation(len(items))]

    def first(self, forms: Sequence[Callable[[Any], T | None]]) -> T | None:
        """What the first of ``forms`` gives that has something, tried in random order; None where none has."""
        return next((turn for form in self.shuffled(forms) if (turn := form(self)) is not None), None)

    def coin(self, probability: float = 0.5) -> bool:
        """True with ``probability``."""
        return bool(self.rng.random() < probability)

    def target(self) -> int:
        """The object to ask about."""
        if self.it is not None:
            return self.it
        return self.pick([i for i in range(self.count) if i not in self.described] or range(self.count))

    def number(self, i: int) -> str:
        """The reference to object i by its region: ``<regionK>``."""
        return f"<region{i + 1}>"

    def triples(self, limit: int = 12) -> list[tuple[int, int, int]]:
        """Some ordered triples of different objects, the one that "it" means first where there is one."""
        found = []
        for _ in range(limit if self.count >= 3 else 0):
            first = self.target()
            rest = self.shuffled([j for j in range(self.count) if j != first])
            found.append((first, rest[0], rest[1]))
        return found

    def partners(self, i: int) -> list[int]:
        """All other objects in random order."""
        return self.shuffled([j for j in range(self.count) if j != i])


def regions_of(*objects: int) -> tuple[int, ...]:
    """Region numbers of 0-based objects, each once."""
    return tuple(dict.fromkeys(i + 1 for i in objects))


def join(parts: Sequence[str]) -> str:
    """"a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]

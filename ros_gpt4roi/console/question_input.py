"""The line in which questions are typed: with history, and completion of the names of regions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from textual.binding import Binding
from textual.suggester import Suggester
from textual.widgets import Input

_MOST_REMEMBERED = 500
_LONGEST = 4000  # characters of a question
_REGION = re.compile(r"\bregions?\s+(?:\S+\s+and\s+)?(\S*)$", re.IGNORECASE)


def complete(typed: str, ids: Iterable[str]) -> str | None:
    """What a question may be meant to go on as.

    Args:
        typed: The question so far.
        ids: Names of the regions that are in sight.

    Returns:
        The question with its last word completed, to "region" or to a region's name behind it; None where it is none of
        both.
    """
    if match := _REGION.search(typed):
        begun = match[1]
        name = next((name for name in ids if name.startswith(begun) and name != begun and name.isprintable()), None)
        return None if name is None or begun in ids else typed + name[len(begun):]
    word = typed.rpartition(" ")[2]
    if len(word) >= 2 and "region".startswith(word.lower()) and word.lower() != "region":
        return typed + "region"[len(word):]
    return None


class QuestionInput(Input):
    """Up and down bring earlier questions back, Tab takes the completion that is shown.

    Args:
        region_ids: Gives the names of the regions that are in sight.
        placeholder: Shown while nothing is typed.
    """

    BINDINGS = [
        Binding("up", "earlier", "Earlier", show=False),
        Binding("down", "later", "Later", show=False),
        Binding("tab", "take_completion", "Complete", priority=True),
    ]

    def __init__(self, region_ids: Callable[[], list[str]], placeholder: str) -> None:
        super().__init__(placeholder=placeholder, max_length=_LONGEST, suggester=_Suggester(region_ids))
        self._region_ids = region_ids
        self._history: list[str] = []
        self._place = 0  # in the history; its length: the new question
        self._draft = ""

    def remember(self, question: str) -> None:
        """Adds a question to the history."""
        if self._history[-1:] != [question]:
            self._history = [*self._history, question][-_MOST_REMEMBERED:]
        self._place = len(self._history)

    def action_earlier(self) -> None:
        """Shows the question before."""
        if self._place == len(self._history):
            self._draft = self.value
        self._go_to(max(self._place - 1, 0))

    def action_later(self) -> None:
        """Shows the question after, at last the one that was begun."""
        self._go_to(min(self._place + 1, len(self._history)))

    def action_take_completion(self) -> None:
        """Completes the word; where there is nothing to complete, goes to the next widget."""
        completed = complete(self.value, self._region_ids())
        if completed is None or self.cursor_position < len(self.value):
            self.screen.focus_next()
            return
        self.value, self.cursor_position = completed, len(completed)

    def _go_to(self, place: int) -> None:
        if place == self._place:
            return
        self._place = place
        self.value = self._history[place] if place < len(self._history) else self._draft
        self.cursor_position = len(self.value)


class _Suggester(Suggester):
    def __init__(self, region_ids: Callable[[], list[str]]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._region_ids = region_ids

    async def get_suggestion(self, value: str) -> str | None:
        return complete(value, self._region_ids())

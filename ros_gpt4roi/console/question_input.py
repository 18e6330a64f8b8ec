"""The line in which questions are typed: with history, and completion of the names of regions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from textual.binding import Binding
from textual.events import Key
from textual.suggester import Suggester
from textual.widgets import Input

_MOST_REMEMBERED = 500
_LONGEST = 4000  # characters of a question
_REGION = re.compile(r"\bregions?\s+(?:\S+\s+and\s+)?(\S*)$", re.IGNORECASE)


def completions(typed: str, ids: Iterable[str]) -> list[str]:
    """What a question may be meant to go on as.

    Args:
        typed: The question so far.
        ids: Names of the regions that are in sight.

    Returns:
        The question with its last word completed: to "region" and a blank, or to each region's name behind it.
    """
    if match := _REGION.search(typed):
        begun = match[1]
        return [typed + name[len(begun):] for name in ids if name.startswith(begun) and name.isprintable()]
    word = typed.rpartition(" ")[2]
    if len(word) >= 2 and "region".startswith(word.lower()):
        return [typed + "region "[len(word):]]
    return []


class QuestionInput(Input):
    """Up and down bring earlier questions back, Tab completes the last word; where several names fit, each in turn.

    Args:
        region_ids: Gives the names of the regions that are in sight.
        placeholder: Shown while nothing is typed.
    """

    BINDINGS = [
        Binding("up", "earlier", "Earlier", show=False),
        Binding("down", "later", "Later", show=False),
    ]

    def __init__(self, region_ids: Callable[[], list[str]], placeholder: str) -> None:
        super().__init__(placeholder=placeholder, max_length=_LONGEST, suggester=_Suggester(region_ids),
                         select_on_focus=False)  # what is typed elsewhere comes here, and must not be replaced
        self._region_ids = region_ids
        self._history: list[str] = []
        self._place = 0  # in the history; its length: the new question
        self._draft = ""
        self._offered: list[str] = []  # completions, of which Tab takes one after the other
        self._taken = ""  # of them

    def on_key(self, event: Key) -> None:
        """Takes Tab in its turn among the keys, which may come in a burst; it never leaves the field."""
        if event.key == "tab":
            event.stop()
            event.prevent_default()
            self._complete()

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

    def _complete(self) -> None:
        if self.cursor_position < len(self.value):
            return
        if self.value != self._taken or len(self._offered) < 2:
            self._offered = completions(self.value, self._region_ids())
        if self._offered:
            place = self._offered.index(self.value) + 1 if self.value in self._offered else 0
            self._taken = self._offered[place % len(self._offered)]
            self.value, self.cursor_position = self._taken, len(self._taken)

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
        found = completions(value, self._region_ids())
        return None if value in found else next(iter(found), None)

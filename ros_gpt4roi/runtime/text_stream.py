"""Token ids, or pieces of text, to text as it grows."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

# What a decoder writes for bytes that are no character. A character that is not all there has at most three bytes: more
# of these at the end are bytes that never will be one.
_INCOMPLETE, _MOST_INCOMPLETE = "\ufffd", 3
Part = TypeVar("Part")


class TextStream(Generic[Part]):
    """Gives the text that a growing list of token ids, or of other parts, has surely added.

    A character whose bytes are not all there waits, and so does what may yet become a stop text.
    decode: parts → the model's text. stop_texts: the text ends before the first of them. render: the model's text → the
    reader's, piecewise: the rendering of a part is the part of the rendering. hold: how many last characters of a model
    text must wait for that to be true.
    """

    def __init__(self, decode: Callable[[Sequence[Part]], str], stop_texts: Sequence[str] = (),
                 render: Callable[[str], str] = str, hold: Callable[[str], int] = lambda text: 0):
        self._decode, self._stop_texts, self._render, self._hold = decode, tuple(stop_texts), render, hold
        self._given = 0
        self.raw = ""  # the model's text up to a stop text
        self.text = ""  # the reader's text given so far
        self.stopped = False

    def push(self, parts: Sequence[Part], final: bool = False) -> str:
        """The reader's text that is new since the last call, for all parts so far. final: no more will come."""
        if not self.stopped:
            self.raw = self._decode(parts)
            found = [at for at in (self.raw.find(stop) for stop in self._stop_texts) if at >= 0]
            if found:
                self.raw, self.stopped = self.raw[:min(found)], True
        end = len(self.raw)
        if not (final or self.stopped):
            end = max(len(self.raw.rstrip(_INCOMPLETE)), len(self.raw) - _MOST_INCOMPLETE)
            for stop in self._stop_texts:
                end = min(end, len(self.raw) - _overlap(self.raw, stop))
            end = min(end, end - self._hold(self.raw[:end]))
            end = len(self.raw[:end].rstrip())  # an answer does not end in blanks: give them with what follows
        rendered = self._render(self.raw[:end]).lstrip()  # nor does it begin with them
        if final or self.stopped:
            rendered = rendered.rstrip()
        new = rendered[self._given:]
        if new:
            self._given, self.text = len(rendered), rendered
        return new


def _overlap(text: str, stop: str) -> int:
    """How many last characters of `text` are the beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0

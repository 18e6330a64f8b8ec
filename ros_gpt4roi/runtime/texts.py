"""A text while it is written, whoever writes it: the local generator, or a server."""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .text_stream import TextStream
from .types import Status

logger = logging.getLogger(__name__)
Part = TypeVar("Part")


@dataclass(eq=False, kw_only=True)
class Text(Generic[Part]):
    """One text that is written.

    Attributes:
        max_new_tokens: Most tokens of the text.
        dropped_rounds: How many of the conversation's oldest rounds the prompt had no room for.
        stream: Turns what was generated into text; None where only that is wanted.
        on_text: Receives the text as it grows, piece by piece.
        generated: What was written so far: token ids, or pieces of text.
        probabilities: Of the tokens, under the model, as far as they are known.
        status: None while it goes on. OK: complete, or cut (see `cut`); else why it ended early.
        error: The reason, where status is not OK.
        cut: Whether the limit of tokens ended the text.
    """

    max_new_tokens: int
    dropped_rounds: int = 0
    stream: TextStream[Part] | None = None
    on_text: Callable[[str], None] | None = None
    generated: list[Part] = field(default_factory=list, init=False)
    probabilities: list[float] = field(default_factory=list, init=False)
    status: Status | None = field(default=None, init=False)
    error: str = field(default="", init=False)
    cut: bool = field(default=False, init=False)

    @property
    def text(self) -> str:
        """The reader's text so far."""
        return self.stream.text if self.stream is not None else ""

    @property
    def confidence(self) -> float:
        """Mean probability of the generated tokens; 0 where there are none."""
        return sum(self.probabilities) / len(self.probabilities) if self.probabilities else 0.0

    def end(self, status: Status, error: str = "", cut: bool = False) -> None:
        """End the text; the first reason holds. Whoever writes it stops at its next step."""
        if self.status is None:
            self.status, self.error, self.cut = status, error, cut
            self.read()

    def fail(self, error: Exception) -> None:
        """End the text because of an error that concerns it alone."""
        logger.exception("a text failed", exc_info=error)
        self.status, self.error = Status.FAILED, f"{type(error).__name__}: {error}"

    def read(self) -> None:
        """Turn what was generated into text and pass on what is new; a stop text ends it."""
        if self.stream is None:
            return
        try:
            new = self.stream.push(self.generated, final=self.status is not None)
        except Exception as error:  # whatever a tokenizer makes of a model's tokens concerns this text alone
            self.fail(error)
            return
        if new and self.on_text is not None and self.status in (None, Status.OK):
            try:
                self.on_text(new)
            except Exception as error:  # the listener's own; it must not take the worker down
                self.status, self.error = Status.CANCELED, f"the listener to the text failed: {error!r}"
        if self.stream.stopped:
            self.end(Status.OK)

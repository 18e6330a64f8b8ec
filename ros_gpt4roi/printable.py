"""Text from outside, made fit to be shown: ids, labels, formats, questions and what a model makes of them."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable

_TRACE_PERIOD_S = 5.0
_MOST_TRACES = 64  # texts whose last traceback is remembered


def printable(text: str, limit: int = 400, keep: str = "") -> str:
    """Escapes what would move a terminal's cursor, forge a line of a log or turn its direction; shortens the rest.

    Args:
        text: Any text.
        limit: Most characters of it that are shown.
        keep: Characters that stay as they are, such as line breaks.

    Returns:
        The text with every character that is not printable as its Python escape.
    """
    shown = "".join(character if character.isprintable() or character in keep
                    else character.encode("unicode_escape").decode("ascii") for character in text[:limit])
    return shown if len(text) <= limit else f"{shown} ... ({len(text)} characters)"


def show(text: str, end: str = "\n") -> None:
    """Prints a text from outside to a terminal; its line breaks stay."""
    print(printable(text, len(text), keep="\n"), end=end, flush=True)


class PrintableHandler(logging.Handler):
    """Passes the records of Python's logging to a logger of another kind, made printable; tracebacks keep their lines.

    The traceback of one text is shown at most every five seconds: an error that comes back with every frame would fill
    the disk.

    Args:
        write: Called with a record's level, one of Python's, and its text.
    """

    def __init__(self, write: Callable[[int, str], None]) -> None:
        super().__init__()
        self._write = write
        self._traced: dict[str, float] = {}  # text → when its traceback was shown

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        text = printable(record.getMessage(), 2000)
        now = time.monotonic()
        if record.exc_info and now - self._traced.get(text, -_TRACE_PERIOD_S) >= _TRACE_PERIOD_S:
            self._traced[text] = now
            if len(self._traced) > _MOST_TRACES:
                del self._traced[next(iter(self._traced))]
            trace = logging.Formatter().formatException(record.exc_info)
            # Indented, so that no line of an exception's text looks like a record of its own.
            text += "".join(f"\n    {printable(line)}" for line in trace.splitlines())
        self._write(record.levelno, text)

"""A watch in the terminal console: a question, and what its answer is now."""

from __future__ import annotations

import time

from rich.text import Text
from ros_gpt4roi_interfaces.action import Watch
from ros_gpt4roi_interfaces.msg import Answer
from textual.binding import Binding
from textual.widgets import Static

from ros_gpt4roi.client import Client, ClientError, status_name
from ros_gpt4roi.printable import printable

from .question_input import QuestionInput

_LONGEST = 200  # characters of an answer that are shown


class WatchLine(Static, can_focus=True):
    """Watches, and shows the last answer, how often it changed, and when; or why the watch has ended.

    Args:
        client: What asks.
        question: In words.
    """

    BINDINGS = [Binding("enter,delete", "stop", "Stop watching")]

    def __init__(self, client: Client, question: str) -> None:
        super().__init__(markup=False)
        self._question = question
        self._answer: Answer | None = None
        self._count = 0  # of answers that were told: the first, and those that were others
        self._shown_count = 0
        self._told_s = 0.0
        self._shown = ""
        self._stopped = False
        self._reply = client.watch_async(question, on_change=self._receive)

    def _receive(self, change: Watch.Feedback) -> None:  # in the client's thread: shown at the next refresh
        self._answer, self._told_s = change.answer, time.monotonic()
        self._count += 1

    def action_stop(self) -> None:
        """Ends the watch; what has ended already goes."""
        self._stopped = True
        self._reply.cancel()

    def show(self, now: float) -> bool:
        """Shows what there is. Returns whether the answer has changed since the last time."""
        if self._stopped and self._reply.done():
            if self.has_focus:
                self.screen.query_one(QuestionInput).focus()
            self.remove()
            return False
        shown = f"{printable(self._question, 200)} {self._state(now)}"
        if shown != self._shown:
            self._shown = shown
            self.update(Text(shown))
        changed = 0 < self._shown_count < self._count
        self._shown_count = self._count
        return changed

    def _state(self, now: float) -> str:
        if self._reply.done():
            return f"[ended: {printable(self._end(), 300)}]"
        answer = self._answer
        if answer is None:
            return "[waits for a frame]"
        said = answer.text if answer.status == Answer.OK else f"{status_name(answer)}: {answer.error}"
        changes = f"changed {self._count - 1}x, last" if self._count > 1 else "first said"
        return f"[{changes} {now - self._told_s:.0f} s ago] > {printable(said, _LONGEST)}"

    def _end(self) -> str:
        """Why the watch has ended."""
        try:
            answer = self._reply.result().answer
        except (ClientError, OSError) as error:
            return str(error)
        return f"{status_name(answer)}: {answer.error}" if self._reply.aborted else "its time is over"

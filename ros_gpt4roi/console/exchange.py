"""A question and its answer in the terminal console."""

from __future__ import annotations

import time

from rich.text import Text
from ros_gpt4roi_interfaces.msg import Answer
from textual.widgets import Static

from ros_gpt4roi.client import Client, ClientError, status_name
from ros_gpt4roi.printable import printable

_LONGEST = 20_000  # characters of an answer that are shown


class Exchange(Static):
    """Asks, and shows the answer as it grows, then how long it took.

    Args:
        client: What asks.
        question: In words.
        conversation_id: The conversation that it goes on with; empty opens a new one.
        limit_s: Most seconds until the answer.

    Attributes:
        conversation_id: The conversation that the next question goes on with; empty where there is none any more.
        ended: Whether the answer is complete, or none will come.
    """

    def __init__(self, client: Client, question: str, conversation_id: str, limit_s: float) -> None:
        super().__init__(markup=False)
        self.conversation_id, self.ended = conversation_id, False
        self._question = question
        self._began_s = self._ended_s = time.monotonic()
        self._first = ""  # the first piece
        self._first_s = self._last_s = 0.0  # when the first piece came, and the last
        self._cancelled = False
        self._shown = ""
        self._reply = client.ask_async(question, conversation_id=conversation_id, limit_s=limit_s,
                                       on_text=self._time_piece)
        self._reply.add_done_callback(self._time_end)

    def cancel(self) -> bool:
        """Cancels the answer, or takes note where it has just ended. Returns False where that was done before."""
        before, self._cancelled = self._cancelled, True
        self._reply.cancel()
        return not before

    def _time_piece(self, piece: str) -> None:
        self._last_s = time.monotonic()
        if not self._first:
            self._first, self._first_s = piece, self._last_s

    def _time_end(self, _: object) -> None:
        self._ended_s = time.monotonic()

    def show(self) -> bool:
        """Shows what there is. Returns whether that has changed."""
        self.ended = self._reply.done()
        text, note = self._reply.text, "..." if not self._cancelled else "... cancelling"
        if self.ended:
            try:
                answer = self._reply.result()
            except (ClientError, OSError) as error:
                self.conversation_id, note = "", str(error)
            else:
                text, note = answer.text, self._note(answer)
        lines = [f"? {printable(self._question, 1000)}"]
        if text:
            lines.append("> " + printable(text, _LONGEST, keep="\n").replace("\n", "\n  "))
        lines.append(f"  [{printable(note, 2000)}]")
        shown = "\n".join(lines)
        changed, self._shown = shown != self._shown, shown
        if changed:
            self.update(Text(shown))
        return changed or self.ended

    def _note(self, answer: Answer) -> str:
        """How an answer ended, and how long it took."""
        parts = []
        if answer.status != Answer.OK:
            parts.append(f"{status_name(answer)}: {answer.error}")
        elif answer.error:
            parts.append(answer.error)
        if answer.status in (Answer.OK, Answer.CANCELED, Answer.TIMEOUT):
            self.conversation_id = answer.conversation_id
        elif answer.status != Answer.UNKNOWN_REGION:
            self.conversation_id = ""  # it may be what the node does not know any more
        if answer.region_ids:
            parts.append(f"region{'s' * (len(answer.region_ids) > 1)} {', '.join(answer.region_ids)}")
        if self._first:
            parts.append(f"first words {self._first_s - self._began_s:.2f} s")
            more = len(answer.text[len(self._first):].split())
            if more and (span_s := self._last_s - self._first_s) > 0:
                parts.append(f"{more / span_s:.0f} words/s")
        parts.append(f"{self._ended_s - self._began_s:.2f} s")
        return " · ".join(parts)

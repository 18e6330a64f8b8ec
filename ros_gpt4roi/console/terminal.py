"""The terminal console: what the perception node sees, live, and questions to it.

    ros2 run ros_gpt4roi console
    ros2 run ros_gpt4roi console --once "What is region 2?"    # as `ask`: one answer, and an exit status

Enter asks; a question goes on with the conversation until Ctrl+N opens a new one. Ctrl+T watches what was typed: it is
asked again and again, and the bell rings when the answer changes. F2 begins and ends talking to the speech node, which
listens to the robot's microphone. Up and down: earlier questions; Tab completes
"region" and then the name of each region in turn. Shift+Tab goes back to answers, watches, where Enter stops one, and
regions; what is typed there goes to the question. Ctrl+C cancels the answer that is coming, else leaves.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence

from rclpy.utilities import remove_ros_args
from rich.text import Text
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray, Utterance
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.events import Key
from textual.widgets import Footer, Static

from ros_gpt4roi.client import Client
from ros_gpt4roi.printable import printable

from .ask import add_options, ask, limit
from .exchange import Exchange
from .question_input import QuestionInput
from .voice import MOST_TALK_S, Voice
from .watch_line import WatchLine

_REFRESH_S = 0.1  # so that a slow ssh connection carries at most ten changes a second
_MOST_EXCHANGES = 200  # that can be scrolled back to
_MOST_WATCHES = 16  # that are shown, those that have ended among them
_LEVELS = ("", "WARN: ", "ERROR: ", "STALE: ")


class Console(App[int]):
    """Shows the regions' descriptions as they come, and asks.

    Args:
        client: Connected or not; the console waits for a node.
        limit_s: Most seconds until an answer.
        conversation_id: The conversation to go on with; empty: a new one.
    """

    CSS = """
    #status { height: 1; }
    #regions { height: auto; max-height: 35%; border: round $primary; }
    #watches { height: auto; max-height: 25%; border: round $primary; display: none; }
    WatchLine:focus { text-style: reverse; }
    #answers { height: 1fr; border: round $primary; }
    QuestionInput { border: round $primary; height: 3; }
    """
    BINDINGS = [
        Binding("ctrl+c", "interrupt", "Cancel, leave", priority=True),
        Binding("ctrl+n", "new_conversation", "New conversation", priority=True),
        Binding("ctrl+t", "watch", "Watch", priority=True),
        Binding("f2", "talk", "Talk", priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, client: Client, limit_s: float = 60.0, conversation_id: str = "") -> None:
        super().__init__(ansi_color="NO_COLOR" in os.environ or None)  # else grey is made of RGB colours
        self._client, self._limit_s = client, limit_s
        self._conversation_id = conversation_id
        self._conversation_s = time.monotonic()  # when its frame was the newest
        self._frame: RegionDescriptionArray | None = None
        self._frame_s = 0.0
        self._shown: RegionDescriptionArray | None = None
        self._exchange: Exchange | None = None
        self._talk_s: float | None = None  # since when the button of the speech node is pressed
        self._talk_refused = False  # for want of a speech node
        self._spoken: deque[str] = deque(maxlen=_MOST_EXCHANGES)  # that is not shown yet

    def compose(self) -> ComposeResult:
        """The widgets from top to bottom."""
        yield Static(id="status", markup=False)
        with VerticalScroll(id="regions"):
            yield Static(id="descriptions", markup=False)
        yield VerticalScroll(id="watches")
        yield VerticalScroll(id="answers")
        yield QuestionInput(self.region_ids, placeholder="What is region 2?")
        yield Footer()

    def on_mount(self) -> None:
        """Begins to listen."""
        def receive(frame: RegionDescriptionArray) -> None:  # in the client's thread: shown at the next refresh
            self._frame, self._frame_s = frame, time.monotonic()

        self._client.on_descriptions(receive)
        self.set_interval(_REFRESH_S, self._refresh_all)
        for number in (signal.SIGINT, signal.SIGTERM):  # of `kill`; the terminal gives Ctrl+C as a key
            asyncio.get_running_loop().add_signal_handler(number, self.exit, 128 + number)
        self._voice = Voice(self._client)
        self._voice.listen(self._on_heard, lambda text: self._spoken.append(f"> {printable(text, 2000)}"))
        self.query_one("#answers").border_title = "Answers"
        self.query_one("#watches").border_title = "Watches"
        self.query_one(QuestionInput).focus()
        self._refresh_all()

    def region_ids(self) -> list[str]:
        """The names of the regions that are in sight."""
        frame = self._frame
        return [item.region.id for item in frame.descriptions] if frame is not None else []

    @property
    def is_asking(self) -> bool:
        """Whether an answer is still coming."""
        return self._exchange is not None

    # What people do

    def on_input_submitted(self, event: QuestionInput.Submitted) -> None:
        """Asks what was typed."""
        question = event.value.strip()
        if not question:
            return
        if self._exchange is not None:
            self.bell()  # the text stays, for when the answer is there
            return
        self._take(question)
        if not self._conversation_id:
            self._conversation_s = time.monotonic()
        self._exchange = Exchange(self._client, question, self._conversation_id, self._limit_s)
        self._add(self._exchange)

    def _add(self, line: Static) -> None:
        answers = self.query_one("#answers", VerticalScroll)
        answers.mount(line)
        if len(answers.children) >= _MOST_EXCHANGES:
            answers.children[0].remove()
        answers.scroll_end(animate=False)

    def action_watch(self) -> None:
        """Asks what was typed again and again, and tells when the answer changes."""
        question, watches = self.query_one(QuestionInput).value.strip(), self.query_one("#watches")
        if not question or len(watches.children) >= _MOST_WATCHES:
            self.bell()
            return
        self._take(question)
        watches.mount(WatchLine(self._client, question))

    def action_talk(self) -> None:
        """Presses the button of the speech node, or releases it."""
        if self._talk_s is not None:
            self._release()
        elif self._voice.state()[0]:
            self._voice.press(True)
            self._talk_s = time.monotonic()
        else:
            self._talk_refused = True
            self.bell()
        self._refresh_all()

    def on_unmount(self) -> None:
        """Leaves no button pressed."""
        self._release()

    def _release(self) -> None:
        if self._talk_s is not None:
            self._voice.press(False)
            self._talk_s = None

    def _on_heard(self, utterance: Utterance) -> None:
        if utterance.final:
            self._spoken.append(f"? {printable(utterance.text, 1000)}  [heard, {utterance.confidence:.0%} sure]")

    def _take(self, question: str) -> None:
        field = self.query_one(QuestionInput)
        field.remember(question)
        field.clear()

    def on_key(self, event: Key) -> None:
        """Gives what is typed elsewhere to the question's line."""
        field = self.query_one(QuestionInput)
        if event.is_printable and event.character and not field.has_focus:
            event.stop()
            field.focus()
            field.insert_text_at_cursor(event.character)

    def action_interrupt(self) -> None:
        """Cancels the answer that is coming; without one, or when that was done, leaves."""
        if self._exchange is None or not self._exchange.cancel():
            self.exit(0)

    def action_new_conversation(self) -> None:
        """Lets the next question be about the newest frame."""
        self._conversation_id = ""
        self._refresh_all()

    # What is shown

    def _refresh_all(self) -> None:
        if not self.is_running:  # timers go on for a moment while the console closes, its widgets do not
            return
        now = time.monotonic()
        self.query_one("#status", Static).update(Text(self._status(), no_wrap=True, overflow="ellipsis"))
        self._refresh_descriptions(now)
        self._refresh_watches(now)
        self._refresh_answer()
        self._refresh_spoken()
        self._refresh_talk(now)
        field = self.query_one(QuestionInput)
        if self._conversation_id:
            field.border_title = f"Goes on about the picture of {now - self._conversation_s:.0f} s ago"
        else:
            field.border_title = "Asks about the newest picture"

    def _status(self) -> str:
        state = self._client.state
        if state is None:
            domain = self._client.node.context.get_domain_id()
            return f"No perception node yet in ROS domain {domain}, namespace {self._client.namespace}"
        name = printable(state.name)
        if silent_s := state.quiet_s():
            return f"{name}: has said nothing for {silent_s:.0f} s"
        return f"{name}: {_LEVELS[state.level] if state.level < 4 else ''}{printable(state.message)} · " \
               f"{printable(state.model)}"

    def _refresh_descriptions(self, now: float) -> None:
        frame, panel = self._frame, self.query_one("#regions")
        if frame is None:
            panel.border_title = "No descriptions yet"
            return
        took_s = sum(stage.duration.sec + stage.duration.nanosec * 1e-9 for stage in frame.stage_times)
        count = len(frame.descriptions)
        panel.border_title = f"{count} region{'s' * (count != 1)}, as of {now - self._frame_s + took_s:.1f} s ago"
        if frame is self._shown:
            return
        self._shown = frame
        width = max((len(name) for name in map(_name, frame.descriptions)), default=0)
        lines = [f"{_name(item):>{width}}  {printable(item.text)} ({item.confidence:.2f})"
                 for item in frame.descriptions]
        self.query_one("#descriptions", Static).update(Text("\n".join(lines)))

    def _refresh_watches(self, now: float) -> None:
        watches = self.query(WatchLine)
        self.query_one("#watches").display = bool(watches)
        if any([watch.show(now) for watch in watches]):
            self.bell()

    def _refresh_talk(self, now: float) -> None:
        if self._talk_s is not None and now > self._talk_s + MOST_TALK_S:
            self._release()
        there, state = self._voice.state()
        self._talk_refused = self._talk_refused and not there
        listens = "" if self._talk_s is None else f"The robot listens, {now - self._talk_s:.0f} s: F2 ends it"
        self.query_one(QuestionInput).border_subtitle = state if self._talk_refused else listens

    def _refresh_spoken(self) -> None:
        while self._spoken:
            self._add(Static(Text(self._spoken.popleft()), markup=False))

    def _refresh_answer(self) -> None:
        exchange = self._exchange
        if exchange is None or not exchange.show():
            return
        self.query_one("#answers", VerticalScroll).scroll_end(animate=False)
        if exchange.ended:
            self._exchange = None
            self._conversation_id = exchange.conversation_id


def _name(description: object) -> str:
    return printable(description.region.id, 24)  # type: ignore[attr-defined]  # messages have no types


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; `ros2 run ros_gpt4roi console`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="console", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="print one answer and exit, as the command `ask` does")
    parser.add_argument("question", nargs="?", help="of --once, in words")
    add_options(parser)
    options = parser.parse_args(remove_ros_args(sys.argv if args is None else ["console", *args])[1:])
    if options.once and options.question:
        return ask(options.question, options)
    if options.once or options.question or options.json:
        parser.error("--once, a question and --json go together: --once QUESTION, or --once --json QUESTION")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        parser.error("the console needs a terminal; --once QUESTION does not")
    with Client(name="console", namespace=options.namespace) as client:
        return Console(client, conversation_id=options.conversation, **limit(options)).run() or 0


if __name__ == "__main__":
    sys.exit(main())

"""The terminal console against the real node: in Textual's pilot, and once in tmux as a person has it."""
from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from answering import BOXES, start_perception  # noqa: E402
from camera import Camera  # noqa: E402
from isolation import for_children  # noqa: E402
from ros_gpt4roi_interfaces.msg import Utterance  # noqa: E402
from ros_peer import ROOT, WAIT_S, Peer  # noqa: E402
from std_msgs.msg import Bool, String  # noqa: E402
from textual.app import App, ComposeResult  # noqa: E402
from textual.containers import VerticalScroll  # noqa: E402
from textual.pilot import Pilot  # noqa: E402

from ros_gpt4roi.client import Client  # noqa: E402
from ros_gpt4roi.console.question_input import QuestionInput, completions  # noqa: E402
from ros_gpt4roi.console.terminal import Console, main  # noqa: E402
from ros_gpt4roi.console.watch_line import WatchLine  # noqa: E402

SIZE = (80, 24)


def screen(app: Console) -> str:
    """What the terminal shows."""
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


async def until(pilot: Pilot[int], condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"waited {WAIT_S:.0f} s for {what}:\n{screen(pilot.app)}"
        await pilot.pause(0.05)


def run(client: Client, steps: Callable[[Pilot[int], Console], Awaitable[None]]) -> int | None:
    """Runs the console without a terminal; returns its exit status."""
    app = Console(client, limit_s=WAIT_S)

    async def script() -> None:
        async with app.run_test(size=SIZE) as pilot:
            await steps(pilot, app)
    asyncio.run(script())
    return app.return_value


async def begin(app: Console, question: str) -> None:
    """Asks; returns before the pilot would, which waits until all is drawn: by then the answer could be there."""
    app.query_one(QuestionInput).value = question
    app.simulate_key("enter")
    async with asyncio.timeout(WAIT_S):
        while not app.is_asking:  # another turn of this loop each
            await asyncio.sleep(0)


async def ask(pilot: Pilot[int], question: str) -> None:
    pilot.app.query_one(QuestionInput).value = question
    await pilot.press("enter")


def test_regions_are_shown_with_their_age_and_answers_with_their_times(client: Client, camera: Camera) -> None:
    async def steps(pilot: Pilot[int], app: Console) -> None:
        def seen() -> bool:
            camera.send(BOXES)
            return "2 regions, as of 0." in screen(app) and "perception: active" in screen(app)
        await until(pilot, seen, "regions and state")
        assert all(len(line) == SIZE[0] for line in screen(app).splitlines())
        await ask(pilot, "what is left of region 2?")
        await until(pilot, lambda: "words/s" in screen(app), "an answer and its times")
        assert "first words" in screen(app)
        assert "Goes on about the picture of" in screen(app)
        conversation = app._conversation_id
        await ask(pilot, "and region 1?")
        await until(pilot, lambda: not app.is_asking, "the second answer")
        assert app._conversation_id == conversation
        await pilot.press("ctrl+n")
        assert "Asks about the newest picture" in screen(app) and not app._conversation_id
        await ask(pilot, "what is region 77?")
        await until(pilot, lambda: "UNKNOWN_REGION" in screen(app), "the reason")
        await pilot.press("ctrl+c")
    assert run(client, steps) == 0


def test_a_timer_that_fires_while_the_console_closes_does_nothing(client: Client) -> None:
    async def steps(pilot: Pilot[int], app: Console) -> None:
        closing.append(app)
    closing: list[Console] = []
    run(client, steps)
    closing[0]._refresh_all()


def test_ctrl_c_cancels_the_answer_and_a_second_one_leaves(client: Client, camera: Camera) -> None:
    async def steps(pilot: Pilot[int], app: Console) -> None:
        await begin(app, "what is region 1?")
        app.simulate_key("ctrl+c")
        await until(pilot, lambda: not app.is_asking and "CANCELED" in screen(app), "the end of the answer")
        assert app.is_running
        await pilot.press("ctrl+c")
    assert run(client, steps) == 0


def test_a_watch_shows_its_answer_and_each_change_until_it_is_stopped(client: Client, camera: Camera) -> None:
    async def steps(pilot: Pilot[int], app: Console) -> None:
        await pilot.press("ctrl+t")
        assert not app.query(WatchLine), "nothing was typed"
        app.query_one(QuestionInput).value = "[b]what[/b] is region 2?"
        await pilot.press("ctrl+t")
        await until(pilot, lambda: "[b]what[/b] is region 2? [waits for a frame]" in screen(app), "the watch")
        await until(pilot, lambda: camera.send(BOXES) and "[first said" in screen(app), "the first answer")
        await until(pilot, lambda: camera.send(BOXES[:1]) and "UNKNOWN_REGION" in screen(app), "the region's absence")
        assert "[changed" in screen(app) and all(len(line) == SIZE[0] for line in screen(app).splitlines())
        while not isinstance(app.focused, WatchLine):
            await pilot.press("shift+tab")
        await pilot.press("enter")
        await until(pilot, lambda: not app.query(WatchLine) and "Watches" not in screen(app), "its end")
        assert isinstance(app.focused, QuestionInput)
        await until(pilot, lambda: client.state.values["watches"] == "0", "the end in the node")
    run(client, steps)


def test_talking_is_begun_and_ended_by_a_key_and_what_was_heard_is_shown(
        client: Client, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    pressed: list[bool] = []
    buttons: list[object] = []

    async def steps(pilot: Pilot[int], app: Console) -> None:
        async def heard(count: int) -> None:
            await until(pilot, lambda: peer.executor.spin_once(0.01) or len(pressed) == count, f"{count} messages")
        await pilot.press("f2")
        assert "no speech node runs" in screen(app) and "The robot listens" not in screen(app)
        buttons.append(peer.node.create_subscription(Bool, "push_to_talk",
                                                     lambda message: pressed.append(message.data), 10))
        utterances, replies = (peer.node.create_publisher(kind, topic, 10)
                               for kind, topic in ((Utterance, "utterances"), (String, "replies")))
        await until(pilot, lambda: app._voice.state()[0] and utterances.get_subscription_count()
                    and replies.get_subscription_count(), "the connection")
        await pilot.press("f2")
        assert "The robot listens, " in screen(app)
        await pilot.press("f2")
        assert "The robot listens" not in screen(app)
        await heard(2)
        utterances.publish(Utterance(text="[b]What[/b] is", final=False))
        utterances.publish(Utterance(text="[b]What[/b] is region 2?", final=True, confidence=0.9))
        await until(pilot, lambda: "? [b]What[/b] is region 2?  [heard, 90% sure]" in screen(app), "what was heard")
        replies.publish(String(data="A red mug."))
        await until(pilot, lambda: "> A red mug." in screen(app), "the reply")
        monkeypatch.setattr("ros_gpt4roi.console.terminal.MOST_TALK_S", 0.5)
        await pilot.press("f2")
        await heard(4)  # a key that is forgotten
        assert "The robot listens" not in screen(app)
        monkeypatch.undo()
        await pilot.press("f2", "ctrl+c")  # leaves
    run(client, steps)
    peer.wait_for(lambda: len(pressed) == 6, "the end of what was not ended")
    peer.node.destroy_subscription(buttons[0])
    assert pressed == [True, False] * 3


def test_watches_end_with_the_console(client: Client, camera: Camera) -> None:
    async def steps(pilot: Pilot[int], app: Console) -> None:
        app.query_one(QuestionInput).value = "what is region 1?"
        await pilot.press("ctrl+t")
        await until(pilot, lambda: client.state.values["watches"] == "1", "the watch in the node")
    with Client() as own:
        run(own, steps)
    client.wait_for(lambda: client.state.values["watches"] == "0", WAIT_S, "the end in the node")


def test_questions_come_back_and_names_are_completed(client: Client, camera: Camera) -> None:
    async def steps(pilot: Pilot[int], app: Console) -> None:
        field = app.query_one(QuestionInput)
        await until(pilot, lambda: camera.send(BOXES, ids=["mug-7", "cup"]) and app.region_ids() == ["mug-7", "cup"],
                    "regions")
        await pilot.press(*"what is re")
        await pilot.press("tab")
        assert field.value == "what is region "
        for name in ("mug-7", "cup", "mug-7"):
            await pilot.press("tab")
            assert field.value == f"what is region {name}" and field.has_focus
        await pilot.press("enter")
        await until(pilot, lambda: not app.is_asking, "the answer")
        await pilot.press(*"why")
        await pilot.press("up")
        assert field.value == "what is region mug-7"
        await pilot.press("down")
        assert field.value == "why"
    run(client, steps)


@pytest.mark.parametrize("typed, completed", [
    ("What is reg", ["What is region "]), ("r", []), ("region", ["region "]),
    ("region ", ["region 1", "region 12", "region cup"]), ("region 1", ["region 1", "region 12"]),
    ("Is region 1 and cu", ["Is region 1 and cup"]), ("is region cu", ["is region cup"]), ("region x", []),
    ("region \x1b", []), ("", [])])
def test_completion(typed: str, completed: list[str]) -> None:
    assert completions(typed, ["1", "12", "cup", "\x1b[2J"]) == completed


def test_keys_that_come_in_one_burst_are_completed_in_their_order() -> None:
    class OneLine(App[None]):
        def compose(self) -> ComposeResult:
            yield QuestionInput(lambda: ["1", "2"], placeholder="")
            yield VerticalScroll()

    async def script() -> None:
        app = OneLine()
        async with app.run_test() as pilot:
            field = app.query_one(QuestionInput)
            for key in ("I", "s", " ", "r", "e", "tab", "tab", "tab", "?", "tab"):
                app.simulate_key(key)
            await pilot.pause()
            assert field.value == "Is region 2?" and field.has_focus
    asyncio.run(script())


def test_what_is_typed_elsewhere_goes_to_the_question(client: Client) -> None:
    async def steps(pilot: Pilot[int], app: Console) -> None:
        field = app.query_one(QuestionInput)
        await pilot.press("shift+tab")
        assert not field.has_focus
        await pilot.press(*"why")
        assert field.value == "why" and field.has_focus
    run(client, steps)


def test_hostile_text_is_shown_as_text(client: Client, camera: Camera) -> None:
    name = "[red]x[/red]\x1b[2J"

    async def steps(pilot: Pilot[int], app: Console) -> None:
        await until(pilot, lambda: camera.send(BOXES, ids=[name, "b"]) and "[red]x[/red]\\x1b[2J" in screen(app),
                    "the name as text")
        await ask(pilot, "[bold]what[/bold] is region 77?")
        await until(pilot, lambda: "UNKNOWN_REGION" in screen(app), "the reason")
        assert "? [bold]what[/bold]" in screen(app) and "\x1b" not in screen(app)
    run(client, steps)


def test_without_a_node_the_console_says_so_and_goes_on(peer: Peer, tiny_model: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.client.connection._SILENT_S", 4.0)

    async def steps(pilot: Pilot[int], app: Console) -> None:
        assert "No perception node yet" in screen(app) and "/robot2" in screen(app)
        await ask(pilot, "anybody?")
        await until(pilot, lambda: not app.is_asking, "the error")
        assert "no perception node answers" in screen(app) and "/robot2/ask" in screen(app).replace("\n", "")
        process = start_perception(tiny_model, tmp_path / "robot2.log", "-r", "__ns:=/robot2",
                                   pipeline__answer_tokens=900)
        try:
            camera = Camera(peer, namespace="/robot2")
            await until(pilot, lambda: camera.send(BOXES) and app.region_ids(), "descriptions")
            await begin(app, "what is region 1?")
            exchange = app._exchange
            await until(pilot, lambda: exchange._reply.text, "the first words")
        finally:
            process.stop(signal.SIGKILL)
        await until(pilot, lambda: not app.is_asking, "the end of the answer")
        await until(pilot, lambda: "has said nothing for" in screen(app), "the node's silence")
        assert "has gone" in screen(app) or "words/s" in screen(app)
    with Client(namespace="/robot2", connect_limit_s=2.0) as client:
        run(client, steps)


def test_once_needs_no_terminal_and_the_console_does(camera: Camera, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((["--json"], "--once"), ([], "terminal")):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert words in capsys.readouterr().err
    command = [sys.executable, "-m", "ros_gpt4roi.console.terminal", "--once", "--json", "what is region 77?"]
    once = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S,
                          env=for_children({"PYTHONPATH": _path()}))
    assert once.returncode == 1 and json.loads(once.stdout)["status"] == "UNKNOWN_REGION"
    with pytest.raises(SystemExit, match="2"):
        main(["--once"])


def _path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (apt-get install tmux)")
def test_in_a_terminal_without_colours(client: Client, camera: Camera, tmp_path: Path) -> None:
    socket = str(tmp_path / "tmux")

    def tmux(*arguments: str) -> str:
        done = subprocess.run(["tmux", "-S", socket, *arguments], capture_output=True, text=True, timeout=WAIT_S)
        return done.stdout

    variables = for_children({"PYTHONPATH": _path(), "NO_COLOR": "1", "TERM": "xterm"})
    command = " ".join([sys.executable, "-m", "ros_gpt4roi.console.terminal"])
    subprocess.run(["tmux", "-S", socket, "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24",
                    f"{command}; echo left with $?; cat"], env=variables, check=True, timeout=WAIT_S)
    try:
        def shows(*words: str) -> Callable[[], bool]:
            def shown() -> bool:
                camera.send(BOXES)
                return all(word in tmux("capture-pane", "-p") for word in words)
            return shown
        client.wait_for(shows("perception: active", "2 regions, as of"), WAIT_S, "the console")
        tmux("send-keys", "what is region 1?", "Enter")
        client.wait_for(shows("words/s"), WAIT_S, "an answer")
        pane = tmux("capture-pane", "-p", "-e")
        assert "\x1b[38;" not in pane and "\x1b[48;" not in pane and "\x1b[3" not in pane.replace("\x1b[39", ""), pane
        assert len(tmux("capture-pane", "-p").splitlines()) <= 24
        tmux("send-keys", "C-c")
        client.wait_for(shows("left with 0"), WAIT_S, "the shell")
    finally:
        tmux("kill-server")

"""The command `ask` in a process of its own, as a shell runs it."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from answering import BOXES  # noqa: E402
from camera import Camera  # noqa: E402
from isolation import for_children  # noqa: E402
from ros_peer import ROOT, WAIT_S  # noqa: E402

from ros_gpt4roi.client import Client  # noqa: E402
from ros_gpt4roi.console import ask  # noqa: E402


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    environment = for_children({"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ["PYTHONPATH"]]))})
    return subprocess.Popen([sys.executable, "-m", "ros_gpt4roi.console.ask", *arguments], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(*arguments: str) -> tuple[int, str, str]:
    process = start(arguments)
    out, error = process.communicate(timeout=WAIT_S)
    return process.returncode, out, error


def test_an_answer_is_printed_and_its_conversation_goes_on(camera: Camera) -> None:
    status, out, error = run("what is region 1?")
    assert (status, error) == (0, "") and len(out.splitlines()[0].split()) > 3
    conversation = out.split("--conversation ")[1].strip(")\n")
    status, out, error = run("and region 2?", "--conversation", conversation, "--json")
    answer = json.loads(out)
    assert (status, answer["status"], answer["conversation_id"]) == (0, "OK", conversation), error
    assert answer["text"] and 1000 <= float(answer["stamp"]) < 1100


def test_the_exit_status_says_what_became_of_the_question(camera: Camera) -> None:
    status, _, error = run("what is region 77?")
    assert status == 1 and error.startswith("ask: UNKNOWN_REGION: ") and "77" in error
    status, _, error = run("what is region 1?", "--namespace", "/elsewhere")
    assert status == 3 and "/elsewhere/ask" in error and "/perception" in error and "Traceback" not in error
    assert run()[0] == 2


@pytest.mark.parametrize("option", [["--limit", "0"], ["--limit", "nan"], ["--limit", "soon"], ["--limit=-1"],
                                    ["--namespace", "a b"]])
def test_an_option_that_can_not_be_is_told(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ask.main(["what is region 1?", *option])
    assert "expected" in capsys.readouterr().err


def test_a_watch_prints_a_line_for_each_change(camera: Camera, client: Client) -> None:
    watching = start(["--watch", "what is region 2?", "--json"])
    lines: list[dict] = []
    reading = threading.Thread(target=lambda: lines.extend(map(json.loads, watching.stdout)))
    reading.start()

    def told(boxes: Sequence, status: str) -> bool:
        camera.send(boxes)
        return bool(lines) and lines[-1]["answer"]["status"] == status
    try:
        client.wait_for(lambda: told(BOXES, "OK"), WAIT_S, "the first answer")
        client.wait_for(lambda: told(BOXES[:1], "UNKNOWN_REGION"), WAIT_S, "the change")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(WAIT_S) == 130
        reading.join(WAIT_S)
        assert lines[0]["before"]["text"] == "" and lines[-1]["before"]["text"] == lines[-2]["answer"]["text"]
        assert watching.stderr.read() == ""
    finally:
        watching.kill()
        watching.wait()
    client.wait_for(lambda: client.state.values["watches"] == "0", WAIT_S, "the end in the node")


def test_a_watch_that_can_not_be_is_an_error(camera: Camera) -> None:
    assert run("--watch", "why?", "--conversation", "x")[0] == 2
    status, out, error = run("--watch", "why?", "--namespace", "/elsewhere")
    assert status == 3 and "/elsewhere/ask" in error and not out
    watching = start(["--watch", " "])
    try:
        while watching.poll() is None:
            camera.send(BOXES)
            try:
                watching.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
        assert watching.returncode == 1 and "INVALID: the question is empty" in watching.stderr.read()
    finally:
        watching.kill()
        watching.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_answer(camera: Camera, number: signal.Signals, tmp_path: Path) -> None:
    asking = start(["what is region 1?"])
    try:
        asking.stdout.read(1)  # its first word
        asking.send_signal(number)
        _, error = asking.communicate(timeout=WAIT_S)
        # A node that is faster than this process may have said it all.
        assert asking.returncode == 128 + number and "CANCELED" in error or asking.returncode == 0
        assert "Traceback" not in error
    finally:
        asking.kill()
        asking.wait()

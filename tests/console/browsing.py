"""A web console in a process of its own, and a real Chromium that opens it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Dialog, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = float(os.environ.get("ROS_GPT4ROI_TEST_WAIT_S", "240"))
#: For what the page does, in milliseconds.
WAIT_MS = 60_000


class Child:
    """A module of a package, run as `ros2 run` would."""

    def __init__(self, log: Path, module: str, *arguments: str, package: str = "ros_gpt4roi") -> None:
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
                       "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        with log.open("wb") as stream:
            self.process = subprocess.Popen([sys.executable, "-m", f"{package}.{module}", *arguments],
                                            stdout=stream, stderr=stream, env=environment)

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern: str) -> str:
        """What the pattern's group finds in the output, once it is there."""
        end = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.output())):
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < end, f"{pattern} is not in {self.output()}"
            try:
                self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
        return found[1]

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Asks it to end; its exit status, −9 where it had to be killed."""
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def web_console(log: Path, *arguments: str) -> Iterator[str]:
    """A console on a free port; gives its address."""
    with served(Child(log, "console.web", "--port", "0", *arguments), "Web console") as address:
        yield address


@contextmanager
def served(child: Child, title: str) -> Iterator[str]:
    """The address that a server prints behind its title. It must end in order."""
    try:
        yield child.wait_for(rf"{title}: (\S+)")
    finally:
        status = child.stop()
    assert status == 0 and "Traceback" not in child.output(), child.output()


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """The system's Chromium, with arguments of its own: Playwright's own builds are no packages."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no chromium: scripts/setup.sh --dev installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])
        yield browser
        browser.close()


def watch(page: Page) -> list[str]:
    """A list that grows by everything that a page must not do: errors, and requests to other places."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("console", lambda line: faults.extend([f"console: {line.text}"] if line.type == "error" else []))
    def dismiss(dialog: Dialog) -> None:
        faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", dismiss)

    def requested(url: str) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1:\d+/|blob:http://127\.0\.0\.1:", url):
            faults.append(f"request: {url}")

    page.on("request", lambda request: requested(request.url))
    page.on("websocket", lambda socket: requested(socket.url))
    return faults


def finished(card: Locator, turn: int = 0) -> Locator:
    """A turn of a conversation, once it has ended."""
    element = card.locator(".turn").nth(turn)
    expect(element).not_to_have_class(re.compile(r"\bopen\b"))
    return element


def drag(page: Page, canvas: Locator, box: tuple[float, float, float, float]) -> None:
    """Draws a box in fractions of the picture."""
    place = canvas.bounding_box()
    across, down = place["width"], place["height"]
    page.mouse.move(place["x"] + box[0] * across, place["y"] + box[1] * down)
    page.mouse.down()
    page.mouse.move(place["x"] + box[2] * across, place["y"] + box[3] * down, steps=4)
    page.mouse.up()

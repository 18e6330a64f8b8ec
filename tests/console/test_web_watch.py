"""Watches in the web console, and a node that takes no work, in real Chromium with the real node behind it."""
from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
pytest.importorskip("playwright", reason="playwright is not installed")

from answering import BOXES  # noqa: E402
from browsing import WAIT_MS, drag, finished, watch, web_console  # noqa: E402
from camera import Camera  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from playwright.sync_api import Browser, Page, expect  # noqa: E402
from ros_peer import WAIT_S, Peer  # noqa: E402

from ros_gpt4roi.client import Client  # noqa: E402

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=alert(1)> what is region 2?"


class Stream:
    """A camera that sends frames all the time; `boxes` may change."""

    def __init__(self, camera: Camera) -> None:
        self._camera, self.boxes = camera, BOXES
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        while not self._ending.wait(0.1):
            self._camera.send(self.boxes)

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()


@pytest.fixture
def stream(camera: Camera) -> Iterator[Stream]:
    stream = Stream(camera)
    yield stream
    stream.stop()


@pytest.fixture
def page(stream: Stream, browser: Browser, tmp_path: Path) -> Iterator[Page]:
    with web_console(tmp_path / "web.log") as address:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        faults = watch(page)
        page.goto(address)
        expect(page.locator("#regions li").first).to_be_visible(timeout=4 * WAIT_MS)
        expect(page.locator("#live figcaption")).to_have_text(re.compile(r"s ago$"))  # they come later
        yield page
        page.close()
        assert faults == []


def begin(page: Page, question: str) -> None:
    page.get_by_label("Question about the live picture").fill(question)
    page.get_by_role("button", name="Watch", exact=True).click()


def test_watches_are_shown_with_their_changes_and_stopped(page: Page, stream: Stream, client: Client) -> None:
    page.get_by_role("button", name="Watch", exact=True).click()  # without a question, nothing is watched
    expect(page.locator(".watch")).to_have_count(0)
    begin(page, HOSTILE)
    item = page.locator(".watch").first
    expect(item.locator(".question")).to_have_text(HOSTILE)
    expect(item.locator(".about")).to_contain_text("s ago", timeout=4 * WAIT_MS)
    first = item.locator(".answer").inner_text()
    assert first and "Waits" not in first
    stream.boxes = BOXES[:1]
    expect(item.locator(".answer")).to_contain_text("Unknown region")
    expect(item.locator(".about")).to_contain_text("changed")
    expect(page.locator("#announcement")).to_contain_text("Unknown region")
    item.locator("summary").click()
    told = item.locator(".changes li").all_inner_texts()
    assert len(told) >= 2 and "Unknown region" in told[0] and first in told[-1]
    expect(page.locator("img, script:not([src])")).to_have_count(0)

    for number in range(1, 5):  # four a browser, and eight a node
        begin(page, f"what is region {number}?")
    expect(page.locator(".watch .error").first).to_contain_text("4 watches of this browser")
    page.get_by_role("button", name="Remove the watch").click()
    expect(page.locator(".watch")).to_have_count(4)
    page.get_by_role("button", name=f"Stop watching “{HOSTILE}”").press("Enter")
    expect(page.locator(".watch")).to_have_count(3)
    client.wait_for(lambda: client.state.values["watches"] == "3", WAIT_S, "three watches in the node")
    page.reload()
    client.wait_for(lambda: client.state.values["watches"] == "0", WAIT_S, "no watch of a page that has gone")


def test_this_in_a_watch_is_what_was_pointed_at_last(page: Page) -> None:
    begin(page, "What is this?")
    expect(page.locator(".watch .error")).to_contain_text("nothing is pointed at")
    drag(page, page.locator("#live canvas"), (0.35, 0.35, 0.65, 0.65))
    finished(page.locator(".card").first)
    begin(page, "What is this?")
    expect(page.locator(".watch .about").first).to_contain_text("s ago", timeout=4 * WAIT_MS)
    assert "nothing is pointed at" not in page.locator(".watch .answer").first.inner_text()
    region = page.locator("#regions li").first
    region.locator(".select").click()
    begin(page, "Is this red?")
    expect(page.locator(".watch .question").first).to_have_text(f"Is region {region.get_attribute('data-region')} red?")
    expect(page.locator(".watch .about").first).to_contain_text("s ago", timeout=4 * WAIT_MS)


def test_a_click_while_the_node_takes_no_work_says_so(page: Page, peer: Peer) -> None:
    def change(transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert peer.call(ChangeState, "/perception/change_state", request).success

    begin(page, "what is region 1?")
    expect(page.locator(".watch .about")).to_contain_text("s ago", timeout=4 * WAIT_MS)
    change(Transition.TRANSITION_DEACTIVATE)
    try:
        expect(page.locator(".watch .error")).to_contain_text("node perception is not active any more")
        page.locator("#live canvas").click()
        expect(page.locator(".card .error").first).to_contain_text("Failed: node perception is not active")
        begin(page, "what is region 1?")
        expect(page.locator(".watch .error").first).to_contain_text("node perception is not active")
    finally:
        change(Transition.TRANSITION_ACTIVATE)
    expect(page.locator("#connection")).to_contain_text(re.compile(": active"))
    begin(page, "what is region 2?")
    expect(page.locator(".watch .about").first).to_contain_text("s ago", timeout=4 * WAIT_MS)

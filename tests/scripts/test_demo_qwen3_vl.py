"""The demonstration with a Qwen3-VL folder of transformers, and ways of asking it. It always says the same."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from geometry_msgs.msg import Point  # noqa: E402
from isolation import for_children  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer  # noqa: E402
from running_demo import LIMIT_S, WAITS, running_demo  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from ros_gpt4roi.client import Client  # noqa: E402
from ros_gpt4roi.console.terminal import Console  # noqa: E402

pytestmark = pytest.mark.slow
BOX, POINT = (200.0, 150.0, 420.0, 330.0), (320.0, 240.0)


@pytest.fixture(scope="module", name="shown")
def demo_fixture(root: Path, make_qwen: Callable[..., Path]) -> Iterator[str]:
    """What the demonstration has printed when it begins to wait for questions; it runs until the tests' end."""
    model = make_qwen(says=("a ", "red ", "mug"))  # short, so that what is shown is no older than what is held
    with running_demo(root, "--stay", "--model", model) as demo, pytest.MonkeyPatch.context() as patch:
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
    assert len(re.findall(r"^  \? .+\n  > \w+", shown, re.MULTILINE)) == 4 and "(it names no region)" in shown


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

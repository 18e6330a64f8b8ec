"""Texts from outside and browsers from elsewhere: what the web console shows as text, and whom it lets in."""
from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
pytest.importorskip("playwright", reason="playwright is not installed")

from browsing import WAIT_MS, finished, watch, web_console  # noqa: E402
from playwright.sync_api import Browser, expect  # noqa: E402
from rclpy.action import ActionServer  # noqa: E402
from rclpy.action.server import ServerGoalHandle  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Region, RegionDescription, RegionDescriptionArray  # noqa: E402
from ros_gpt4roi_interfaces.srv import DescribeRegions  # noqa: E402
from ros_peer import Peer  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from ros_gpt4roi.image_messages import rgb_to_image  # noqa: E402
from ros_gpt4roi.messages import box_to_message  # noqa: E402

expect.set_options(timeout=WAIT_MS)
pytestmark = pytest.mark.slow


@contextmanager
def spinning(peer: Peer) -> Iterator[None]:
    """The peer's callbacks run beside the test."""
    ending = threading.Event()

    def spin() -> None:
        while not ending.is_set():
            peer.executor.spin_once(0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


class HostileRobot:
    """A camera and a perception node, as far as a console sees them, that say what nobody should."""

    TEXT = "<img src=x onerror=alert(1)><script>alert(2)</script> \u202eevil"

    def __init__(self, peer: Peer, namespace: str) -> None:
        from camera import HEIGHT, WIDTH
        self.size = WIDTH, HEIGHT
        node = self.node = peer.node
        self.images = node.create_publisher(Image, f"{namespace}/image", 1)
        self.descriptions = node.create_publisher(RegionDescriptionArray, f"{namespace}/region_descriptions", 1)
        self.server = ActionServer(node, Ask, f"{namespace}/ask", self.answer)
        self.service = node.create_service(DescribeRegions, f"{namespace}/describe_regions",
                                           lambda request, reply: reply)
        self.encoding = "rgb8"
        self.timer = node.create_timer(0.2, self.send)

    def region(self) -> Region:
        return Region(id=self.TEXT, label=self.TEXT, bbox=box_to_message((5, 5, 30, 30)))

    def send(self) -> None:
        header = Header(frame_id=self.TEXT, stamp=self.node.get_clock().now().to_msg())
        width, height = self.size
        image = rgb_to_image(np.zeros((height, width, 3), np.uint8), header)
        image.encoding = self.encoding
        self.images.publish(image)
        self.descriptions.publish(RegionDescriptionArray(header=header, descriptions=[
            RegionDescription(region=self.region(), text=self.TEXT, confidence=float("nan"))]))

    def answer(self, goal: ServerGoalHandle) -> Ask.Result:
        query = goal.request.query
        goal.publish_feedback(Ask.Feedback(text=self.TEXT))
        goal.succeed()
        return Ask.Result(answer=Answer(header=query.header, query_id=query.query_id, conversation_id=self.TEXT,
                                        text=self.TEXT, region_ids=[self.TEXT], regions=[self.region()]))

    def close(self) -> None:
        self.node.destroy_timer(self.timer)
        self.server.destroy()
        self.node.destroy_service(self.service)


def test_hostile_text_is_shown_as_text(browser: Browser, peer: Peer, tmp_path: Path) -> None:
    robot = HostileRobot(peer, "/hostile")
    with web_console(tmp_path / "web.log", "--ros-args", "-r", "__ns:=/hostile") as address:
        page = browser.new_page()
        faults = watch(page)
        response = page.goto(address)
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy and "unsafe" not in policy
        with spinning(peer):
            item = page.locator("#regions li").first
            expect(item.locator(".region-text")).to_have_text(HostileRobot.TEXT)
            page.get_by_label("Question about the live picture").fill(HostileRobot.TEXT)
            page.get_by_label("Question about the live picture").press("Enter")
            turn = finished(page.locator(".card").first)
            expect(turn.locator(".answer")).to_have_text(HostileRobot.TEXT)
            expect(turn.locator(".question")).to_have_text(HostileRobot.TEXT)
            turn.locator(".right").click()
            expect(turn.locator(".outcome")).to_have_text("Noted: right. But nothing records it: no recorder runs.")
            expect(page.locator("img, script:not([src])")).to_have_count(0)
            # Encodings that no console can show are said where the picture would be.
            robot.encoding = "<b>32FC9</b>"
            expect(page.locator("#live .notice")).to_contain_text("image encoding '<b>32FC9</b>' is not supported")
        assert faults == []
        page.close()
    robot.close()


def test_beyond_this_machine_a_token_is_asked_for(browser: Browser, tmp_path: Path) -> None:
    with web_console(tmp_path / "web.log", "--host", "0.0.0.0", "--ros-args", "-r", "__ns:=/nowhere") as shown:
        url, token = re.fullmatch(r"(http://0\.0\.0\.0:\d+/)#token=(\S+)", shown).groups()
        url = url.replace("0.0.0.0", "127.0.0.1")
        page = browser.new_page()
        faults = watch(page)
        page.goto(url)
        expect(page.locator("#token-reason")).to_have_text("this console asks for a token")
        page.get_by_label("Token", exact=True).fill("wrong")
        page.get_by_label("Token", exact=True).press("Enter")
        expect(page.locator("#token-reason")).to_have_text("this token is not the console's")
        expect(page.locator("#console")).to_be_hidden()
        page.get_by_label("Token", exact=True).fill(token)
        page.get_by_label("Token", exact=True).press("Enter")
        expect(page.locator("#console")).to_be_visible()
        expect(page.locator("#connection")).to_contain_text("no perception node is heard in namespace /nowhere")
        page.get_by_label("Question about the live picture").fill("Hello?")
        page.get_by_label("Question about the live picture").press("Enter")
        expect(page.locator(".card .error")).to_contain_text("no picture has come yet")
        expect(page.locator("#live .notice")).to_contain_text("no image has come on /nowhere/image")
        page.goto(f"{url}#token={token}")
        page.reload()
        expect(page.locator("#console")).to_be_visible()
        assert token not in page.url
        assert faults == []
        page.close()

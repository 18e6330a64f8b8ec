"""Make the picture of the web console: the simulated camera, the node, two questions and a drawn box.

    . scripts/env.sh
    python scripts/web_console_picture.py docs/images/web_console.webp
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from demo import DemoError, running_nodes, running_web_console
from PIL import Image
from playwright.sync_api import Error, Page, ViewportSize, expect, sync_playwright
from processes import ProcessDied
from ros_gpt4roi_interfaces.msg import RegionDescription

from ros_gpt4roi.client import Client, ClientError
from ros_gpt4roi.interrupts import Interrupts

SIZE = ViewportSize(width=1440, height=860)
LIMIT_S = 180.0
QUALITY = 80


def picture(page: Page, things: Sequence[RegionDescription]) -> bytes:
    """Return the page as PNG, after what is asked in it. things: what is shown, from left to right."""
    answered = page.locator(".turn:not(.open)")
    expect(page.locator("#regions li").nth(2)).to_be_visible()
    page.get_by_label("Question about the live picture").fill(
        f"Which region is {things[0].text.lower().rstrip('.')}?")
    page.get_by_role("button", name="Ask", exact=True).first.click()
    expect(answered).to_have_count(1)
    card = page.locator(".card").first
    card.get_by_label("Question in this conversation").fill("Why?")
    card.get_by_label("Question in this conversation").press("Enter")
    expect(answered).to_have_count(2)
    live = page.locator("#live canvas")
    place = live.bounding_box()
    assert place is not None
    scale = place["width"] / live.evaluate("canvas => canvas.width")
    box = things[len(things) // 2].region.bbox
    for side in (-0.55, 0.55):  # a little around the thing in the middle
        page.mouse.move(place["x"] + scale * (box.center.position.x + side * box.size_x),
                        place["y"] + scale * (box.center.position.y + side * box.size_y), steps=4)
        page.mouse.down() if side < 0 else page.mouse.up()
    expect(answered).to_have_count(3)
    page.evaluate("scrollTo(0, 0)")
    return page.screenshot()


def run(path: Path, client: Client) -> None:
    """Open a console and write its picture. Raises ClientError, ProcessDied, DemoError."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise DemoError("no chromium: scripts/setup.sh --dev installs it")
    client.wait_for_node(LIMIT_S)
    described = next(client.descriptions(LIMIT_S)).descriptions
    things = sorted(described, key=lambda item: item.region.bbox.center.position.x)
    with running_web_console(client) as address, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport=SIZE)
        expect.set_options(timeout=1000 * LIMIT_S)
        page.goto(address)
        shot = picture(page, things)
        chromium.close()
    Image.open(io.BytesIO(shot)).convert("RGB").save(path, quality=QUALITY, method=6)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file to write, .webp")
    arguments = parser.parse_args()
    try:
        with Interrupts() as interrupts, running_nodes(interrupts, "picture", rate_hz=5.0, views=1) as (client, _):
            run(arguments.path, client)
    except KeyboardInterrupt:
        return interrupts.status
    except (DemoError, ClientError, ProcessDied, OSError, Error, AssertionError) as error:
        print(f"web_console_picture.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

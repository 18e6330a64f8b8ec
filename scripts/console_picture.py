"""Make the picture of the terminal console: the simulated camera, the node, and two questions.

    . scripts/env.sh
    python scripts/console_picture.py docs/images/console.svg
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from demo import DemoError, running_nodes
from processes import ProcessDied

from ros_gpt4roi.client import Client, ClientError
from ros_gpt4roi.console.question_input import QuestionInput
from ros_gpt4roi.console.terminal import Console
from ros_gpt4roi.interrupts import Interrupts

QUESTIONS = ("What kind of object is region {first}?", "Is it left or right of region {last}?")
SIZE = (80, 24)
LIMIT_S = 180.0


async def picture(client: Client) -> str:
    """Return the console as SVG, after the questions. Raises DemoError."""
    app = Console(client)
    async with app.run_test(size=SIZE) as pilot:
        async def until(condition: Callable[[], object]) -> None:
            end = time.monotonic() + LIMIT_S
            while not condition():
                if time.monotonic() > end:
                    raise DemoError(f"the console did not get on within {LIMIT_S:g} s")
                await pilot.pause(0.05)

        await until(lambda: len(app.region_ids()) > 1 and client.state)
        ids = app.region_ids()
        for question in QUESTIONS:
            app.query_one(QuestionInput).value = question.format(first=ids[0], last=ids[-1])
            await pilot.press("enter")
            await until(lambda: not app.is_asking)
        app.query_one(QuestionInput).value = "Which reg"
        await pilot.pause(0.3)
        return app.export_screenshot(title="ros2 run ros_gpt4roi console")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file to write, .svg")
    arguments = parser.parse_args()
    try:
        with Interrupts() as interrupts, running_nodes(interrupts, "picture", rate_hz=10.0, views=20) as (client, _):
            client.wait_for_node(LIMIT_S)
            svg = asyncio.run(picture(client))
    except KeyboardInterrupt:
        return interrupts.status
    except (DemoError, ClientError, ProcessDied, OSError) as error:
        print(f"console_picture.py: {error}", file=sys.stderr)
        return 1
    # The font that Rich names lies on somebody's server; the next best of the reader's own does.
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    arguments.path.write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

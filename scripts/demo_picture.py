"""Make the moving picture at the head of the README: the simulated camera, the node's descriptions, its answers.

Starts the two nodes as scripts/demo.py does and records what the perception node publishes; only the pace, of frames
and text, is set here, so that it can be read.

    . scripts/env.sh
    python scripts/demo_picture.py docs/images/demo.webp
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from demo import DemoError, running_nodes
from PIL import Image as Picture
from processes import ProcessDied
from ros_gpt4roi_interfaces.msg import Answer
from sensor_msgs.msg import Image
from shown_worlds import SHOWS, WHY, questions_about, world_to_show

from ros_gpt4roi.client import Client, ClientError
from ros_gpt4roi.interrupts import Interrupts
from ros_gpt4roi.sim.worlds import HOUSEHOLD

RATE_HZ = 4.0  # at most: slow enough that every view is described, also on a busy machine
FRAME_MS = 130
LEAD_FRAMES, TYPED_FRAMES, READ_FRAMES = 10, 4, 9  # before the questions; while one is typed; while it is read
LIMIT_S = 180.0
BAR_HEIGHT, SCALE = 64, 0.55
QUALITY = 38


class Recording:
    """The annotated frames in the order in which the node published them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._frames: list[np.ndarray] = []
        client.on_annotated_image(self._keep)

    def _keep(self, message: Image) -> None:
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        self._frames.append(rows[:, : message.width * 3].reshape(message.height, message.width, 3))

    def take(self, count: int) -> list[np.ndarray]:
        """Return the next `count` frames, uint8 RGB [H, W, 3]."""
        self._client.wait_for(lambda: len(self._frames) >= count, LIMIT_S, f"{count} annotated images")
        taken = self._frames[:count]
        del self._frames[:count]  # not a new list: the client's thread adds to this one
        return taken


def captioned(frame: np.ndarray, question: str, answer: str) -> np.ndarray:
    """Return the frame with a bar below it that holds a question and its answer."""
    bar = np.full((BAR_HEIGHT, frame.shape[1], 3), 30, np.uint8)
    for place, (mark, text, colour) in enumerate((("?", question, (255, 255, 255)), (">", answer, (150, 220, 150)))):
        if text:
            line, font, room = f"{mark} {text}", cv2.FONT_HERSHEY_SIMPLEX, bar.shape[1] - 20
            scale = SCALE * min(1.0, room / cv2.getTextSize(line, font, SCALE, 1)[0][0])
            cv2.putText(bar, line, (10, 24 + 27 * place), font, scale, colour, 1, cv2.LINE_AA)
    return np.vstack((frame, bar))


def pace(text: str, frames: int) -> list[str]:
    """Return how far `text` has come in each of so many frames."""
    return [text[: round(len(text) * (step + 1) / frames)] for step in range(frames)]


def record(client: Client, world: str) -> list[np.ndarray]:
    """Return all frames of the picture. Raises ClientError, DemoError."""
    described: list = []
    client.on_descriptions(described.append)
    recording = Recording(client)
    shots = [captioned(frame, "", "") for frame in recording.take(LEAD_FRAMES)]
    conversation = ""
    for place in range(1, len(SHOWS[world].questions)):  # not the first: what a region is, the descriptions say
        _, question = questions_about(described[-1].descriptions, world)[place]
        answer = client.ask(question, conversation_id=conversation if question == WHY else "", limit_s=LIMIT_S)
        if answer.status != Answer.OK:
            raise DemoError(f"{question!r}: {answer.error}")
        conversation = answer.conversation_id
        print(f"? {question}\n> {answer.text}")
        typed = [(part, "") for part in pace(question, TYPED_FRAMES)]
        typed += [(question, part) for part in pace(answer.text, READ_FRAMES // 2)]
        typed += [(question, answer.text)] * (READ_FRAMES - READ_FRAMES // 2)
        shots += [captioned(frame, *text) for frame, text in zip(recording.take(len(typed)), typed, strict=True)]
    return shots


def run(path: Path, wanted: str, seed: int, interrupts: Interrupts) -> None:
    """Record the nodes and write the picture."""
    world = world_to_show(wanted, None)
    with running_nodes(interrupts, "picture", rate_hz=min(RATE_HZ, SHOWS[world].rate_hz), views=SHOWS[world].views,
                       seed=seed, world=world) as (client, _):
        client.wait_for_node(LIMIT_S)
        frames = record(client, world)
    height = max(len(frame) for frame in frames)  # the node's pictures grow by a legend where it first needs one
    shots = [Picture.fromarray(np.pad(frame, ((0, height - len(frame)), (0, 0), (0, 0)))) for frame in frames]
    shots[0].save(path, save_all=True, append_images=shots[1:], duration=FRAME_MS, loop=0, quality=QUALITY, method=6)
    print(f"{path}: {len(shots)} frames, {path.stat().st_size / 1e6:.2f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file to write, .webp or .gif")
    parser.add_argument("--world", choices=tuple(SHOWS), default=HOUSEHOLD,
                        help="what the camera looks at (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which scene the camera sees (0)")
    arguments = parser.parse_args()
    try:
        with Interrupts() as interrupts:
            run(arguments.path, arguments.world, arguments.seed, interrupts)
    except KeyboardInterrupt:
        return interrupts.status
    except (DemoError, ClientError, ProcessDied, OSError) as error:
        print(f"demo_picture.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

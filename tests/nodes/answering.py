"""A perception node that answers, for tests of what talks to it."""
from __future__ import annotations

from pathlib import Path

from camera import Camera
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray
from ros_peer import WAIT_S, Peer, Process

from ros_gpt4roi.client import Client

BOXES = ((2, 2, 20, 20), (30, 10, 60, 40))
# A busy machine must not turn an answer into a TIMEOUT.
SETTINGS = {
    "pipeline__vision__backend": "torch", "pipeline__answer_tokens": 200, "pipeline__description_tokens": 20,
    "qos__image__reliability": "reliable", "qos__detections__reliability": "reliable",
    "scheduler__answer_timeout_s": 3600.0, "scheduler__description_timeout_s": 3600.0}


def start_perception(model: Path, log: Path, *arguments: str, **settings: object) -> Process:
    """The node, in a process of its own."""
    return Process("perception", log, *arguments, model=model, **{**SETTINGS, **settings})


def described_camera(peer: Peer, client: Client) -> Camera:
    """A camera whose first frame the node has described."""
    camera = Camera(peer, namespace=client.namespace.rstrip("/"))
    frames: list[RegionDescriptionArray] = []
    end = client.on_descriptions(frames.append)
    client.wait_for(lambda: camera.send(BOXES) and frames, WAIT_S, "the first descriptions")
    end()
    return camera

"""A perception node that answers, for tests of what talks to it."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from camera import Camera
from rclpy.parameter import Parameter
from ros_gpt4roi_interfaces.msg import RegionDescriptionArray
from ros_peer import WAIT_S, Peer, Process

from ros_gpt4roi.client import Client

if TYPE_CHECKING:
    from ros_gpt4roi.nodes.perception import Perception

BOXES = ((2, 2, 20, 20), (30, 10, 60, 40))
# A busy machine must not turn an answer into a TIMEOUT.
SETTINGS = {
    "pipeline__vision__backend": "torch", "pipeline__answer_tokens": 200, "pipeline__description_tokens": 20,
    "qos__image__reliability": "reliable", "qos__detections__reliability": "reliable",
    "scheduler__answer_timeout_s": 3600.0, "scheduler__description_timeout_s": 3600.0}


def start_perception(model: Path, log: Path, *arguments: str, **settings: object) -> Process:
    """The node, in a process of its own."""
    return Process("perception", log, *arguments, model=model, **{**SETTINGS, **settings})


@contextmanager
def running_perception(model: Path, log: Path, **settings: object) -> Iterator[Process]:
    """The node, which must end well at the end."""
    process = start_perception(model, log, **settings)
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.output(), process.output()


@contextmanager
def perception_here(peer: Peer, model: Path, settings: Mapping[str, object]) -> Iterator[Perception]:
    """The node in this process, spun by the peer. settings: parameters by their full names."""
    import torch

    from ros_gpt4roi.nodes.perception import Perception
    threads = torch.get_num_threads()
    node = Perception()
    results = node.set_parameters([Parameter(name, value=value)
                                   for name, value in {**settings, "model": str(model)}.items()])
    assert all(result.successful for result in results), results
    peer.executor.add_node(node)
    node.autostart()
    yield node
    node.close()
    peer.executor.remove_node(node)
    node.destroy_node()
    del node._state_machine  # it keeps the lifecycle services in the graph, where the next test would call them
    torch.set_num_threads(threads)


@contextmanager
def connected_client(node: Process) -> Iterator[Client]:
    """A client that knows the node, and ends its waits where the node has died."""
    def check() -> None:
        assert node.running, node.output()
    with Client(check=check) as client:
        client.wait_for_node(WAIT_S)
        yield client


def described_camera(peer: Peer, client: Client) -> Camera:
    """A camera whose first frame the node has described."""
    camera = Camera(peer, namespace=client.namespace.rstrip("/"))
    frames: list[RegionDescriptionArray] = []
    end = client.on_descriptions(frames.append)
    client.wait_for(lambda: camera.send(BOXES) and frames, WAIT_S, "the first descriptions")
    end()
    return camera

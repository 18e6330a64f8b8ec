"""A node that answers, and a client that knows it, for the consoles."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from camera import Camera
    from ros_peer import Peer, Process

    from ros_gpt4roi.client import Client


@pytest.fixture(scope="module")
def node(ros: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    from answering import start_perception
    # Long enough to be cancelled in its middle.
    process = start_perception(tiny_model, tmp_path_factory.mktemp("log") / "perception.log",
                               pipeline__answer_tokens=900)
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.output(), process.output()


@pytest.fixture(scope="module")
def client(node: Process) -> Iterator[Client]:
    from ros_peer import WAIT_S

    from ros_gpt4roi.client import Client

    def check() -> None:
        assert node.running, node.output()
    with Client(check=check) as client:
        client.wait_for_node(WAIT_S)
        yield client


@pytest.fixture(scope="module")
def camera(peer: Peer, client: Client) -> Camera:
    from answering import described_camera
    return described_camera(peer, client)

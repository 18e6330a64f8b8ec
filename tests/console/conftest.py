"""A node that answers, a client that knows it, and a browser, for the consoles."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from camera import Camera
    from playwright.sync_api import Browser
    from ros_peer import Peer, Process

    from ros_gpt4roi.client import Client


@pytest.fixture(scope="module")
def node(ros: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    from answering import running_perception
    log = tmp_path_factory.mktemp("log") / "perception.log"
    with running_perception(tiny_model, log, pipeline__answer_tokens=900) as process:  # so long as to be cancelled
        yield process


@pytest.fixture(scope="module")
def client(node: Process) -> Iterator[Client]:
    from answering import connected_client
    with connected_client(node) as client:
        yield client


@pytest.fixture(scope="module")
def camera(peer: Peer, client: Client) -> Camera:
    from answering import described_camera
    return described_camera(peer, client)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from browsing import chromium
    with chromium() as browser:
        yield browser

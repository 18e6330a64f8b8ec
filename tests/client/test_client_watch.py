"""Watches through the Python client, over DDS: changes, ends, lost acceptances, a node that dies."""
from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 in this environment")
pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from answering import (  # noqa: E402
    BOXES,
    SETTINGS,
    connected_client,
    described_camera,
    perception_here,
    start_perception,
)
from camera import Camera  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from ros_gpt4roi_interfaces.action import Watch  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query  # noqa: E402
from ros_peer import WAIT_S, Peer, Process  # noqa: E402

from ros_gpt4roi.client import Client, ClientError  # noqa: E402
from ros_gpt4roi.nodes.perception import Perception  # noqa: E402

LEASE_S = 8.0


@pytest.fixture(scope="module")
def node(ros: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = start_perception(tiny_model, tmp_path_factory.mktemp("log") / "perception.log", watch__lease_s=LEASE_S,
                               pipeline__answer_tokens=20, watch__every_n_frames=1, watch__max=1)
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.output(), process.output()


@pytest.fixture(scope="module")
def client(node: Process) -> Iterator[Client]:
    with connected_client(node) as client:
        yield client


@pytest.fixture(scope="module")
def camera(peer: Peer, client: Client) -> Camera:
    return described_camera(peer, client)


def watches(client: Client) -> str:
    """How many the node says that it has."""
    return client.state.values.get("watches", "") if client.state is not None else ""


def test_changes_come_one_after_the_other_until_one_leaves(client: Client, camera: Camera) -> None:
    seen, statuses, last = [BOXES], [], Answer()
    with Client(check=lambda: camera.send(seen[-1])) as watching:  # a frame ten times a second
        for change in watching.watch("what is region 2?", limit_s=WAIT_S):
            assert (change.before.status, change.before.text) == (last.status, last.text)
            last = change.answer
            statuses += [last.status] if statuses[-1:] != [last.status] else []
            seen.append(BOXES[:1] if len(statuses) == 1 else BOXES)
            if len(statuses) == 3:
                break
        assert statuses == [Answer.OK, Answer.UNKNOWN_REGION, Answer.OK] and last.header.stamp.sec
        client.wait_for(lambda: watches(client) == "0", WAIT_S, "the end of the watch in the node's state")


def test_a_watch_is_cancelled_and_one_too_many_is_an_error(client: Client, camera: Camera) -> None:
    changes: list[Watch.Feedback] = []
    reply = client.watch_async(Query(text="what is region 1?", query_id="mine"), on_change=changes.append,
                               limit_s=WAIT_S)
    client.wait_for(lambda: camera.send(BOXES) and changes, WAIT_S, "the first answer")
    with pytest.raises(ClientError, match="OVERLOADED: 1 watches go on already"):
        next(client.watch("what is region 2?", limit_s=WAIT_S))
    assert reply.cancel()
    result = reply.result(WAIT_S)
    assert (result.answer.status, result.answer.query_id) == (Answer.OK, "mine") and not reply.aborted
    assert result.answer == reply.answer == changes[-1].answer and not reply.cancel()


def test_an_error_of_the_listeners_own_ends_its_watch(client: Client, camera: Camera) -> None:
    def broken(change: Watch.Feedback) -> None:
        raise OSError("the terminal has gone")
    reply = client.watch_async("what is region 1?", on_change=broken, limit_s=WAIT_S)
    client.wait_for(lambda: watches(client) == "1", WAIT_S, "the watch")
    camera.send(BOXES)
    with pytest.raises(OSError, match="the terminal has gone"):
        reply.result(WAIT_S)
    client.wait_for(lambda: watches(client) == "0", WAIT_S, "the end of the watch in the node's state")


_KILLED = """
import time
from ros_gpt4roi.client import Client
with Client() as client:
    client.watch_async("what is region 1?", on_change=lambda change: print("told", flush=True))
    time.sleep(600)
"""


def test_the_watch_of_a_client_that_was_killed_ends_while_others_live(client: Client, camera: Camera,
                                                                      tmp_path: Path) -> None:
    waiting = Client()  # it holds the action's feedback, as one with a watch of its own does
    with waiting, (tmp_path / "killed.log").open("w+") as log:
        killed = subprocess.Popen([sys.executable, "-c", _KILLED], stdout=log, stderr=subprocess.STDOUT)
        try:
            client.wait_for(lambda: camera.send(BOXES) and "told" in (tmp_path / "killed.log").read_text(), WAIT_S,
                            "the first answer to a client in another process")
            client.wait_for(lambda: watches(client) == "1", WAIT_S, "its watch in the node's state")
            with pytest.raises(ClientError, match="OVERLOADED"):
                next(waiting.watch("what is region 2?", limit_s=WAIT_S))
        finally:
            killed.kill()
            killed.wait(WAIT_S)
        client.wait_for(lambda: watches(client) == "0", WAIT_S, "the end of its watch, without any frame")
        lasting = waiting.watch_async("what is region 2?", on_change=lambda change: None, limit_s=WAIT_S)
        client.wait_for(lambda: watches(client) == "1", WAIT_S, "a watch in its place")
        end = time.monotonic() + 1.5 * LEASE_S
        client.wait_for(lambda: time.monotonic() > end or lasting.done(), WAIT_S, "more than a lease")
        assert not lasting.done(), lasting.result()
        lasting.cancel()
        client.wait_for(lambda: watches(client) == "0", WAIT_S, "the end of the watch in the node's state")


@pytest.mark.parametrize("where", ["in a node of its own", "in a node of the caller's"])
def test_a_callback_may_close_the_client_in_the_middle_of_a_watch(client: Client, camera: Camera, where: str) -> None:
    closed = threading.Event()
    context, node, executor = Context(), None, None
    if where == "in a node of the caller's":
        rclpy.init(context=context)
        node = rclpy.create_node("callers", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        threading.Thread(target=executor.spin, daemon=True).start()
    own = Client(node)

    def close(change: Watch.Feedback) -> None:
        own.close()
        closed.set()
    reply = own.watch_async("what is region 1?", on_change=close, limit_s=WAIT_S)
    client.wait_for(lambda: camera.send(BOXES) and closed.is_set(), WAIT_S, "a client that is closed in a callback")
    if executor is not None:
        with pytest.raises(ClientError, match="the client is closed"):
            reply.result(WAIT_S)
        executor.shutdown(WAIT_S)
        context.shutdown()
    else:
        assert reply.result(WAIT_S).answer.status == Answer.OK, "it was ended in order"
    client.wait_for(lambda: watches(client) == "0", WAIT_S, "the end of the watch in the node's state")


def test_a_node_that_ends_in_order_ends_its_watches(client: Client, node: Process) -> None:
    reply = client.watch_async("what is region 1?", on_change=lambda change: None, limit_s=WAIT_S)
    client.wait_for(lambda: watches(client) == "1", WAIT_S, "the watch")
    assert node.stop() == 0
    answer = reply.result(WAIT_S).answer
    assert reply.aborted and answer.status == Answer.CANCELED and "not active any more" in answer.error


@pytest.fixture
def own_node(peer: Peer, tiny_model: Path) -> Iterator[Perception]:
    """A node in this process, which is spun by this test only."""
    settings = {name.replace("__", "."): value for name, value in SETTINGS.items()}
    with perception_here(peer, tiny_model, settings | {"watch.every_n_frames": 1}) as own:
        yield own


def test_a_watch_without_an_acceptance_is_repeated_and_is_one(peer: Peer, own_node: Perception,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.client.connection._SILENT_S", WAIT_S)  # it isn't dead, only not spun
    camera, changes = Camera(peer, first_second=3000), []
    with Client() as client:
        first = client.ask_async("anybody?", limit_s=WAIT_S)
        peer.wait_for(first.done, "the client's first answer")
        reply = client.watch_async("what is region 2?", on_change=changes.append, limit_s=WAIT_S)
        client.wait_for(lambda: client.repeats >= 2, WAIT_S, "two repetitions, as nobody spins the node")
        peer.wait_for(lambda: own_node._questions.statistics()["watches"], "the watch")
        camera.send(BOXES)
        peer.wait_for(lambda: changes, "the first answer")
        assert own_node._questions.statistics()["watches"] == 1
        reply.cancel()
        peer.wait_for(reply.done, "the end of the watch")
        assert reply.result().asked == 1 and own_node._questions.statistics()["watches"] == 0


def test_a_node_that_dies_ends_its_watches(peer: Peer, tiny_model: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.client.connection._SILENT_S", 4.0)
    process = start_perception(tiny_model, tmp_path / "robot3.log", "-r", "__ns:=/robot3", watch__every_n_frames=1)
    try:
        with Client(namespace="/robot3", connect_limit_s=WAIT_S) as client:
            camera, changes = described_camera(peer, client), []
            dying = client.watch_async("what is region 1?", on_change=changes.append, limit_s=WAIT_S)
            client.wait_for(lambda: camera.send(BOXES) and changes, WAIT_S, "the first answer")
            process.send_signal(signal.SIGKILL)
            with pytest.raises(ClientError, match="has gone"):
                dying.result(WAIT_S)
    finally:
        process.stop(signal.SIGKILL)

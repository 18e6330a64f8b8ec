"""What the client does when nodes die and replies are lost, over DDS."""
from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
from answering import BOXES, SETTINGS, described_camera, perception_here, start_perception  # noqa: E402
from camera import Camera  # noqa: E402
from isolation import for_children  # noqa: E402
from ros_gpt4roi_interfaces.action import Ask  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Query  # noqa: E402
from ros_peer import WAIT_S, Peer  # noqa: E402

from ros_gpt4roi.client import Client, ClientError, NodeState  # noqa: E402
from ros_gpt4roi.nodes.perception import Perception  # noqa: E402


def test_a_node_that_dies_in_the_middle_ends_its_questions_and_the_next_one_is_found(
        ros: None, peer: Peer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.client.connection._SILENT_S", 4.0)
    with Client(namespace="/robot1", connect_limit_s=WAIT_S) as client:
        for number in (signal.SIGKILL, signal.SIGTERM):
            process = start_perception(tiny_model, tmp_path / "robot1.log", "-r", "__ns:=/robot1",
                                       pipeline__answer_tokens=900)
            try:
                camera = Camera(peer, namespace="/robot1")
                response = ask_until(client, camera, Answer.OK)
                assert response.status == Answer.OK
                reply = client.ask_async("what is region 1?", limit_s=WAIT_S)
                client.wait_for(lambda: reply.text or reply.done(), WAIT_S, "the first words")
                process.send_signal(number)
                process.wait()
                if number == signal.SIGKILL and not reply.done():
                    with pytest.raises(ClientError, match="has gone"):
                        reply.result(WAIT_S)
                elif number == signal.SIGTERM:
                    assert reply.result(WAIT_S).status in (Answer.CANCELED, Answer.OK)
            finally:
                process.stop(signal.SIGKILL)


def ask_until(client: Client, camera: Camera, status: int) -> Answer:
    """Sends frames until the answer has this status."""
    while True:
        camera.send(BOXES)
        response = client.describe(limit_s=WAIT_S)
        if response.status == status:
            return response


@pytest.fixture
def own_node(peer: Peer, tiny_model: Path) -> Iterator[Perception]:
    """A node in this process, which is spun by this test only."""
    settings = {name.replace("__", "."): value for name, value in SETTINGS.items()}
    with perception_here(peer, tiny_model, settings) as own:
        yield own


def test_a_question_without_an_acceptance_is_repeated_and_asked_once(peer: Peer, own_node: Perception,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.client.connection._SILENT_S", WAIT_S)  # it isn't dead, only not spun
    Camera(peer, first_second=3000).send(BOXES)
    with Client() as client:
        first = client.ask_async("what is region 1?", limit_s=WAIT_S)
        peer.wait_for(first.done, "the client's first answer")
        answers = peer.collect(Answer, "answers", 10)
        reply = client.ask_async("what is region 2?", limit_s=WAIT_S)
        client.wait_for(lambda: client.repeats >= 2, WAIT_S, "two repetitions, as nobody spins the node")
        peer.wait_for(reply.done, "an answer")
        assert reply.result().status == Answer.OK
        peer.wait_for(lambda: own_node._questions.statistics()["goals repeated"] == client.repeats, "the repetitions")
    assert [answer.query_id for answer in answers] == [reply.query.query_id]
    assert own_node._scheduler.statistics()["questions_received"] == 2


def test_the_same_query_id_alone_is_no_repetition(peer: Peer, own_node: Perception) -> None:
    Camera(peer, first_second=3000).send(BOXES)
    action = peer.action(Ask, "ask")
    goal = Ask.Goal(query=Query(text="what is region 1?", query_id="mine"))
    results = []
    for attempt in (0, 0, 1):
        goal.attempt = attempt
        accepted = peer.result_of(action.send_goal_async(goal), "an acceptance")
        results.append(peer.result_of(accepted.get_result_async(), "a result"))
    action.destroy()
    assert results[2].result == results[1].result and results[2].status == results[1].status
    assert own_node._scheduler.statistics()["questions_received"] == 2


CROWD, PROCESSES = 12, 3  # in all; with LOCALHOST, Fast DDS finds about 32 participants of a domain, others included
CLIENTS = """
import sys, threading
from ros_gpt4roi.client import Client
def ask():
    with Client(namespace="/crowd", connect_limit_s=200) as client:
        answer = client.ask("what is region 1?", limit_s=200)
        sys.stdout.write(f"answered {answer.status} {client.repeats}\\n")  # one call: other threads write, too
threads = [threading.Thread(target=ask) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.slow
def test_each_of_a_crowd_that_asks_at_once_is_answered_once(peer: Peer, tiny_model: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    process = start_perception(tiny_model, tmp_path / "crowd.log", "-r", "__ns:=/crowd", scheduler__queue_length=64,
                               scheduler__conversations=64, pipeline__answer_tokens=8)
    crowd: list[subprocess.Popen[str]] = []
    try:
        with Client(namespace="/crowd", connect_limit_s=WAIT_S) as watching:
            described_camera(peer, watching)
            monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")  # no segment of shared memory for each client
            monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
            crowd += [subprocess.Popen([sys.executable, "-c", CLIENTS, str(CROWD // PROCESSES)], text=True,
                                       stdout=subprocess.PIPE, env=for_children()) for _ in range(PROCESSES)]
            lines = [line.split() for asking in crowd for line in asking.communicate(timeout=WAIT_S)[0].splitlines()]
            assert [line[:2] for line in lines] == [["answered", str(Answer.OK)]] * CROWD, process.output()
            states: list[NodeState] = []
            watching.on_state(states.append)
            watching.wait_for(lambda: states, WAIT_S, "the node's state")
        values = states[-1].values
        repeated = int(values["goals received"]) - CROWD
        assert int(values["questions_received"]) == CROWD and repeated <= sum(int(line[2]) for line in lines)
    finally:
        for asking in crowd:
            asking.kill()
            asking.wait()
        process.stop()

"""The Python client against the real node over DDS, in a thread of its own and in nodes of the caller's."""
from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
import rclpy  # noqa: E402
from answering import BOXES, connected_client, described_camera, running_perception  # noqa: E402
from camera import HEIGHT, WIDTH, Camera  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Correction, Query, Region, RegionDescriptionArray  # noqa: E402
from ros_peer import WAIT_S, Peer, Process  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from ros_gpt4roi.client import Client, ClientError, NodeState, NoNodeError  # noqa: E402
from ros_gpt4roi.messages import box_to_message  # noqa: E402


@pytest.fixture(scope="module")
def node(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running_perception(tiny_model, tmp_path_factory.mktemp("log") / "perception.log") as process:
        yield process


@pytest.fixture(scope="module")
def client(ros: None, node: Process) -> Iterator[Client]:
    with connected_client(node) as client:
        yield client


@pytest.fixture(scope="module")
def camera(peer: Peer, node: Process, client: Client) -> Camera:
    return described_camera(peer, client)


def test_an_answer_comes_in_pieces_and_its_conversation_goes_on(client: Client, camera: Camera) -> None:
    pieces: list[str] = []
    answer = client.ask("what is left of region 2?", on_text=pieces.append, limit_s=WAIT_S)
    assert answer.status == Answer.OK and answer.query_id and answer.conversation_id
    assert len(pieces) > 3 and "".join(pieces).rstrip() == answer.text
    header = camera.send(BOXES[:1])
    follow_up = client.ask("and region 2?", conversation_id=answer.conversation_id, limit_s=WAIT_S)
    assert (follow_up.status, follow_up.header) == (Answer.OK, answer.header) and header != answer.header
    bad = client.ask("and region 77?", conversation_id=answer.conversation_id, limit_s=WAIT_S)
    assert bad.status == Answer.UNKNOWN_REGION and "77" in bad.error


def test_questions_run_side_by_side_and_one_is_cancelled(client: Client, camera: Camera) -> None:
    others = [client.ask_async("what is region 1?", limit_s=WAIT_S) for _ in range(3)]
    cancelled = client.ask_async("what is region 1?", limit_s=WAIT_S)
    client.wait_for(lambda: cancelled.text or cancelled.done(), WAIT_S, "the first words")
    if cancelled.cancel():  # a node that is faster than this process may have said it all
        answer = cancelled.result(WAIT_S)
        assert not cancelled.cancelled() and answer.status in (Answer.CANCELED, Answer.OK)
        assert answer.text.startswith(cancelled.text[:5])
    assert [other.result(WAIT_S).status for other in others] == [Answer.OK] * 3
    assert not cancelled.cancel(), "it has ended"


def test_boxes_and_points_are_asked_about_and_described(client: Client, camera: Camera) -> None:
    mine = Region(id="mine", bbox=box_to_message((5, 5, 15, 15)))
    answer = client.ask(Query(text="is region mine left of region 3?", query_id="q-1"), limit_s=WAIT_S,
                        boxes=[mine, (4, 4, 9, 9)])
    assert (answer.status, answer.query_id) == (Answer.OK, "q-1"), answer.error
    response = client.describe([mine, (1, 2, 30, 40), (WIDTH / 2, HEIGHT / 2)], limit_s=WAIT_S)
    assert response.status == Answer.OK, response.error
    described = response.descriptions.descriptions
    assert [item.region.id for item in described] == ["mine", "2", "3"] and all(item.text for item in described)
    assert described[1].region.bbox == box_to_message((1, 2, 30, 40)) and described[2].region.bbox.size_x == 0
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 5:9] = True
    outlined, masked = client.describe([((1, 1), (30, 1), (1, 40)), mask], limit_s=WAIT_S).descriptions.descriptions
    assert outlined.region.bbox == box_to_message((1, 1, 30, 40)) and len(outlined.region.mask.polygons[0].points) == 3
    assert masked.region.bbox == box_to_message((5, 10, 9, 20)) and masked.region.mask.width == WIDTH
    response = client.describe([(900, 900, 910, 910)], limit_s=WAIT_S)
    assert response.status == Answer.INVALID and "outside" in response.error
    with pytest.raises(ValueError, match="3 numbers"):
        client.describe([(1, 2, 3)])


def test_what_the_node_publishes_is_heard_until_one_stops(client: Client, camera: Camera) -> None:
    frames: list[RegionDescriptionArray] = []
    answers: list[Answer] = []
    images: list[Image] = []
    states: list[NodeState] = []
    ends = [client.on_descriptions(frames.append), client.on_answers(answers.append),
            client.on_annotated_image(images.append), client.on_state(states.append)]
    asked = client.ask("what is region 1?", limit_s=WAIT_S)

    def heard() -> bool:  # images are drawn for those who listen, when the node knows of them
        camera.send(BOXES)
        return bool(frames and images and states) and asked.query_id in [answer.query_id for answer in answers]
    client.wait_for(heard, WAIT_S, "descriptions, answers, images and states")
    assert images[-1].encoding == "rgb8" and (states[-1].name, states[-1].values["state"]) == ("perception", "active")
    assert client.state is not None and time.monotonic() - client.state.received_s < 10
    for end in ends:
        end()
    client.wait_for(lambda: client.node.count_subscribers("/region_descriptions") == 0, WAIT_S, "no subscriber")
    frames.clear()
    header = camera.send(BOXES)
    for frame in client.descriptions(WAIT_S):
        if frame.header == header:
            break
        header = camera.send(BOXES)
    assert not frames


def test_an_error_of_the_listeners_own_is_its_questions_error(client: Client, camera: Camera) -> None:
    def broken(piece: str) -> None:
        raise OSError("the terminal has gone")
    with pytest.raises(OSError, match="the terminal has gone"):
        client.ask("what is region 1?", on_text=broken, limit_s=WAIT_S)
    assert client.ask("what is region 1?", limit_s=WAIT_S).status == Answer.OK


def test_an_event_loop_awaits_an_answer_and_cancels_another(client: Client, camera: Camera) -> None:
    async def talk() -> Answer:
        impatient = client.ask_async("what is region 2?", limit_s=WAIT_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(impatient), 0.001)
        assert impatient.result(WAIT_S).status in (Answer.CANCELED, Answer.OK)
        return await asyncio.wrap_future(client.ask_async("what is region 1?", limit_s=WAIT_S))
    assert asyncio.run(talk()).status == Answer.OK


def test_what_is_waited_for_in_a_callback_is_an_error_at_once(client: Client, camera: Camera) -> None:
    raised: list[RuntimeError] = []

    def ask_at_once(piece: str) -> None:
        if not raised:
            with pytest.raises(RuntimeError, match="ask_async") as error:
                client.ask("what is region 1?")
            raised.append(error.value)
    assert client.ask("what is region 1?", on_text=ask_at_once, limit_s=WAIT_S).status == Answer.OK
    assert raised


def test_a_callback_may_close_the_client_which_then_says_so(ros: None) -> None:
    own, errors = Client(name="own"), list[Exception]()
    with pytest.raises(ValueError, match="every_n_frames -1"):
        next(own.watch("what is region 1?", every_n_frames=-1))

    def close() -> None:
        try:
            own.close()
        except Exception as error:
            errors.append(error)
        closed.set()
    closed = threading.Event()
    own._connection.call(close)
    assert closed.wait(WAIT_S) and errors == []
    for use in (lambda: own.correct(Correction()), lambda: own.on_answers(print), lambda: next(own.descriptions())):
        with pytest.raises(ClientError, match="closed"):
            use()


def test_a_program_that_corrects_and_ends_is_heard(peer: Peer) -> None:
    with Client() as own:
        assert not own.correct(Correction())
        with pytest.raises(ClientError, match="a subscriber of /corrections, such as the recorder"):
            own.correct(Correction(), limit_s=0.2)
    heard: list[Correction] = []
    peer.node.create_subscription(Correction, "corrections", heard.append, 10)
    names = ["Ada", "Bob", "Cem", "Dora"]
    for name in names:
        with Client() as own:
            assert own.correct(Correction(who=name), limit_s=WAIT_S)  # and is closed at once
    peer.wait_for(lambda: len(heard) == len(names), "the corrections")
    assert [correction.who for correction in heard] == names


@pytest.mark.parametrize("spun", [False, True], ids=["in no executor", "spun by the caller"])
def test_it_works_in_a_node_of_the_callers(client: Client, camera: Camera, spun: bool) -> None:
    mine = rclpy.create_node("mine")
    executor, thread = SingleThreadedExecutor(), None
    if spun:
        executor.add_node(mine)
        thread = threading.Thread(target=executor.spin)
        thread.start()
    try:
        with Client(mine) as own:
            assert own.ask("what is region 1?", limit_s=WAIT_S).status == Answer.OK
            assert own.describe([(1, 1, 9, 9)], limit_s=WAIT_S).status == Answer.OK
            assert (mine.executor is executor) if spun else mine.executor is None
        with pytest.raises(ClientError, match="closed"):
            own.ask("what is region 1?")
    finally:
        executor.shutdown()
        if thread is not None:
            thread.join()
        mine.destroy_node()


def test_an_executor_that_nobody_spins_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ros_gpt4roi.client.client._SPUN_S", 0.1)
    mine, executor = rclpy.create_node("mine"), SingleThreadedExecutor()
    executor.add_node(mine)
    with Client(mine) as own, pytest.raises(ClientError, match="executor of node mine spin"):
        own.ask("what is region 1?", limit_s=0.1)
    executor.shutdown()
    mine.destroy_node()


def test_where_no_node_answers_the_error_says_what_was_looked_for_and_found(client: Client, ros_domain: int) -> None:
    with Client(namespace="/elsewhere", connect_limit_s=20.0) as lost:
        began = time.monotonic()
        with pytest.raises(NoNodeError) as error:
            lost.ask("what is region 1?")
        assert time.monotonic() - began >= 20
    for word in ("/elsewhere/ask", f"domain {ros_domain}", "found /ask of node /perception", "namespace"):
        assert word in str(error.value)

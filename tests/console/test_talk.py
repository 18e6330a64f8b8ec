"""What a browser may hand over to the speech node, on its way over DDS."""
from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
pytest.importorskip("soxr", reason="requirements/speech.txt is not installed")

from ros_peer import Peer  # noqa: E402
from std_msgs.msg import Bool, Int16MultiArray  # noqa: E402

from ros_gpt4roi.client import Client  # noqa: E402
from ros_gpt4roi.console.talk import TalkError, TalkStream  # noqa: E402
from ros_gpt4roi.console.voice import Voice  # noqa: E402


def test_a_talk_is_bounded_and_ends_with_an_empty_message(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[list[int]] = []
    ended: list[str] = []
    monkeypatch.setattr("ros_gpt4roi.console.talk.MOST_TALK_S", 1.0)
    second = bytes(2 * 16_000)

    async def talk(voice: Voice) -> None:
        stream = TalkStream(voice, 16_000, ended.append)
        stream.feed(b"\1\0\2\0")
        for piece, error in ((b"\1", "1 bytes; expected whole frames"), (second + b"12", "at most one second")):
            with pytest.raises(TalkError, match=error):
                stream.feed(piece)
        stream.feed(second)  # beyond the limit, faster than it can be spoken
        stream.feed(b"\3\0")
        late = TalkStream(voice, 48_000, ended.append)
        while late.open:  # nothing comes: the limit is one in time, too
            await asyncio.sleep(0.05)
    with Client(name="talker") as client:
        voice = Voice(client)
        with pytest.raises(TalkError, match="no speech node runs"):
            TalkStream(voice, 16_000, ended.append)
        found = [peer.node.create_subscription(kind, topic, take, 10) for kind, topic, take in (
            (Bool, "push_to_talk", lambda message: None),
            (Int16MultiArray, "talk_audio", lambda message: pieces.append(list(message.data))))]
        peer.wait_for(lambda: voice.state()[0] and voice._audio.get_subscription_count(), "the connection")
        asyncio.run(talk(voice))
        peer.wait_for(lambda: len(pieces) == 4, "what was handed over")
    for subscription in found:
        peer.node.destroy_subscription(subscription)
    assert pieces[0] == [1, 2] and len(pieces[1]) == 16_000 and pieces[2:] == [[], []]
    assert ended == ["ended after 1 seconds, which is the limit"] * 2

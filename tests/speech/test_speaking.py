"""Texts as they are read out, and a voice that falls silent at once."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ros_gpt4roi.speech.speaking import Speaker, SpeakingOptions, spoken_form

LIMIT_S = 60.0


@pytest.mark.parametrize(("text", "spoken"), [
    ("Region 2 is a red mug.", "Region two is a red mug."),
    ("regions 3 and 12", "regions three and 12"),
    ("region mug_3, e.g. 5 cm", "region mug three, for example 5 centimetres"),
    ("mug_3 is left of trk-07", "mug three is left of T R K zero seven"),
    ("#4 has 640x480 px", "number four has 640 by 480 pixels"),
    ("A ball & a box, approx. 2 m", "A ball and a box, approximately 2 metres"),
    ("**bold** `code`\n text", "bold code text"),
    ("It is 50% full, at 20°.", "It is 50 percent full, at 20 degrees ."),
    ("", "")])
def test_texts_are_read_as_words(text: str, spoken: str) -> None:
    assert spoken_form(text) == spoken


def test_a_long_text_is_cut() -> None:
    assert len(spoken_form("word " * 10_000)) <= 2000


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@pytest.fixture
def reports() -> list[str]:
    return []


def speaker(reports: list[str], command: str, limit_s: float = 60.0, enabled: bool = True) -> Speaker:
    return Speaker(SpeakingOptions(enabled=enabled, command=command, limit_s=limit_s), reports.append)


def test_the_program_reads_the_text(tmp_path: Path, reports: list[str]) -> None:
    voice = speaker(reports, f"tee {tmp_path / 'said'}")
    voice.say("region 2")
    until(lambda: not voice.speaking, "the end of the speech")
    assert (tmp_path / "said").read_text() == "region two" and reports == []
    assert not voice.stop()  # it has ended by itself


def test_a_newer_text_takes_the_place_of_an_older_one(tmp_path: Path, reports: list[str]) -> None:
    # Every voice says its text and goes on for long, with a child that would be left behind.
    voice = speaker(reports, f"sh -c 'cat >> {tmp_path}/said; sleep 600 & echo $! >> {tmp_path}/children; wait'")
    children = tmp_path / "children"
    for number in (1, 2):
        voice.say(f"answer {number}")
        until(lambda: children.exists() and len(children.read_text().split()) == number, "the speech")  # noqa: B023
    assert (tmp_path / "said").read_text() == "answer 1answer 2"
    assert voice.stop()
    until(lambda: not any(running(pid) for pid in children.read_text().split()), "the end of what it had started")
    assert not voice.speaking and reports == []


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_does_not_listen_to_sigterm_is_ended(tmp_path: Path, reports: list[str]) -> None:
    voice = speaker(reports, f"sh -c \"trap '' TERM; echo ready > {tmp_path}/ready; while :; do sleep 0.05; done\"")
    voice.say("a long answer")
    until((tmp_path / "ready").exists, "the program")
    assert voice.stop()
    until(lambda: not voice.speaking, "its end")


def test_what_goes_wrong_is_reported(reports: list[str]) -> None:
    missing = speaker(reports, "no-such-voice --stdin")
    assert "no-such-voice" in missing.missing()
    missing.say("hello")
    assert "cannot be started" in reports[0]
    failing = speaker(reports, "sh -c 'echo no sound card >&2; exit 3'")
    failing.say("hello")
    until(lambda: len(reports) == 2, "a report")
    assert "ended with status 3: no sound card" in reports[1]
    endless = speaker(reports, "sleep 600", limit_s=0.2)
    endless.say("hello")
    until(lambda: len(reports) == 3, "a report")
    assert "spoke for 0.2 s; it was broken off" in reports[2]


def test_it_is_silent_unless_it_is_asked_to_speak(tmp_path: Path, reports: list[str]) -> None:
    voice = speaker(reports, f"touch {tmp_path}/spoke", enabled=False)
    voice.say("hello")
    assert not voice.speaking and voice.missing() == "" and reports == []
    assert not (tmp_path / "spoke").exists()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_ng_makes_sound(tmp_path: Path, reports: list[str]) -> None:
    voice = speaker(reports, f"{SpeakingOptions().command} -w {tmp_path}/said.wav")
    voice.say("Region 2 is a red mug.")
    until(lambda: not voice.speaking, "the end of the speech")
    assert reports == [] and (tmp_path / "said.wav").stat().st_size > 20_000
    assert subprocess.run(["head", "-c", "4", tmp_path / "said.wav"], capture_output=True).stdout == b"RIFF"

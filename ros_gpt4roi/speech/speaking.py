"""Speaking by a program that reads text: espeak-ng, Piper, or any other."""
from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ros_gpt4roi.configuration import Configuration, setting

_GENTLE_S = 0.1  # between asking a program to end and ending it
_LONGEST_TEXT = 2000


@dataclass(frozen=True)
class SpeakingOptions(Configuration):
    """Whether and how answers are spoken."""

    enabled: bool = setting(False, "Speak the answers.")
    command: str = setting("espeak-ng --stdin", "Program that speaks what it reads on its standard input, with its "
                                                "arguments as in a shell, but without one.", fixed=True)
    limit_s: float = setting(60.0, "Longer speech is broken off.", more_than=0, at_most=600, unit="seconds")
    barge_in: bool = setting(True, "Speech stops the voice and is heard. false, for a microphone that hears the "
                                   "robot's own voice: nothing is heard while it speaks.")


class Speaker:
    """Speaks one text at a time; a newer one takes an older one's place at once. Thread-safe.

    Args:
        options: The program, and its limit.
        report: Called with a sentence when speaking fails.
    """

    def __init__(self, options: SpeakingOptions, report: Callable[[str], None]) -> None:
        self._options, self._report = options, report
        self._command = shlex.split(options.command)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_s = -float("inf")

    def missing(self) -> str:
        """Why nothing can be spoken; empty where it can."""
        if not self._options.enabled or self._command and shutil.which(self._command[0]):
            return ""
        return f"speaking.command is {self._options.command!r}, which is not installed; nothing is spoken"

    @property
    def speaking(self) -> bool:
        """Whether a text is being spoken."""
        process = self._process
        return process is not None and process.poll() is None

    def say(self, text: str) -> None:
        """Begins to speak a text, in place of what is being spoken."""
        self.stop()
        if not self._options.enabled or not (text := spoken_form(text)):
            return
        try:
            # In a group of its own, so that whatever it starts ends with it.
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, start_new_session=True)
        except (OSError, IndexError) as error:
            self._report(f"{self._options.command!r} cannot be started: {error or 'it is empty'}")
            return
        with self._lock:
            before, self._process = self._process, process
        if before is not None:  # of another thread, at the same time
            _end(before)
        threading.Thread(target=self._attend, args=(process, text), name="speaking", daemon=True).start()

    def stop(self) -> bool:
        """Ends what is being spoken, within some 100 ms. Returns whether something was."""
        with self._lock:
            process, self._process = self._process, None
        return process is not None and _end(process)

    def _attend(self, process: subprocess.Popen[bytes], text: str) -> None:
        try:
            _, errors = process.communicate(text.encode(), timeout=self._options.limit_s)
        except subprocess.TimeoutExpired:
            _end(process)
            process.communicate()
            self._report(f"{self._options.command!r} spoke for {self._options.limit_s:g} s; it was broken off")
            return
        except (OSError, ValueError):  # it was ended meanwhile
            return
        if process.returncode > 0:
            lines = errors.decode(errors="replace").strip().splitlines() or [""]
            self._report(f"{self._options.command!r} ended with status {process.returncode}: {lines[-1][:200]}")


def _end(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        end = time.monotonic() + _GENTLE_S
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        if process.poll() is not None and number is signal.SIGTERM:
            # What it has started may be there yet.
            continue
    return True


_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_SHORT = {"e.g.": "for example", "i.e.": "that is", "approx.": "approximately", "vs.": "versus", "etc.": "and so on",
          "no.": "number", "nr.": "number", "&": "and", "%": " percent", "°": " degrees"}
_UNITS = {"mm": "millimetres", "cm": "centimetres", "m": "metres", "km": "kilometres", "g": "grams", "kg": "kilograms",
          "ms": "milliseconds", "s": "seconds", "px": "pixels", "hz": "hertz", "l": "litres", "ml": "millilitres"}
_UNIT = re.compile(rf"(?<=\d) ?({'|'.join(sorted(_UNITS, key=len, reverse=True))})\b", re.IGNORECASE)
_ID = re.compile(r"\b(regions?|number) #?([A-Za-z0-9_./-]*[A-Za-z0-9])|#(\d+)", re.IGNORECASE)
_MADE_UP = re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[A-Za-z0-9]+(?:[_-]?[A-Za-z0-9]+)*(?![\w-])")


def spoken_form(text: str) -> str:
    """A text as it is to be read out: regions' ids, units and abbreviations as words, no signs that would be spelled.

    "region mug_3, e.g. 5 cm" becomes "region mug three, for example 5 centimetres".
    """
    text = " ".join(text[:_LONGEST_TEXT].split())
    for short, words in _SHORT.items():
        text = re.sub(rf"(?<!\w){re.escape(short)}", words, text, flags=re.IGNORECASE) if short[0].isalpha() else \
            text.replace(short, f" {words.strip()} ")
    text = _UNIT.sub(lambda found: f" {_UNITS[found[1].lower()]}", text)
    text = re.sub(r"(\d) ?[x×] ?(\d)", r"\1 by \2", text)
    text = _ID.sub(lambda found: f"{found[1] or 'number'} {_name(found[2] or found[3])}", text)
    text = _MADE_UP.sub(lambda found: _name(found[0]) if re.search(r"[_-]|[A-Za-z]\d", found[0]) else found[0], text)
    text = re.sub(r"[*_`#<>|{}\[\]\\]+", " ", text)
    return " ".join(text.split())


def _name(written: str) -> str:
    """An id in words: "mug_3" is "mug three"; a number by itself up to twelve is a word, else each digit is read."""
    parts = re.findall(r"[A-Za-z]+|\d+", written)
    return " ".join(_number(part) if part.isdigit() else part if len(part) > 3 or re.search("[aeiouy]", part.lower())
                    else " ".join(part.upper()) for part in parts)


def _number(digits: str) -> str:
    if digits[0] != "0" and int(digits) < len(_WORDS):
        return _WORDS[int(digits)]
    return digits if digits[0] != "0" and len(digits) <= 4 else " ".join(_WORDS[int(digit)] for digit in digits)

